"""Blacking out pixels, against a loop over images and fractions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.errors import UserError
from shapjax.games import classifier
from shapjax.games.removal import Noise
from shapjax.metrics import localization, pixel_perturbation

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    """Normalizes pixels itself; its own removal is another."""
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


def test_attributions_of_another_grid_are_refused(model):
    with pytest.raises(UserError, match=r"attributions have shape \(1, 9\), expected \(1, 16\)"):
        pixel_perturbation.positive_perturbation_pixels(
            model, np.zeros((1, 8, 8, 2), np.float32), np.zeros((1, 9)), np.zeros(1, int), KEY)
