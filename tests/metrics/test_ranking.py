"""Most important first; ties at random but repeatably, whatever batch an image comes in."""

import jax
import jax.numpy as jnp
import numpy as np

from shapjax import attribution
from shapjax.games import classifier
from shapjax.games.classifier import row_keys
from shapjax.games.removal import Constant
from shapjax.metrics import ranking

KEY = jax.random.key(3)


def test_without_ties_the_order_is_by_attribution(rng):
    attributions = rng.normal(size=(5, 9)).astype(np.float32)
    np.testing.assert_array_equal(ranking.order(attributions, KEY), np.argsort(-attributions, axis=1))


def test_ranks_invert_the_order(rng):
    order = ranking.order(rng.normal(size=(5, 9)).astype(np.float32), KEY)
    ranks = np.take_along_axis(ranking.ranks(order), order, axis=1)
    np.testing.assert_array_equal(ranks, np.tile(np.arange(9), (5, 1)))


def test_ties_take_every_place_equally_often_and_what_is_not_tied_stays():
    attributions = np.tile(np.float32([-0.0, 5, 0, -1, 0]), (3000, 1))  # -0 and 0 are equal
    order = np.asarray(ranking.order(attributions, KEY))
    assert (order[:, 0] == 1).all() and (order[:, 4] == 3).all()
    for place in (1, 2, 3):
        share = np.bincount(order[:, place], minlength=5)[[0, 2, 4]] / 3000
        np.testing.assert_allclose(share, 1 / 3, atol=0.04)


def test_ties_are_not_broken_by_the_draws_of_the_random_attributions():
    """Otherwise an all-tied map would be the exact reverse of the random baseline."""
    model = classifier.wrap(lambda x: x.sum(axis=(1, 2)), grid=(14, 14), removal=Constant(0.0))
    values = attribution.random(model, np.zeros((1, 14, 14, 2), np.float32), np.zeros(1, int), KEY)
    tied, ranked = ranking.ranks(ranking.order(jnp.zeros((1, 196)), KEY)), ranking.ranks(ranking.order(values, KEY))
    assert abs(np.corrcoef(tied[0], ranked[0])[0, 1]) < 0.25


def test_an_image_keeps_its_order_in_any_batch():
    attributions = jnp.zeros((4, 16))
    keys = row_keys(KEY, 4)
    whole = ranking.order(attributions, KEY)
    np.testing.assert_array_equal(whole[2:], ranking.order(attributions[2:], keys[2:]))
    np.testing.assert_array_equal(whole, ranking.order(attributions, KEY))
    assert (whole[0] != whole[1]).any()
