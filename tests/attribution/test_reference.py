"""Random attributions and phi, the model's own."""

import jax
import numpy as np
import pytest

from shapjax.attribution import reference


def test_random_attributions_depend_on_the_image_s_own_key_alone(coalition_game):
    keys = jax.random.split(jax.random.key(0), 3)
    whole = reference.random(coalition_game.model, coalition_game.images, coalition_game.targets, keys)
    one = reference.random(coalition_game.model, coalition_game.images[1:2], coalition_game.targets[1:2], keys[1:2])
    np.testing.assert_array_equal(one[0], whole[1])
    assert whole.shape == (3, 8) and len(np.unique(whole)) == 24


@pytest.mark.parametrize("batch_size", [2, 3])
def test_phi_is_that_of_the_target(coalition_game, batch_size):
    weights = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    model = coalition_game.model.replace(phi_fn=lambda params, images: images.reshape(len(images), 8, 1) * weights)
    phi = reference.phi(model, coalition_game.images, coalition_game.targets, batch_size=batch_size)
    expected = coalition_game.images.reshape(3, 8) * weights[:, coalition_game.targets].T
    np.testing.assert_allclose(phi, expected, rtol=1e-6)


def test_a_model_that_does_not_explain_itself_has_no_phi(coalition_game):
    with pytest.raises(ValueError, match="no phi .*not a self-explaining model"):
        reference.phi(coalition_game.model, coalition_game.images, coalition_game.targets)
