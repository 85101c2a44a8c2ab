"""Estimators of Shapley values: games that they are exact for, their variance, bias and standard errors."""

import functools
import itertools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from shapjax.games import estimators, shapley

PLAYERS = 8
MASKS = (np.arange(2**PLAYERS)[:, None] >> np.arange(PLAYERS)) & 1 == 1  # all coalitions, by code
solve = jax.jit(estimators.kernel_shap_solve)


def games(rng):
    """Returns a network's game and one without any structure: values [2^N, 2], v(∅) is not 0."""
    network = np.tanh(MASKS @ rng.normal(size=(PLAYERS, 16)) / 3 + rng.normal(size=16)) @ rng.normal(size=16)
    return np.stack([network, rng.normal(size=2**PLAYERS)], axis=1).astype(np.float32)


def differences(values, masks):
    code = masks.astype(int) @ 2 ** np.arange(masks.shape[-1])
    return values[code] - values[len(values) - 1 - code]


# KernelSHAP


def test_all_pairs_with_their_kernel_weights_give_the_exact_values(rng):
    values = games(rng)
    pairs = shapley.enumerate_pairs(PLAYERS)[1:]
    kernel = [0, *(shapley.kernel_size_probabilities(PLAYERS) / [math.comb(PLAYERS, k) for k in range(1, PLAYERS)])]
    weights = np.array(kernel)[pairs.sum(axis=1)]
    phi, _ = solve(pairs, differences(values, pairs), values[-1] - values[0], weights)
    np.testing.assert_allclose(phi, shapley.exact_shapley(values), atol=1e-5)


def test_single_precision_is_enough_for_many_players(rng):
    num_players, num_pairs = 196, 1024
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(0), num_players=num_players, num_pairs=num_pairs))
    x = np.where(masks, 1.0, -1.0)
    d = (8 * np.tanh(x @ rng.normal(size=(num_players, 3)) / 3) + rng.normal(size=(num_pairs, 3))).astype(np.float32)
    totals = np.array([9.0, -3.0, 0.5])
    free = np.linalg.svd(np.ones((1, num_players)))[2][1:].T  # directions of sum zero
    reference = totals / num_players + free @ np.linalg.lstsq(
        x @ free, d - x.sum(axis=1, keepdims=True) * totals / num_players, rcond=None)[0]
    phi, _ = solve(masks, d, totals.astype(np.float32))
    np.testing.assert_allclose(phi, reference, atol=3e-6 * np.ptp(reference))


def test_games_of_interactions_of_two_players_are_solved_exactly_from_few_pairs(rng):
    alone, together = rng.normal(size=PLAYERS), np.triu(rng.normal(size=(PLAYERS, PLAYERS)), 1)
    values = ((MASKS @ alone + np.einsum("cn,nm,cm->c", MASKS, together, MASKS))[:, None] + 5).astype(np.float32)
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(1), num_players=PLAYERS, num_pairs=40))
    phi, errors = solve(masks, differences(values, masks), values[-1] - values[0])
    np.testing.assert_allclose(phi[:, 0], alone + (together + together.T).sum(axis=1) / 2, atol=1e-4)
    assert errors.max() < 1e-4


@functools.partial(jax.jit, static_argnames="num_pairs")
def repeated(values, keys, num_pairs):
    """Returns KernelSHAP and its standard errors for every key, drawn and from expected moments: [repeats, N, 2]."""
    weights = 2 ** jnp.arange(PLAYERS)

    def one(key):
        masks = shapley.sample_coalitions(key, num_players=PLAYERS, num_pairs=num_pairs)
        code, totals = masks.astype(int) @ weights, values[-1] - values[0]
        d = values[code] - values[2**PLAYERS - 1 - code]
        x = jnp.where(masks, 1.0, -1.0)
        x = x - x.mean(axis=1, keepdims=True)
        harmonic = np.sum(1 / np.arange(1, PLAYERS))  # E[x xᵀ] of the deviations is 2 / harmonic
        return *estimators.kernel_shap_solve(masks, d, totals), totals / PLAYERS + harmonic / 2 * x.T @ d / num_pairs

    return jax.vmap(one)(keys)


