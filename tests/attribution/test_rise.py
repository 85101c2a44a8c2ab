"""RISE against its formula and its expectation."""

import jax
import numpy as np
import pytest

from shapjax.attribution import rise
from shapjax.errors import UserError


def test_importance_is_the_mean_output_over_the_coalitions_with_the_patch(coalition_game):
    model, images, targets, values = coalition_game
    probability = np.stack([np.asarray(jax.nn.softmax(values[b]))[:, targets[b]] for b in range(3)])
    member = (np.arange(256)[:, None] >> np.arange(8)) & 1  # [code, player]
    expected = probability @ member / 128
    out = rise.rise(model, images, targets, jax.random.key(0), coalitions=4096)
    np.testing.assert_allclose(out, expected, atol=5 * probability.std() * np.sqrt(2 / 4096))
    assert out.dtype == np.float32


def test_a_constant_output_gives_every_patch_that_constant(coalition_game):
    model = coalition_game.model.replace(pair_fn=lambda params, images, mask: (images[:, 0, :3, 0] * 0 + 1.5,) * 2)
    out = rise.rise(model, coalition_game.images, coalition_game.targets, jax.random.key(1), coalitions=10,
                    output="logit")
    np.testing.assert_allclose(out, 1.5, rtol=1e-6)  # each patch is visible in exactly half of the masks


def test_each_image_has_masks_of_its_own_key_whatever_the_batch(coalition_game):
    model, images, targets, _ = coalition_game
    keys = jax.random.split(jax.random.key(0), 3)
    whole = rise.rise(model, images, targets, keys, coalitions=64)
    one = rise.rise(model, images[1:2], targets[1:2], keys[1:2], coalitions=64, batch_size=7)
    np.testing.assert_allclose(one[0], whole[1], rtol=1e-5)
    twins = rise.rise(model, images[[0, 0]], targets[[0, 0]], keys[:2], coalitions=64)
    assert np.abs(twins[0] - twins[1]).max() > 1e-3


def test_an_odd_number_of_masks_is_refused(coalition_game):
    with pytest.raises(UserError, match="7 coalitions .* even"):
        rise.rise(*coalition_game[:3], jax.random.key(0), coalitions=7)
