"""Correlations against scipy, infidelity against its definition, the scores of exact attributions, the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from shapjax.games import classifier, outputs
from shapjax.games.removal import Constant
from shapjax.metrics import faithfulness

KEY = jax.random.key(0)
B, M, N = 3, 40, 6
sensitivity_n = jax.jit(faithfulness.sensitivity_n)
faithfulness_correlation = jax.jit(faithfulness.faithfulness_correlation)


@pytest.fixture
def masks():
    return np.asarray(faithfulness.sample_masks(KEY, num_players=N, num_masks=M))


@pytest.fixture
def attributions(rng):
    return rng.integers(-2, 3, size=(B, N)).astype(np.float32)  # whole numbers: many sums are tied


@pytest.mark.parametrize("shared", [True, False])
def test_both_correlations_agree_with_scipy(rng, masks, attributions, shared):
    if not shared:
        masks = np.stack([rng.permutation(masks.T).T for _ in range(B)])
    values = rng.uniform(size=(B, M)).astype(np.float32).round(1)  # ties here, too
    full = rng.uniform(size=B).astype(np.float32)
    spearman = sensitivity_n(attributions, masks, values)
    pearson = faithfulness_correlation(attributions, masks, full, values)
    for b in range(B):
        sums = (masks if shared else masks[b]) @ attributions[b].astype(np.float64)
        assert spearman[b] == pytest.approx(stats.spearmanr(sums, values[b]).statistic, abs=1e-5)
        assert pearson[b] == pytest.approx(stats.pearsonr(sums, full[b] - values[b]).statistic, abs=1e-5)


def test_an_additive_game_is_perfectly_explained_by_its_summands(masks, attributions):
    values = attributions @ masks.T.astype(np.float32)  # of S; without S, the rest remains
    full = attributions.sum(axis=1)
    np.testing.assert_allclose(sensitivity_n(attributions, masks, values), 1, atol=1e-5)
    np.testing.assert_allclose(sensitivity_n(-attributions, masks, values), -1, atol=1e-5)
    got = faithfulness_correlation(attributions, masks, full, full[:, None] - values)
    np.testing.assert_allclose(got, 1, atol=1e-5)


@pytest.mark.parametrize("margin", [1, 16, 18, 40])
def test_exact_attributions_score_1_however_sure_the_model_is(rng, margin):
    """Probabilities are 1 in float32 from a margin of 17 logits on, log-odds are not."""
    worth = rng.normal(size=(1, 8)).astype(np.float32) + 1
    worth *= margin / worth.sum()
    model = classifier.wrap(lambda x: jnp.stack([x.reshape(-1, 8).sum(axis=1),
                                                 jnp.zeros(len(x))], axis=1), grid=(2, 4), removal=Constant(0.0))
    masks = faithfulness.sample_masks(KEY, num_players=8, num_masks=100)
    values = classifier.values(model, worth.reshape(1, 2, 4, 1), masks,
                               read=outputs.target_class(np.zeros(1, int), "log_odds"))
    np.testing.assert_allclose(sensitivity_n(worth, masks, values), 1, atol=1e-4)
    np.testing.assert_allclose(jax.nn.sigmoid(values[0]), jax.nn.sigmoid(masks @ worth[0]), atol=1e-5)


def test_sums_are_products_in_full_precision_on_accelerators_too(masks, attributions):
    jaxpr = jax.make_jaxpr(faithfulness.attribution_sums)(attributions, masks).jaxpr
    products = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert products and all(e.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for e in products)


def test_correlations_do_not_depend_on_units_even_tiny_ones(rng, masks, attributions):
    values = rng.uniform(size=(B, M)).astype(np.float32)
    expected = faithfulness_correlation(attributions, masks, jnp.ones(B), values)
    tiny = faithfulness_correlation(attributions * 1e-25, masks, jnp.ones(B), values)
    np.testing.assert_allclose(tiny, expected, atol=1e-5)


def test_what_is_constant_has_no_correlation(rng):
    masks = faithfulness.sample_masks(KEY, num_players=196, num_masks=50, size=60)
    values = rng.uniform(size=(1, 50)).astype(np.float32)
    for constant in (0.0, 0.1, 1e6):  # sums of 60 equal numbers differ by their rounding
        flat = np.full((1, 196), constant, np.float32)
        assert np.isnan(sensitivity_n(flat, masks, values)).all()
        assert np.isnan(faithfulness_correlation(flat, masks, jnp.ones(1), values)).all()
    varied = rng.normal(size=(1, 196)).astype(np.float32)
    assert np.isnan(sensitivity_n(varied, masks, np.full((1, 50), 0.3, np.float32))).all()
    assert not np.isnan(sensitivity_n(varied, masks, values)).any()


def test_a_constant_map_is_rewarded_when_sizes_vary(masks):
    by_size = np.tile(masks.sum(axis=1, dtype=np.float32), (B, 1))
    np.testing.assert_allclose(sensitivity_n(np.ones((B, N), np.float32), masks, by_size), 1, atol=1e-5)


def test_sizes_are_uniform_and_members_too():
    masks = np.asarray(faithfulness.sample_masks(KEY, num_players=5, num_masks=8000))
    size = masks.sum(axis=1)
    np.testing.assert_allclose(np.bincount(size, minlength=6) / 8000, [0, 0.25, 0.25, 0.25, 0.25, 0], atol=0.02)
    codes = masks[size == 2] @ 2 ** np.arange(5)
    assert stats.chisquare(np.unique(codes, return_counts=True)[1]).pvalue > 1e-3 and len(np.unique(codes)) == 10


def test_one_size_is_that_size():
    masks = faithfulness.sample_masks(KEY, num_players=5, num_masks=20, size=3)
    assert (masks.sum(axis=1) == 3).all() and len(np.unique(masks, axis=0)) > 5


@pytest.mark.parametrize(("num_players", "size"), [(5, 0), (5, 5), (1, None)])
def test_coalitions_of_none_or_all_are_refused(num_players, size):
    with pytest.raises(ValueError, match=f"among {num_players} players"):
        faithfulness.sample_masks(KEY, num_players=num_players, num_masks=3, size=size)


def test_shapes_that_do_not_fit_are_refused(masks, attributions):
    with pytest.raises(ValueError, match=r"masks have shape \(40, 6\), expected \(any, 5\)"):
        sensitivity_n(attributions[:, :5], masks, np.zeros((B, M)))
    with pytest.raises(ValueError, match=r"values have shape \(40,\), expected \(3, 40\): \[images, coalitions\]"):
        sensitivity_n(attributions, masks, np.zeros(M))
    with pytest.raises(ValueError, match=r"values of whole images have shape \(3, 1\), expected \(3\)"):
        faithfulness_correlation(attributions, masks, np.zeros((B, 1)), np.zeros((B, M)))


# Infidelity


@pytest.fixture
def game(rng):
    """Returns attributions [3, 6], masks [40, 6], p(x) and p(x without S)."""
    masks = np.asarray(faithfulness.sample_masks(jax.random.key(0), num_players=6, num_masks=40))
    return [np.float32(x) if x.dtype != bool else x for x in (
        rng.normal(size=(3, 6)), masks, rng.uniform(size=3), rng.uniform(size=(3, 40)))]


def test_infidelity_is_the_mean_squared_difference_between_sum_and_drop(game):
    attributions, masks, full, without = game
    expected = [np.mean([(a[s].sum() - (f - w[i])) ** 2 for i, s in enumerate(masks)])
                for a, f, w in zip(attributions, full, without, strict=True)]
    np.testing.assert_allclose(faithfulness.infidelity(*game), expected, rtol=1e-5)


def test_the_loss_of_an_additive_game_is_explained_by_its_summands(game):
    attributions, masks, full, _ = game
    without = full[:, None] - attributions @ masks.T.astype(np.float32)
    np.testing.assert_allclose(faithfulness.infidelity(attributions, masks, full, without), 0, atol=1e-10)


def test_normalized_infidelity_is_the_smallest_over_all_scales(game):
    attributions, *rest = game
    best = faithfulness.infidelity(attributions, *rest, normalize=True)
    scales = np.linspace(-1, 1, 201)[:, None, None]
    by_scale = np.stack([faithfulness.infidelity(np.float32(s * attributions), *rest) for s in scales])
    assert (best <= by_scale.min(axis=0) + 1e-6).all()
    np.testing.assert_allclose(best, by_scale.min(axis=0), atol=1e-3)
    np.testing.assert_allclose(faithfulness.infidelity(-7 * attributions, *rest, normalize=True), best, rtol=1e-4)


def test_attributions_of_nothing_normalize_to_nothing(game):
    attributions, masks, full, without = game
    nothing = faithfulness.infidelity(0 * attributions, masks, full, without, normalize=True)
    np.testing.assert_allclose(nothing, np.mean((full[:, None] - without) ** 2, axis=1), rtol=1e-5)
