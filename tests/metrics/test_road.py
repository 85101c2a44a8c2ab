"""ROAD: predictions on imputed images, whatever the model's own removal."""

import jax
import numpy as np

from shapjax.games.removal import NoisyLinear, hidden_pixels
from shapjax.metrics import perturbation, road


def test_removed_patches_are_imputed_then_classified(example, example_order):
    imputation = NoisyLinear(noise=0.5, seed=3)
    got = road.road(
        example.model, example.images, example_order, example.targets, batch_size=16, imputation=imputation)
    assert got.shape == (6, 10) and got.dtype == np.float32
    rank = np.argsort(np.asarray(example_order), axis=1)
    impute = jax.jit(imputation)
    for i, count in enumerate(perturbation.removed_counts(16)):
        images = impute(example.images, hidden_pixels(rank >= count, (4, 4), (4, 4)))
        right = np.argmax(example.model.logits(images), axis=-1) == example.targets
        np.testing.assert_array_equal(got[:, i], right)


def test_without_removal_it_is_the_accuracy(example, example_order):
    predictions = np.argmax(example.model.logits(example.images), axis=-1)
    assert (road.road(example.model, example.images, example_order, predictions)[:, 0] == 1).all()
    assert (road.road(example.model, example.images, example_order, (predictions + 1) % 3)[:, 0] == 0).all()