def test_standard_errors_cover_the_exact_values_as_often_as_they_should_and_the_bias_is_small(rng):
    values = games(rng)
    exact = shapley.exact_shapley(values)
    phi, errors, unbiased = map(np.asarray, repeated(values, jax.random.split(jax.random.key(0), 400), 128))
    for k in range(2):
        covered = np.mean(np.abs(phi - exact)[..., k] < 2 * errors[..., k])
        assert 0.935 < covered < 0.985  # 0.954 of a normal distribution
    np.testing.assert_allclose(errors.mean(axis=0), phi.std(axis=0), rtol=0.2)
    assert (np.abs(phi.mean(axis=0) - exact) < 0.25 * phi.std(axis=0)).all()
    # Why the moments are the sample's: with the expected ones there is no bias, but far more variance.
    assert (np.abs(unbiased.mean(axis=0) - exact) < 0.25 * unbiased.std(axis=0)).all()
    assert phi[..., 0].var(axis=0).mean() < unbiased[..., 0].var(axis=0).mean() / 2


@functools.partial(jax.jit, static_argnames=("num_players", "most"))
def with_more_and_more_pairs(values, keys, counts, *, num_players, most):
    """Returns KernelSHAP and its standard errors from the first pairs of each key: [counts, repeats, N, K]."""
    def one(key, count):
        masks = shapley.sample_coalitions(key, num_players=num_players, num_pairs=most)
        code = masks.astype(int) @ 2 ** jnp.arange(num_players)
        return estimators.kernel_shap_solve(masks, values[code] - values[2**num_players - 1 - code],
                                            values[-1] - values[0], jnp.where(jnp.arange(most) < count, 1.0, 0.0))

    return jax.vmap(jax.vmap(one, (0, None)), (None, 0))(keys, counts)


