"""Boxes lie inside the image; the center and random-resized crops are where the papers put them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapjax.data.boxes import central_box, crop_box

SIDES = st.integers(1, 4000)
UNIT = st.floats(0, 1)


@given(SIDES, SIDES, st.tuples(st.floats(0.01, 1), st.floats(0.5, 2), UNIT, UNIT))
def test_crops_lie_inside_and_have_the_area_and_aspect_asked_for_where_these_fit(width, height, crop):
    left, top, right, bottom = crop_box(width, height, crop)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    area, aspect, y, x = crop
    w, h = math.sqrt(area * width * height * aspect), math.sqrt(area * width * height / aspect)
    if 1 <= w <= width and 1 <= h <= height:
        assert (right - left) * (bottom - top) == pytest.approx(area * width * height, rel=1e-6)
        assert (right - left) / (bottom - top) == pytest.approx(aspect, rel=1e-6)
    assert left == pytest.approx(x * (width - (right - left)), abs=1e-6)
    assert top == pytest.approx(y * (height - (bottom - top)), abs=1e-6)


def test_a_crop_of_all_the_area_with_the_images_aspect_is_the_image():
    assert crop_box(500, 375, (1.0, 500 / 375, 0.3, 0.9)) == pytest.approx((0, 0, 500, 375))


@given(SIDES, SIDES, st.integers(1, 300), st.integers(1, 300))
def test_the_largest_central_box_touches_two_sides_and_has_the_aspect(width, height, h, w):
    left, top, right, bottom = central_box(width, height, shape=(h, w))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert left + right == pytest.approx(width) and top + bottom == pytest.approx(height)
    assert (right - left, bottom - top) == pytest.approx((width, bottom - top)) or top == pytest.approx(0)
    if right - left > 1.01 and bottom - top > 1.01:  # no part is smaller than a pixel
        assert (right - left) * h == pytest.approx((bottom - top) * w)


def test_the_evaluation_cut_is_that_of_imagenet():
    """It resizes the shorter side to 256 and takes the central 224: 375·224/256 pixels a side of 500x375."""
    side = 375 * 224 / 256
    assert central_box(500, 375, shape=(224, 224), share=0.875) == pytest.approx(
        ((500 - side) / 2, (375 - side) / 2, (500 + side) / 2, (375 + side) / 2))
    assert central_box(224, 224, shape=(224, 224), share=0.875) == (0, 0, 224, 224)
