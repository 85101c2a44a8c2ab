"""Any map is refined towards the Shapley values; a good one helps, a bad one does no harm, whatever its unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import games
from shapjax.games import any_prior, estimators, shapley

N = 8


def draw(*, count, m, noise=0.3, seed=0):
    """Draws games: masks, differences, totals, Shapley values; the noise is the game's."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(count, N))
    keys = jax.random.split(jax.random.key(seed), count)
    masks = np.array(jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=N, num_pairs=m))(keys))
    codes = (masks == masks[..., -1:]) @ 2 ** np.arange(N)
    of_pair = np.take_along_axis(rng.normal(size=(count, 2**N)), codes, axis=1) * np.where(masks[..., -1], 1, -1)
    differences = np.einsum("cmn,cn->cm", np.where(masks, 1, -1), truth) + noise * of_pair
    return masks, differences, truth.sum(axis=1), truth


refine_all = jax.jit(jax.vmap(any_prior.refine_game))
kernel_shap = jax.jit(jax.vmap(lambda masks, d, total: estimators.kernel_shap_solve(masks, d[:, None], total[None])[0]))


@pytest.mark.parametrize("m", [2, 16])
def test_a_good_map_beats_kernel_shap_and_a_bad_one_does_no_harm(m):
    masks, differences, totals, truth = draw(count=300, m=m)
    theirs = ((kernel_shap(masks, differences, totals)[..., 0] - truth) ** 2).mean(axis=1)
    good = truth + 0.3 * np.random.default_rng(1).normal(size=truth.shape)
    bad = np.random.default_rng(2).normal(size=truth.shape)
    for name, prior in (("good", good), ("in another unit", 1000 * good - 7), ("none", 0 * good), ("bad", bad)):
        own = ((refine_all(prior, masks, differences, totals).values - truth) ** 2).mean(axis=1)
        difference = own - theirs
        error = difference.std() / len(difference) ** 0.5
        if name in ("good", "in another unit") and m <= N:
            assert difference.mean() < -2 * error, name
        assert difference.mean() < 2 * error + 0.05 * theirs.mean(), name


def test_values_sum_to_the_total_and_the_unit_of_the_map_does_not_matter():
    masks, differences, totals, truth = draw(count=5, m=6)
    one, other = (refine_all(prior, masks, differences, totals) for prior in (truth + 0.1, 50 * truth))
    np.testing.assert_allclose(one.values.sum(axis=1), totals, atol=1e-4)
    np.testing.assert_allclose(one.values, other.values, atol=1e-3)
    np.testing.assert_allclose(one.standard_errors, other.standard_errors, rtol=1e-2)


@pytest.fixture(scope="module")
def model():
    """Returns a game of 6 players and 2 classes, and images."""
    rng = np.random.default_rng(0)
    weights = {"inner": rng.normal(size=(6, 10)), "outer": rng.normal(size=(10, 2))}
    weights = {name: x.astype(np.float32) for name, x in weights.items()}

    def logits_fn(params, images):
        return jnp.tanh(images.reshape(len(images), 6) @ params["inner"]) @ params["outer"]

    images = rng.uniform(size=(3, 2, 3, 1)).astype(np.float32)
    return games.wrap(logits_fn, weights, grid=(2, 3), removal=games.Constant(0.0)), images


@pytest.mark.parametrize("prior", [None, np.random.default_rng(3).normal(size=(3, 6))])
def test_with_many_pairs_any_map_gives_the_shapley_values(model, prior):
    classifier, images = model
    masks = np.arange(64)[:, None] >> np.arange(6) & 1 == 1
    values = games.values(classifier, images, masks, read=games.all_classes())
    exact = np.stack([shapley.exact_shapley(v - v[0]) for v in np.asarray(values)])
    targets = np.array([0, 1, 1])
    got = games.refine(classifier, images, targets, jax.random.key(0), prior=prior, pairs=3000)
    expected = np.take_along_axis(exact, targets[:, None, None], axis=2)[..., 0]
    np.testing.assert_allclose(got.values, expected, atol=0.02)
    assert (np.abs(got.values - expected) < 2 * got.standard_errors).all()


def test_images_with_keys_of_their_own_are_refined_alike_in_any_batch(model):
    classifier, images = model
    keys, targets = games.row_keys(jax.random.key(1), 3), np.array([0, 1, 0])
    whole = games.refine(classifier, images, targets, keys, pairs=5)
    part = games.refine(classifier, images[1:2], targets[1:2], keys[1:2], pairs=5)
    np.testing.assert_allclose(part.values[0], whole.values[1], atol=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"prior": np.zeros((3, 5))}, "prior have shape .3, 5., expected .3, 6."),
    ({"prior": np.full((3, 6), np.nan)}, "the prior"), ({"pairs": 1}, "from 2 to 65,536"),
    ({"pairs": -4}, "from 2 to"), ({"pairs": 10**9}, "from 2 to"), ({"pairs": 2.5}, "whole number"),
])
def test_a_wrong_argument_is_named(model, changes, message):
    classifier, images = model
    with pytest.raises(ValueError, match=message):
        games.refine(classifier, images, np.zeros(3, int), jax.random.key(0), **changes)
