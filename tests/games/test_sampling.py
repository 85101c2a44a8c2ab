"""The sampler's distribution of coalitions: sizes from the Shapley kernel, members uniform given the size."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from shapjax.games import shapley


def all_coalitions(n):
    """Returns bool [2^n, n], in the order of the codes Σ 2^i [i in S]."""
    return np.array([[code >> i & 1 == 1 for i in range(n)] for code in range(2**n)])


def kernel_weights(masks):
    """Returns the Shapley kernel of proper coalitions, as in Lundberg & Lee 2017 (not normalized)."""
    n, size = masks.shape[1], masks.sum(axis=1)
    return np.array([(n - 1) / (math.comb(n, k) * k * (n - k)) for k in size])


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_size_probabilities_are_the_kernel_summed_over_the_coalitions_of_a_size(n):
    masks = all_coalitions(n)[1:-1]
    weights = kernel_weights(masks)
    by_size = np.bincount(masks.sum(axis=1), weights)[1:]
    np.testing.assert_allclose(shapley.kernel_size_probabilities(n), by_size / by_size.sum(), rtol=1e-12)


def test_one_player_has_no_coalitions_to_sample():
    with pytest.raises(ValueError, match="no proper coalition") as e:
        shapley.sample_coalitions(jax.random.key(0), num_players=1, num_pairs=1)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("n", [2, 3, 4, 16, 49, 196])
def test_sampled_sizes_follow_the_kernel_and_are_never_empty_nor_full(n):
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(n), num_players=n, num_pairs=20_000))
    assert masks.shape == (20_000, n) and masks.dtype == bool
    counts = np.bincount(masks.sum(axis=1), minlength=n + 1)
    assert counts[0] == counts[n] == 0
    expected = 20_000 * shapley.kernel_size_probabilities(n)
    assert n == 2 or stats.chisquare(counts[1:-1], expected).pvalue > 1e-3


def test_every_coalition_is_sampled_with_its_own_kernel_probability():
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(1), num_players=5, num_pairs=60_000))
    counts = np.bincount(masks @ 2 ** np.arange(5), minlength=32)[1:-1]
    weights = kernel_weights(all_coalitions(5)[1:-1])
    assert stats.chisquare(counts, 60_000 * weights / weights.sum()).pvalue > 1e-3


def test_sampled_members_are_uniform_given_the_size():
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(2), num_players=16, num_pairs=60_000))
    size = masks.sum(axis=1)
    for k in (1, 8, 15):
        rows = masks[size == k]
        error = 5 * math.sqrt(k / 16 * (1 - k / 16) / len(rows))  # five standard errors
        np.testing.assert_allclose(rows.mean(axis=0), k / 16, atol=error)


def test_of_two_players_one_is_visible_and_each_as_often():
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(3), num_players=2, num_pairs=10_000))
    assert (masks.sum(axis=1) == 1).all()
    assert abs(masks[:, 0].mean() - 0.5) < 0.03


def test_a_key_decides_the_coalitions_and_different_keys_differ():
    def draw(seed):
        return np.asarray(shapley.sample_coalitions(jax.random.key(seed), num_players=16, num_pairs=8))

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    assert len(np.unique(draw(0), axis=0)) > 4  # the pairs of one key differ from one another


def test_compiled_sampling_equals_eager_sampling():
    def draw(key):
        return shapley.sample_coalitions(key, num_players=9, num_pairs=64)

    np.testing.assert_array_equal(jax.jit(draw)(jax.random.key(5)), draw(jax.random.key(5)))
