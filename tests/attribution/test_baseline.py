"""The random floor and a self-explaining model's own votes."""

import jax
import numpy as np
import pytest

from shapjax.attribution import baseline
from shapjax.errors import UserError


def test_random_attributions_depend_on_the_image_s_own_key_alone(coalition_game):
    keys = jax.random.split(jax.random.key(0), 3)
    whole = baseline.random(coalition_game.model, coalition_game.images, coalition_game.targets, keys)
    one = baseline.random(coalition_game.model, coalition_game.images[1:2], coalition_game.targets[1:2], keys[1:2])
    np.testing.assert_array_equal(one[0], whole[1])
    assert whole.shape == (3, 8) and len(np.unique(whole)) == 24


@pytest.mark.parametrize("batch_size", [2, 3])
def test_phi_is_the_votes_for_the_target(coalition_game, batch_size):
    votes = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model = coalition_game.model.replace(phi_fn=lambda params, images: images.reshape(len(images), 8, 1) * votes)
    phi = baseline.phi(model, coalition_game.images, coalition_game.targets, batch_size=batch_size)
    expected = coalition_game.images.reshape(3, 8) * votes[:, coalition_game.targets].T
    np.testing.assert_allclose(phi, expected, rtol=1e-6)


def test_a_model_without_votes_has_no_phi(coalition_game):
    with pytest.raises(UserError, match="votes"):
        baseline.phi(coalition_game.model, coalition_game.images, coalition_game.targets)
