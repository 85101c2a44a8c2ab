"""Augmentation: each change is what it claims, costs nothing when off, and depends on its example's key alone."""

import functools
import itertools

import jax
import jax.extend
import numpy as np
import pytest

from shapjax.data import augmentation
from shapjax.data.augmentation import AugmentSettings, augment
from shapjax.errors import UserError

ALL = AugmentSettings(crop_area=0.5, max_shift=2, flip=True, rand_augment=1, color_jitter=0.3, erase=0.5, mixup=0.8,
                      cutmix=1.0)
K = 3


def batch(n, *, size=(8, 10), channels=3):
    """Returns images without black, labels, keys."""
    rng = np.random.default_rng(0)
    return (rng.integers(1, 256, (n, *size, channels), np.uint8), (np.arange(n) % K).astype(np.int32),
            jax.random.split(jax.random.key(7), n))


@functools.cache
def compiled(settings):
    return jax.jit(functools.partial(augment, num_classes=K, settings=settings))


def run(images, labels, keys, **settings):
    return tuple(map(np.asarray, compiled(AugmentSettings(**settings))(images, labels, keys)))


def primitives(settings):
    """Returns the program and the names of all its operations, those of inner functions included."""
    args = batch(4)
    closed = jax.make_jaxpr(lambda *a: augment(*a, num_classes=K, settings=settings))(*args)

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from walk(inner)

    return closed.jaxpr, set(walk(closed.jaxpr))


def test_what_is_off_costs_nothing():
    jaxpr, names = primitives(AugmentSettings())
    assert jaxpr.outvars[0] is jaxpr.invars[0]  # the images are handed through
    assert jaxpr.invars[2] not in {v for e in jaxpr.eqns for v in e.invars}  # nothing is drawn
    _, names = primitives(AugmentSettings(flip=True))
    assert "rev" in names and not names & {"gather", "scatter-add", "dot_general", "pad", "while"}
    _, names = primitives(AugmentSettings(max_shift=2))
    assert "rev" not in names and not names & {"scatter-add", "dot_general", "while"}


def test_nothing_on_gives_the_images_and_one_hot_targets():
    images, labels, keys = batch(6)
    out, targets = run(images, labels, keys)
    np.testing.assert_array_equal(out, images)
    assert out.dtype == np.uint8 and targets.dtype == np.float32
    np.testing.assert_array_equal(targets, np.eye(K)[labels])


@pytest.mark.parametrize("settings, dtype", [({"flip": True, "erase": 0.5, "cutmix": 1.0}, "uint8"),
                                             ({"color_jitter": 0.4}, "float32"), ({"mixup": 0.2}, "float32"),
                                             (ALL._asdict(), "float32")])
def test_images_are_pixels_or_floats_up_to_1_and_targets_shares(settings, dtype):
    out, targets = run(*batch(4), **settings)
    assert out.dtype == dtype and out.shape == (4, 8, 10, 3)
    assert dtype == "uint8" or (out.min() >= 0 and 0.3 < out.max() <= 1)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)


