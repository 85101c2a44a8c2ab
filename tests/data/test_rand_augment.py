"""RandAugment: every operation is Pillow's, and all are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from shapjax.data import rand_augment

SIZE = (20, 26)  # height, width
LEVELS = (0.0, 0.35, -0.35, 0.9, -1.0, 1.0)


def photo(channels):
    """Returns smooth colors with noise; the values fill only a part of the range."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 20
    smooth = np.stack([100 + 80 * np.sin(3 * x + y), 40 + 90 * y, 150 - 60 * x * y], axis=-1)
    noisy = smooth + np.random.default_rng(0).normal(0, 8, smooth.shape)
    return noisy.clip(10, 240).astype(np.uint8)[..., :channels]


def with_pillow(pixels, name, level):
    image = Image.fromarray(pixels.squeeze())
    height, width = SIZE

    def warp(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)

    def enhance(kind):
        return kind(image).enhance(1 + 0.9 * level)

    changed = {
        "identity": lambda: image,
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(abs(level) * 256)),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(abs(level) * 4)),
        "color": lambda: enhance(ImageEnhance.Color),
        "contrast": lambda: enhance(ImageEnhance.Contrast),
        "brightness": lambda: enhance(ImageEnhance.Brightness),
        "sharpness": lambda: enhance(ImageEnhance.Sharpness),
        "rotate": lambda: image.rotate(30 * level, Image.Resampling.NEAREST),
        "shear_x": lambda: warp(1, 0.3 * level, 0, 0, 1, 0),
        "shear_y": lambda: warp(1, 0, 0, 0.3 * level, 1, 0),
        "translate_x": lambda: warp(1, 0, level * 150 / 331 * width, 0, 1, 0),
        "translate_y": lambda: warp(1, 0, 0, 0, 1, level * 150 / 331 * height),
    }[name]()
    return np.asarray(changed).reshape(pixels.shape)


all_operations = jax.jit(jax.vmap(rand_augment.apply, in_axes=(None, 0, None)))


def every(pixels, level):
    """Applies each operation at one level: uint8 [14, H, W, C]."""
    return np.asarray(all_operations(pixels, jnp.arange(len(rand_augment.OPERATIONS)), level))


@pytest.mark.parametrize("pixels", [photo(3), photo(1), np.full((*SIZE, 3), 7, np.uint8)], ids=["rgb", "gray", "flat"])
def test_every_operation_is_pillows(pixels):
    """A few pixels may differ by 1: Pillow truncates in another precision than float32. Warps round places, so one or
    two edge pixels may come from the neighbor. All others are equal."""
    for level in LEVELS:
        for name, ours in zip(rand_augment.OPERATIONS, every(pixels, level), strict=True):
            off = np.abs(ours.astype(int) - with_pillow(pixels, name, level))
            warped = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
            assert warped or off.max() <= 1, (name, level)
            assert (off > 0).mean() <= (0.005 if warped else 0.02), (name, level)


def test_operations_without_strength_do_not_ask_for_it_and_the_others_do_nothing_at_0():
    pixels = photo(3)
    weak = dict(zip(rand_augment.OPERATIONS, every(pixels, 0.0), strict=True))
    strong = dict(zip(rand_augment.OPERATIONS, every(pixels, 1.0), strict=True))
    for name in rand_augment.OPERATIONS:
        if name in ("autocontrast", "equalize"):
            np.testing.assert_array_equal(weak[name], strong[name])
            assert (weak[name] != pixels).mean() > 0.5
        else:
            np.testing.assert_array_equal(weak[name], pixels)
            assert (strong[name] != pixels).any() == (name != "identity")


def test_one_operation_is_drawn_uniformly_with_its_direction():
    """Each image is the result of one operation at ± the magnitude; each of 14 has its share of 420 draws."""
    pixels = photo(3)
    keys = jax.random.split(jax.random.key(0), 420)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: rand_augment.rand_augment(
        pixels, key, operations=1, magnitude=5.0)))(keys))
    known = {}
    for level in (0.5, -0.5):
        for name, image in zip(rand_augment.OPERATIONS, every(pixels, level), strict=True):
            known.setdefault(image.tobytes(), set()).add((name, level))
    found = [known[image.tobytes()] for image in drawn]
    names = [next(iter(kinds))[0] for kinds in found]
    counts = [names.count(name) for name in rand_augment.OPERATIONS]
    assert min(counts) > 12 and max(counts) < 52, counts  # 30 expected, each within four standard deviations
    assert sum({("rotate", 0.5)} == kinds for kinds in found) > 3
    assert sum({("rotate", -0.5)} == kinds for kinds in found) > 3


def test_several_operations_follow_one_another():
    pixels = photo(3)
    keys = jax.random.split(jax.random.key(1), 200)
    one, two = (np.asarray(jax.jit(jax.vmap(lambda key, n=n: rand_augment.rand_augment(
        pixels, key, operations=n, magnitude=9.0)))(keys)) for n in (1, 2))
    untouched = [(images == pixels).all(axis=(1, 2, 3)).mean() for images in (one, two)]
    assert abs(untouched[0] - 1 / 14) < 0.06 and untouched[1] < 0.04
    assert len({image.tobytes() for image in two}) > 2 * 14  # more than single operations could make
