"""Random removal: the right number of patches, other ones for each image, each as often as any."""

import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import classifier
from shapjax.games.removal import Constant
from shapjax.metrics import perturbation, robustness


def test_the_right_number_of_patches_goes_each_as_often():
    """Class 1 is predicted while patch 0 is visible: the accuracy is the share of visible patches."""
    model = classifier.wrap(lambda x: jnp.stack([jnp.full(len(x), 0.5), x[:, 0, 0, 0]], axis=1), grid=(4, 4),
                            removal=Constant(0.0))
    correct = robustness.random_removal(
        model, jnp.ones((2000, 4, 4, 1)), jnp.ones(2000, int), jax.random.key(0))
    assert correct.shape == (2000, 10)
    np.testing.assert_allclose(correct.mean(axis=0), 1 - perturbation.removed_counts(16) / 16, atol=0.03)
    assert (np.diff(correct, axis=1) <= 0).all()  # nested: what has gone stays away


def test_an_image_loses_the_same_patches_in_any_batch(example):
    keys = classifier.row_keys(jax.random.key(1), 6)
    whole = robustness.random_removal(example.model, example.images, example.targets, jax.random.key(1))
    part = robustness.random_removal(example.model, example.images[3:], example.targets[3:], keys[3:])
    np.testing.assert_array_equal(whole[3:], part)
