"""Correlations against scipy; what an exact explanation gets; which coalitions are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from shapjax.errors import UserError
from shapjax.metrics import correlation

KEY = jax.random.key(0)
B, M, N = 3, 40, 6
sensitivity_n = jax.jit(correlation.sensitivity_n)
faithfulness_correlation = jax.jit(correlation.faithfulness_correlation)


@pytest.fixture
def masks():
    return np.asarray(correlation.sample_masks(KEY, num_players=N, num_masks=M))


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
    faithfulness = faithfulness_correlation(attributions, masks, full, full[:, None] - values)
    np.testing.assert_allclose(faithfulness, 1, atol=1e-5)


def test_correlations_do_not_depend_on_units_even_tiny_ones(rng, masks, attributions):
    values = rng.uniform(size=(B, M)).astype(np.float32)
    expected = faithfulness_correlation(attributions, masks, jnp.ones(B), values)
    tiny = faithfulness_correlation(attributions * 1e-25, masks, jnp.ones(B), values)
    np.testing.assert_allclose(tiny, expected, atol=1e-5)


def test_what_is_constant_has_no_correlation(rng):
    masks = correlation.sample_masks(KEY, num_players=196, num_masks=50, size=60)
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
    masks = np.asarray(correlation.sample_masks(KEY, num_players=5, num_masks=8000))
    size = masks.sum(axis=1)
    np.testing.assert_allclose(np.bincount(size, minlength=6) / 8000, [0, 0.25, 0.25, 0.25, 0.25, 0], atol=0.02)
    codes = masks[size == 2] @ 2 ** np.arange(5)
    assert stats.chisquare(np.unique(codes, return_counts=True)[1]).pvalue > 1e-3 and len(np.unique(codes)) == 10


def test_one_size_is_that_size():
    masks = correlation.sample_masks(KEY, num_players=5, num_masks=20, size=3)
    assert (masks.sum(axis=1) == 3).all() and len(np.unique(masks, axis=0)) > 5


@pytest.mark.parametrize(("num_players", "size"), [(5, 0), (5, 5), (1, None)])
def test_coalitions_of_none_or_all_are_refused(num_players, size):
    with pytest.raises(UserError, match=f"among {num_players} players"):
        correlation.sample_masks(KEY, num_players=num_players, num_masks=3, size=size)


def test_shapes_that_do_not_fit_are_refused(masks, attributions):
    with pytest.raises(UserError, match=r"masks have shape \(40, 6\), expected \(any, 5\)"):
        sensitivity_n(attributions[:, :5], masks, np.zeros((B, M)))
    with pytest.raises(UserError, match=r"values have shape \(40,\), expected \(3, 40\): \[images, coalitions\]"):
        sensitivity_n(attributions, masks, np.zeros(M))
    with pytest.raises(UserError, match=r"values of whole images have shape \(3, 1\), expected \(3\)"):
        faithfulness_correlation(attributions, masks, np.zeros((B, 1)), np.zeros((B, M)))
