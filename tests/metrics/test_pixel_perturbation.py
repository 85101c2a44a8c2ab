"""Blacking out pixels, against a loop over images and fractions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import classifier
from shapjax.games.removal import Noise
from shapjax.metrics import localization, pixel_perturbation

KEY = jax.random.key(0)
pixel_order = jax.jit(pixel_perturbation._pixel_order)


@pytest.fixture(scope="module")
def model():
    """Returns a model that normalizes pixels itself and has another removal."""
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=(8 * 8 * 2, 3)), jnp.float32)
    return classifier.wrap(lambda w, x: jnp.sin(((x - 0.5) / 0.25).reshape(len(x), -1)) @ w, weights, grid=(4, 4),
                           removal=Noise())


def test_pixels_are_blacked_out_in_the_order_of_the_upsampled_map(model, rng):
    images = rng.uniform(size=(3, 8, 8, 2)).astype(np.float32)
    attributions, labels = rng.normal(size=(3, 16)).astype(np.float32), rng.integers(0, 3, 3)
    maps = np.asarray(localization.upsample(attributions, (4, 4), (8, 8), num_images=3)).reshape(3, 64)
    removed = [0, 6, 13, 19, 26, 32, 38, 45, 51, 58]
    for fn, sign in ((pixel_perturbation.positive_perturbation_pixels, -1),
                     (pixel_perturbation.negative_perturbation_pixels, 1)):
        correct = np.zeros((3, 10))
        for b in range(3):
            for i, count in enumerate(removed):
                black = images[b].copy().reshape(64, 2)
                black[np.argsort(sign * maps[b])[:count]] = 0
                correct[b, i] = np.argmax(model.logits(black.reshape(1, 8, 8, 2))) == labels[b]
        got = fn(model, images, attributions, labels, KEY, batch_size=4)
        np.testing.assert_allclose(got, 100 * np.trapezoid(correct, dx=0.1, axis=1), rtol=1e-5)


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7, -12.34])
def test_pixels_of_equal_patches_are_ranked_at_random_not_by_rounding(value, rng):
    """They have the order of ties, whatever their value and the patches around them."""
    images = jnp.zeros((2, 56, 56, 1))
    of_7x7 = classifier.wrap(lambda x: x.sum(axis=(1, 2)), grid=(7, 7), removal=Noise())
    ties = np.asarray(pixel_order(of_7x7, images, np.zeros((2, 49), np.float32), KEY))
    same = np.full((2, 49), value, np.float32)
    np.testing.assert_array_equal(pixel_order(of_7x7, images, same, KEY), ties)
    others = rng.normal(size=(2, 7, 7)).astype(np.float32)
    others[:, 1:5, 1:5] = value  # equal pixels from the center of patch 1 to that of patch 4
    order = np.asarray(pixel_order(of_7x7, images, others.reshape(2, 49), KEY))
    plateau = np.zeros((56, 56), bool)
    plateau[12:36, 12:36] = True
    for row, tied in zip(order, ties, strict=True):
        np.testing.assert_array_equal(row[plateau.ravel()[row]], tied[plateau.ravel()[tied]])


def test_attributions_of_another_grid_are_refused(model):
    with pytest.raises(ValueError, match=r"attributions have shape \(1, 9\), expected \(1, 16\)"):
        pixel_perturbation.positive_perturbation_pixels(
            model, np.zeros((1, 8, 8, 2), np.float32), np.zeros((1, 9)), np.zeros(1, int), KEY)