def test_the_result_does_not_depend_on_how_the_batch_is_split_into_even_shares():
    images, labels, keys = batch(8)
    whole = run(images, labels, keys, **ALL._asdict())
    halves = [run(*(x[half] for x in (images, labels, keys)), **ALL._asdict()) for half in (slice(4), slice(4, 8))]
    for one, joined in zip(whole, zip(*halves, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(joined), one, atol=1e-6)


def test_without_mixing_an_example_depends_on_its_own_key_alone():
    images, labels, keys = batch(6)
    settings = ALL._replace(rand_augment=0, mixup=0.0, cutmix=0.0)._asdict()
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(run(images[order], labels[order], keys[order], **settings)[0],
                               run(images, labels, keys, **settings)[0][order], atol=1e-6)


def test_a_change_is_drawn_alike_whatever_else_is_on():
    images, labels, keys = batch(400, channels=1)
    flipped, out = run(images, labels, keys, flip=True)[0], run(images, labels, keys, flip=True, erase=0.4)[0]
    assert (out == flipped).all(axis=(1, 2, 3)).mean() > 0.5  # those that were not erased


def zero_filled_roll(image, dy, dx):
    moved = np.roll(image, (dy, dx), (0, 1))
    moved[:max(dy, 0)] = 0
    moved[len(moved) + min(dy, 0):] = 0
    moved[:, :max(dx, 0)] = 0
    moved[:, moved.shape[1] + min(dx, 0):] = 0
    return moved


def test_each_image_is_moved_within_range_black_moves_in_and_all_moves_occur():
    images, labels, keys = batch(400, channels=1)
    moves = list(itertools.product(range(-2, 3), repeat=2))
    seen = {}
    for image, moved in zip(images, run(images, labels, keys, max_shift=2)[0], strict=True):
        fits = [move for move in moves if (zero_filled_roll(image, *move) == moved).all()]
        assert len(fits) == 1
        seen[fits[0]] = seen.get(fits[0], 0) + 1
    assert len(seen) == 25
    assert max(seen.values()) < 3 * 400 / 25  # none is favored


def test_half_of_the_images_are_flipped_left_for_right():
    images, labels, keys = batch(400, channels=1)
    out = run(images, labels, keys, flip=True)[0]
    same, mirrored = ((out == x).all(axis=(1, 2, 3)) for x in (images, images[:, :, ::-1]))
    assert (same ^ mirrored).all() and 160 < mirrored.sum() < 240


def test_a_crop_is_a_part_of_the_image_of_the_asked_area_and_aspect_at_the_size_of_the_whole():
    """On images whose pixels are row (or column) numbers, a crop holds the numbers from its start to its end."""
    n, side = 300, 40
    rows = np.broadcast_to(np.arange(side, dtype=np.uint8)[:, None, None] * 6, (side, side, 1))
    ramps = np.concatenate([rows, rows.transpose(1, 0, 2)], axis=-1)
    out = run(np.broadcast_to(ramps, (n, *ramps.shape)), np.zeros(n, np.int32), batch(n)[2], crop_area=0.3)[0] / 6.0
    inner = slice(4, -4)  # the edge of the image has no neighbor to interpolate with
    y, x = out[:, inner, 5, 0], out[:, 5, inner, 1]
    (height, width), (top, left) = (((v[:, -1] - v[:, 0]) / (side - 9) for v in (y, x)), (y[:, 0], x[:, 0]))
    for v, scale, start in ((y, height, top), (x, width, left)):
        np.testing.assert_allclose(v, start[:, None] + scale[:, None] * np.arange(side - 8), atol=0.35)
        first = start - 4 * scale + 0.5 * (1 - scale)  # of the crop's first pixel, back from the fifth one's middle
        assert (first > -0.4).all() and (first + scale * side < side + 0.4).all()
    area, aspect = height * width, width / height
    assert 0.28 < area.min() < 0.36 and 0.9 < area.max() < 1.03 and abs(area.mean() - 0.64) < 0.04
    assert aspect.min() > 0.72 and aspect.max() < 1.38 and abs(np.log(aspect).mean()) < 0.04


def test_jitter_leaves_the_luminance_of_one_color_to_the_brightness():
    """Contrast scales around the mean luminance, saturation around each pixel's own: one color keeps both."""
    n, weights = 100, np.array([0.299, 0.587, 0.114])
    images = np.broadcast_to(np.array([120, 90, 70], np.uint8), (n, 4, 4, 3))
    out = run(images, np.zeros(n, np.int32), batch(n)[2], color_jitter=0.4)[0]
    factors = (out @ weights).mean(axis=(1, 2)) / (images[0, 0, 0] @ weights / 255)
    assert 0.59 < factors.min() < 0.7 and 1.3 < factors.max() < 1.41
    chroma = np.ptp(out[:, 0, 0], axis=-1) / (factors * 50 / 255)  # contrast times saturation
    assert 0.3 < chroma.min() < 0.6 and 1.4 < chroma.max() < 2
    gray = run(images[..., :1], np.zeros(n, np.int32), batch(n)[2], color_jitter=0.4)[0]
    np.testing.assert_allclose(gray[:, 0, 0, 0] / (120 / 255), factors, rtol=1e-4)


def test_erasing_turns_one_rectangle_of_some_images_into_noise():
    n = 300
    images, labels, keys = batch(n, size=(16, 16))
    out = run(images, labels, keys, erase=0.4)[0]
    changed = (out != images).any(axis=-1)
    erased = changed.any(axis=(1, 2))
    assert 0.3 < erased.mean() < 0.5
    shares = []
    for mask, image in zip(changed[erased], out[erased], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.9  # noise is the pixel itself once in 2^24 draws, and 16x16 boxes are whole
        shares.append(box.size / mask.size)
        if box.size > 40:
            assert image[mask].std() > 40
    assert min(shares) < 0.08 and 0.3 < max(shares) < 0.5


def test_mixup_mixes_neighbors_and_their_targets_in_one_share():
    n = 400
    images, _, keys = batch(n)
    labels = (np.arange(n) % 2).astype(np.int32)
    out, targets = run(images, labels, keys, mixup=0.8)
    lam = targets[np.arange(n), labels]
    assert (lam[::2] == lam[1::2]).all() and len(set(lam)) > n // 2 - 2
    partner = images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
    weight = lam[:, None, None, None]
    np.testing.assert_allclose(out, (weight * images + (1 - weight) * partner) / 255, atol=1e-5)
    assert abs(lam.mean() - 0.5) < 0.07 and abs(lam.std() - 0.31) < 0.03  # Beta(0.8, 0.8)


def test_cutmix_swaps_one_rectangle_and_the_targets_follow_its_area():
    n = 64
    images, _, keys = batch(n)
    labels = (np.arange(n) % 2).astype(np.int32)
    out, targets = run(images, labels, keys, cutmix=1.0)
    partner = images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
    own, others = ((out == x).all(axis=-1) for x in (images, partner))
    assert (own ^ others).all()
    np.testing.assert_allclose(own.mean(axis=(1, 2)), targets[np.arange(n), labels], atol=1e-6)
    assert (others[::2] == others[1::2]).all()  # a swap
    for mask in others[::2]:
        assert (mask == np.outer(mask.any(1), mask.any(0))).all()  # a rectangle
    assert 0.2 < others.mean() < 0.5  # half of the image, less what lies outside of it


def test_with_both_a_pair_meets_one_of_them_half_of_the_time_each():
    n = 400
    images, labels, keys = batch(n)
    out, _ = run(images, labels, keys, mixup=1.0, cutmix=1.0)
    partner = images.reshape(-1, 2, *images.shape[1:])[:, ::-1].reshape(images.shape)
    pixels = np.round(out * 255)
    whole = ((pixels == images) | (pixels == partner)).all(axis=(1, 2, 3))
    assert (whole[::2] == whole[1::2]).all() and 70 < whole[::2].sum() < 130


def test_an_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match="5 images cannot be mixed in pairs"):
        run(*batch(5), cutmix=1.0)


def checked(crops_on_read=False, device_batch=4, **changes):
    return augmentation.settings(AugmentSettings(**changes)._asdict(), crops_on_read=crops_on_read,
                                 image_shape=(8, 10, 3), device_batch=device_batch)


def test_a_source_that_crops_leaves_nothing_to_crop():
    assert checked(crop_area=0.3).crop_area == 0.3
    assert checked(crops_on_read=True, crop_area=0.3, flip=True) == AugmentSettings(flip=True)


@pytest.mark.parametrize("change, message", [
    ({"crop_area": 0.0}, r"augment.crop_area=0.0: expected 0.01 to 1"),
    ({"max_shift": 8}, r"augment.max_shift=8: expected 0 to 7 for images of 8x10"),
    ({"rand_magnitude": 11.0}, r"augment.rand_magnitude=11.0: expected 0 to 10"),
    ({"rand_augment": -1}, r"augment.rand_augment=-1: expected 0 to"),
    ({"color_jitter": 1.2}, r"augment.color_jitter=1.2: expected 0 to 1"),
    ({"erase": float("nan")}, r"augment.erase=nan: expected 0 to 1"),
    ({"mixup": 0.8, "device_batch": 3}, r"augment.mixup mixes neighbors in pairs, but a device has 3 images"),
    ({"cutmix": 0.8, "device_batch": 1}, r"augment.cutmix mixes neighbors"),
])
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        checked(**change)
