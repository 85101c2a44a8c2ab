"""Whatever people have in hand becomes the same pixels as its file would, or one line that says what is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from shapjax.data.images import read_image
from shapjax.data.inputs import as_inputs
from shapjax.errors import UserError

SHAPE = (12, 16, 3)
LARGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
EXACT = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    Image.fromarray(LARGE).save(tmp_path / "large.png")
    return tmp_path / "large.png"


@pytest.mark.parametrize("kind", ["path", "string", "pillow", "array", "floats", "list", "batch"])
def test_every_kind_gives_the_pixels_of_the_file(path, kind):
    given = {"path": path, "string": str(path), "pillow": Image.fromarray(LARGE), "array": LARGE, "floats": LARGE / 255,
             "list": [path], "batch": LARGE[None]}[kind]
    got = as_inputs(given, image_shape=SHAPE)
    np.testing.assert_array_equal(got.images, read_image(path, image_shape=SHAPE)[None])
    assert got.images.dtype == np.uint8 and got.changes == ("center cut out of 60x40 and resized to 16x12",)
    assert got.names == ((str(path),) if kind in ("path", "string", "list") else ("image 0",))


def test_images_of_the_models_size_stay_as_they_are():
    for given in (EXACT, EXACT[None], [EXACT], Image.fromarray(EXACT)):
        got = as_inputs(given, image_shape=SHAPE)
        np.testing.assert_array_equal(got.images, EXACT[None])
        assert got.changes == ("as given",)
    narrow = as_inputs(jnp.asarray(EXACT / 255, jnp.bfloat16), image_shape=SHAPE)
    np.testing.assert_allclose(narrow.images[0], EXACT / 255, atol=4e-3)
    floats = EXACT.astype(np.float64) / 255
    got = as_inputs(floats, image_shape=SHAPE)
    assert got.images.dtype == np.float32
    np.testing.assert_allclose(got.images[0], floats, rtol=1e-6)


def test_a_list_may_mix_kinds_and_bytes_become_floats_beside_floats(path):
    got = as_inputs([path, EXACT / 255, EXACT], image_shape=SHAPE)
    assert got.images.dtype == np.float32 and got.images.shape == (3, *SHAPE)
    assert got.names == (str(path), "image 1", "image 2")
    np.testing.assert_allclose(255 * got.images[1:], [EXACT, EXACT], atol=1e-3)
    np.testing.assert_allclose(255 * got.images[0], read_image(path, image_shape=SHAPE), atol=1e-3)


def test_gray_color_and_transparency_become_what_the_model_takes():
    gray = np.full((12, 16), 77, np.uint8)
    assert (as_inputs(gray, image_shape=SHAPE).images == 77).all()
    assert as_inputs(LARGE, image_shape=(12, 16, 1)).images.shape == (1, 12, 16, 1)
    clear = np.zeros((12, 16, 4), np.uint8)  # all transparent: the white ground
    assert (as_inputs(clear, image_shape=SHAPE).images == 255).all()


def test_orientation_is_applied_to_pillows_images_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(LARGE).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        got = as_inputs(picture, image_shape=SHAPE)
    np.testing.assert_array_equal(got.images[0], read_image(tmp_path / "turned.png", image_shape=SHAPE))
    assert got.changes == ("turned upright, center cut out of 40x60 and resized to 16x12",)


def test_a_picture_that_its_owner_opened_stays_as_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 1), np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as picture:
        one, other = (as_inputs(picture, image_shape=(12, 16, 1)) for _ in range(2))
        assert picture.size == (1200, 900)
    assert one.changes == ("center cut out of 1200x900 and resized to 16x12",)
    np.testing.assert_array_equal(one.images, other.images)


def test_a_color_picture_is_said_to_be_made_gray():
    assert as_inputs(EXACT, image_shape=(12, 16, 1)).changes == ("made gray",)
    assert as_inputs(EXACT[..., :1], image_shape=(12, 16, 3)).changes == ("as given",)


@pytest.mark.parametrize(("given", "message"), [
    ([], "there is no image"), (np.zeros((0, 12, 16, 3), np.uint8), "there is no image"), (7, "the images are int64"),
    ({"a": 1}, "the images are dict"), (np.zeros(SHAPE, np.int64), "image 0 is int64 from 0 to 0, expected uint8"),
    ([EXACT, 2.0 * np.ones(SHAPE)], "image 1 is float64 from 2.0 to 2.0"), ([[1, 2]], "image 0 is list"),
    ([np.full(SHAPE, np.nan)], "image 0 is float"), ("missing.png", "no image file missing.png"),
    (np.zeros((5, 7, 2), np.uint8), "expected .H, W, C. with C of 1, 3 or 4"),
])
def test_what_is_no_image_is_one_line(given, message):
    with pytest.raises(UserError, match=message) as error:
        as_inputs(given, image_shape=SHAPE)
    assert "\n" not in str(error.value)


def test_channels_that_cannot_be_resized_are_given_exactly():
    exact = np.zeros((4, 4, 2), np.uint8)
    assert as_inputs(exact, image_shape=(4, 4, 2)).images.shape == (1, 4, 4, 2)
    with pytest.raises(UserError, match="images of 2 channels cannot be resized"):
        as_inputs(LARGE, image_shape=(4, 4, 2))