@pytest.mark.parametrize("num_players", [5, 8, 16])
def test_standard_errors_of_few_pairs_cover_the_exact_values(num_players):
    """This holds as soon as the pairs determine the values; errors are infinite while one pair alone decides."""
    n, rng = num_players, np.random.default_rng(0)
    masks = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    network = np.tanh(masks @ rng.normal(size=(n, 16)) + rng.normal(size=16)) @ rng.normal(size=(16, 3))
    values = np.concatenate([network, rng.normal(size=(2**n, 1))], axis=1).astype(np.float32)
    counts = np.array([n + 1, 3 * n // 2, 2 * n, 4 * n])
    phi, errors = map(np.asarray, with_more_and_more_pairs(
        values, jax.random.split(jax.random.key(0), 2400 // n), counts, num_players=n, most=4 * n))
    covered = np.abs(phi - shapley.exact_shapley(values)) <= 1.96 * errors + 1e-5
    assert (covered.mean(axis=(1, 2, 3)) > 0.9).all()
    known = np.isfinite(errors).all(axis=(2, 3))
    assert (known[2:].mean(axis=1) > 0.7).all()  # of errors that are always infinite the above would hold, too
    assert all(c[k].mean() > 0.88 for c, k in zip(covered[2:], known[2:], strict=True))


@pytest.mark.parametrize(("num_pairs", "drawn"), [(20, 40), (40, 40), (24, 24)])
def test_standard_errors_are_those_of_hc3_with_the_quantile_of_student(rng, num_pairs, drawn):
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(1), num_players=PLAYERS, num_pairs=drawn))
    d = rng.normal(size=(drawn, 2)).astype(np.float32)
    errors = solve(masks, d, np.zeros(2, np.float32), (np.arange(drawn) < num_pairs).astype(np.float32))[1]
    x = np.where(masks, 1.0, -1.0)[:num_pairs]
    inverse = np.linalg.pinv(x - x.mean(axis=1, keepdims=True))  # [N, M]
    leverage = np.einsum("mn,nm->m", x, inverse)
    residuals = (d[:num_pairs] - x @ inverse @ d[:num_pairs]) / (1 - leverage)[:, None]
    quantile = stats.t.ppf(0.975, num_pairs - (PLAYERS - 1)) / stats.norm.ppf(0.975)
    np.testing.assert_allclose(errors, quantile * np.sqrt(inverse**2 @ residuals**2), rtol=2e-3)


def test_the_error_is_unknown_if_one_pair_alone_decides_however_often_it_was_drawn(rng):
    """Players 0 and 1 are apart in one pair only, drawn six times as it is or as its complement."""
    masks = rng.random((30, 5)) < 0.5
    masks[:, 1] = masks[:, 0]
    masks[:3], masks[3:6] = [1, 0, 1, 0, 0], [0, 1, 0, 1, 1]
    d = rng.normal(size=(30, 2)).astype(np.float32)
    d[3:6] = d[:1]
    d[:3] = -d[:1]
    assert np.isinf(solve(masks, d, np.zeros(2, np.float32))[1]).all()
    masks[6] = [1, 0, 0, 0, 1]  # another pair that tells them apart
    assert np.isfinite(solve(masks, d, np.zeros(2, np.float32))[1]).all()
    together = masks.copy()
    together[:, 1] = together[:, 0]  # no pair tells them apart
    assert np.isinf(solve(together, d, np.zeros(2, np.float32))[1]).all()


def test_two_players_are_known_from_any_pairs():
    masks = np.array([[True, False]] * 3)
    phi, errors = solve(masks, np.full((3, 1), 2.0, np.float32), np.array([5.0], np.float32))
    np.testing.assert_allclose(phi[:, 0], [3.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(errors, 0, atol=1e-4)


def test_pairs_have_less_variance_than_as_many_independent_coalitions(rng):
    values = games(rng)[:, :1]
    phi, *_ = map(np.asarray, repeated(jnp.asarray(np.repeat(values, 2, axis=1)), jax.random.split(
        jax.random.key(0), 400), 128))
    free = np.linalg.svd(np.ones((1, PLAYERS)))[2][1:].T
    totals = values[-1] - values[0]
    samples = jax.vmap(functools.partial(shapley.sample_coalitions, num_players=PLAYERS, num_pairs=256))(
        jax.random.split(jax.random.key(1), 100))
    unpaired = []
    for z in np.asarray(samples).astype(float):
        v = values[z.astype(int) @ 2 ** np.arange(PLAYERS)] - values[0]
        u = np.linalg.lstsq(z @ free, v - z.sum(axis=1, keepdims=True) * totals / PLAYERS, rcond=None)[0]
        unpaired.append(totals / PLAYERS + free @ u)
    assert phi[..., 0].var(axis=0).mean() < np.var(unpaired, axis=0).mean() / 1.5


@hypothesis.given(hnp.arrays(bool, (12, 5)), hnp.arrays(np.float32, (12, 2), elements=st.floats(-9, 9, width=32)),
                  st.integers(0, 99))
def test_any_sample_gives_finite_values_that_share_out_the_total_whatever_the_players_are_called(masks, d, seed):
    rng = np.random.default_rng(seed)
    masks[0], totals, order = [1, 0, 0, 0, 0], rng.normal(size=2).astype(np.float32), rng.permutation(5)
    phi, errors = solve(masks, d, totals)
    np.testing.assert_allclose(phi.sum(axis=0), totals, atol=1e-5 * (1 + np.abs(phi).max()))
    assert not np.isnan(errors).any()
    relabeled, _ = solve(masks[:, order], d, totals)
    np.testing.assert_allclose(relabeled, phi[order], atol=1e-2)


def test_without_more_pairs_than_players_the_error_is_unknown():
    masks = np.repeat([[True, False, False, False, False]], 12, axis=0)
    d, totals, weights = np.ones((12, 2), np.float32), np.zeros(2, np.float32), np.arange(12) < 5
    phi, errors = solve(masks, d, totals, weights.astype(np.float32))
    np.testing.assert_allclose(phi[1:], phi[1:2].repeat(4, axis=0), atol=1e-3)  # no pair tells these four apart
    assert np.isinf(errors).all()


# Permutations


def test_the_mean_over_all_orders_is_exact_and_each_order_shares_out_the_total(rng):
    values = rng.normal(size=(2**4, 2)).astype(np.float32)
    ranks = np.array(list(itertools.permutations(range(4))))
    d = differences(values, np.asarray(estimators.permutation_prefixes(ranks)))
    phi = estimators.antithetic_contributions(ranks, d, values[-1] - values[0])
    np.testing.assert_allclose(phi.mean(axis=0), shapley.exact_shapley(values), atol=1e-6)
    np.testing.assert_allclose(phi.sum(axis=1), np.tile(values[-1] - values[0], (24, 1)), atol=1e-5)


def test_contributions_are_the_mean_over_an_order_and_its_reverse(rng):
    values = rng.normal(size=(2**5, 2)).astype(np.float32)
    ranks = np.asarray(estimators.sample_ranks(jax.random.key(0), num_players=5, num_permutations=6))
    d = differences(values, np.asarray(estimators.permutation_prefixes(ranks)))
    phi = estimators.antithetic_contributions(ranks, d, values[-1] - values[0])
    for rank, row in zip(ranks, phi, strict=True):
        expected, order = np.zeros((5, 2)), np.argsort(rank)
        for arrival in (order, order[::-1]):
            code = 0
            for player in arrival:
                expected[player] += (values[code | 1 << player] - values[code]) / 2
                code |= 1 << player
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_ranks_are_permutations_each_as_often():
    ranks = np.asarray(estimators.sample_ranks(jax.random.key(0), num_players=3, num_permutations=6000))
    orders, counts = np.unique(ranks, axis=0, return_counts=True)
    assert len(orders) == 6 and (np.sort(orders, axis=1) == np.arange(3)).all()
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()


def test_a_reverse_order_lowers_the_variance_below_that_of_twice_as_many_orders(rng):
    values = games(rng)
    ranks = np.asarray(estimators.sample_ranks(jax.random.key(2), num_players=PLAYERS, num_permutations=4000))
    d = differences(values, np.asarray(estimators.permutation_prefixes(ranks)))
    antithetic = np.asarray(estimators.antithetic_contributions(ranks, d, values[-1] - values[0]))
    steps = np.array([np.bincount(np.argsort(r)[: j + 1], minlength=PLAYERS)[:PLAYERS] @ 2 ** np.arange(PLAYERS)
                      for r in ranks[:1000] for j in range(PLAYERS)]).reshape(1000, PLAYERS)
    arrivals = np.diff(values[np.pad(steps, ((0, 0), (1, 0)))], axis=1)
    single = np.take_along_axis(arrivals, ranks[:1000, :, None], axis=1)
    assert antithetic[..., 0].var(axis=0).mean() < single[..., 0].var(axis=0).mean() / 2 / 1.5


# Rounds


def test_moments_merged_round_by_round_are_those_of_all_samples(rng):
    samples = (1000 + rng.normal(size=(5, 7, 3, 2))).astype(np.float32)
    moments = estimators.Moments(jnp.float32(0), jnp.zeros((3, 2)), jnp.zeros((3, 2)))
    for round_samples in samples:
        moments = moments.add(round_samples)
    everything = samples.reshape(35, 3, 2).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.standard_errors, everything.std(axis=0, ddof=1) / np.sqrt(35), rtol=1e-3)
    one = estimators.Moments(jnp.float32(0), jnp.zeros(2), jnp.zeros(2)).add(jnp.ones((1, 2)))
    assert np.isinf(one.standard_errors).all()


@pytest.mark.parametrize(("tolerance", "rounds"), [(1.0, 1), (0.25, 4), (0.2, 5), (0.01, 9)])
def test_rounds_stop_at_the_tolerance_or_the_last_round(tolerance, rounds):
    values = jnp.array([[1.0, 3.0], [0.0, 2.0]])  # of spread 3

    def estimate(count, num_rounds):
        return values * (count == num_rounds), jnp.full((2, 2), 3 / num_rounds)

    out, errors, ratio, taken = estimators.until_precise(
        lambda count, index: count + (count == index), estimate, jnp.int32(0), shape=(2, 2), tolerance=tolerance + 1e-6,
        max_rounds=9)
    assert taken == rounds
    np.testing.assert_allclose(ratio, 1 / rounds, rtol=1e-6)
    np.testing.assert_array_equal(out, values)
    np.testing.assert_allclose(errors, 3 / rounds, rtol=1e-6)
