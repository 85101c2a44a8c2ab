"""Blocks of images are spread over all devices, and every image has its own row."""

import jax
import numpy as np
import pytest

from shapjax.evaluation.over_images import OverImages

DEVICES = 8


@pytest.mark.parametrize("block", [1, 16, 100])
def test_every_image_has_its_own_row_whatever_the_block_and_the_devices(rng, block):
    def fn(weights, images, extra):
        draw = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(extra["keys"])
        return {"scores": images @ weights, "noise": draw, "index": extra["index"]}

    weights, images = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(19, 3)).astype(np.float32)
    extra = {"keys": jax.random.split(jax.random.key(0), 19), "index": np.arange(19)}
    over, seen = OverImages(fn, block=block), []
    out = over(weights, images, extra, done=seen.append)
    np.testing.assert_allclose(out["scores"], images @ weights, atol=1e-5)
    np.testing.assert_array_equal(out["index"], np.arange(19))
    np.testing.assert_array_equal(out["noise"], fn(weights, images, extra)["noise"])
    assert sum(seen) == 19 and over.block % DEVICES == 0 and over.block >= block
    assert over.peak_bytes > 0


def test_a_function_over_images_is_compiled_once_and_beforehand_if_asked(rng):
    traces = []

    def fn(model, images):
        traces.append(images.shape)
        return images.sum(axis=1)

    over = OverImages(fn, block=8)
    over.compile((), np.zeros((19, 4), np.float32))
    assert traces == [(1, 4)]  # one row a device
    for rows in (8, 19, 3, 0):
        images = rng.normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(over((), images), images.sum(axis=1), atol=1e-5)
    assert traces == [(1, 4)]
