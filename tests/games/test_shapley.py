"""Shapley values: closed forms, axioms, enumeration, the minimum of the regression, gradients."""

import itertools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import shapley


def all_coalitions(n):
    """Returns bool [2^n, n], in the order of the codes Σ 2^i [i in S]."""
    return np.array([[code >> i & 1 == 1 for i in range(n)] for code in range(2**n)])


def table(game, n):
    """Returns the values of all coalitions of a game that takes a set of players."""
    return np.array([game(set(np.flatnonzero(mask))) for mask in all_coalitions(n)], np.float64)


def by_permutations(values, n):
    """Computes Shapley values by the other definition: mean marginal contribution over all orders of arrival."""
    phi = np.zeros((n, *values.shape[1:]))
    for order in itertools.permutations(range(n)):
        code = 0
        for player in order:
            phi[player] += values[code | 1 << player] - values[code]
            code |= 1 << player
    return phi / math.factorial(n)


def kernel_weights(masks):
    """Returns the Shapley kernel of proper coalitions, as in Lundberg & Lee 2017 (not normalized)."""
    n, size = masks.shape[1], masks.sum(axis=1)
    return np.array([(n - 1) / (math.comb(n, k) * k * (n - k)) for k in size])


numbers = st.floats(-10, 10, allow_nan=False, width=32)
games = st.integers(1, 5).flatmap(lambda n: hnp.arrays(np.float64, (2**n, 2), elements=numbers))


# Games whose Shapley values are known


def test_two_players_have_coalitions_of_one():
    np.testing.assert_array_equal(shapley.kernel_size_probabilities(2), [1.0])
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(0), num_players=2, num_pairs=20))
    assert (masks.sum(axis=1) == 1).all() and masks.any(axis=0).all()


def test_an_additive_game_gives_each_player_its_own_worth_in_each_class(rng):
    worth = rng.normal(size=(5, 3))
    np.testing.assert_allclose(shapley.exact_shapley(all_coalitions(5) @ worth), worth, atol=1e-12)


def test_in_the_glove_game_the_only_left_glove_takes_two_thirds():
    values = table(lambda s: float(0 in s and bool(s & {1, 2})), 3)
    np.testing.assert_allclose(shapley.exact_shapley(values), [2 / 3, 1 / 6, 1 / 6], atol=1e-15)


@pytest.mark.parametrize("members", [m for k in (1, 2, 3, 4) for m in itertools.combinations(range(4), k)])
def test_a_unanimity_game_is_shared_equally_by_its_members(members):
    phi = shapley.exact_shapley(table(lambda s: float(set(members) <= s), 4))
    np.testing.assert_allclose(phi, [1 / len(members) if i in members else 0 for i in range(4)], atol=1e-15)


def test_in_the_airport_game_each_stretch_of_runway_is_paid_by_those_who_need_it():
    costs = np.array([1.0, 4.0, 5.0, 9.0, 9.5])
    values = table(lambda s: max((costs[i] for i in s), default=0.0), 5)
    stretches = np.diff(costs, prepend=0) / np.arange(5, 0, -1)
    np.testing.assert_allclose(shapley.exact_shapley(values), np.cumsum(stretches), atol=1e-12)


@pytest.mark.parametrize(("weights", "quota"), [([1, 1], 2), ([3, 1, 1], 3), ([4, 3, 2, 1], 6), ([4, 2, 2, 1, 1], 6)])
def test_weighted_voting_power_is_the_share_of_orders_in_which_a_player_is_pivotal(weights, quota):
    values = table(lambda s: float(sum(weights[i] for i in s) >= quota), len(weights))
    np.testing.assert_allclose(shapley.exact_shapley(values), by_permutations(values, len(weights)), atol=1e-12)


@hypothesis.given(games)
def test_enumeration_over_coalitions_equals_the_mean_over_orders(values):
    n = len(values).bit_length() - 1
    np.testing.assert_allclose(shapley.exact_shapley(values), by_permutations(values, n), atol=1e-9)


# The axioms that define Shapley values


@hypothesis.given(games)
def test_values_sum_to_what_all_players_add_to_none(values):
    np.testing.assert_allclose(shapley.exact_shapley(values).sum(axis=0), values[-1] - values[0], atol=1e-9)


@hypothesis.given(games, st.randoms(use_true_random=False))
def test_relabeled_players_keep_their_values(values, random):
    n = len(values).bit_length() - 1
    order = random.sample(range(n), n)  # the new player i is the old player order[i]
    old_codes = all_coalitions(n) @ (2 ** np.array(order))
    phi, relabeled = shapley.exact_shapley(values), shapley.exact_shapley(values[old_codes])
    np.testing.assert_allclose(relabeled, phi[order], atol=1e-9)


@hypothesis.given(games, st.data())
def test_a_player_that_adds_a_constant_gets_that_constant(values, data):
    n = len(values).bit_length() - 1
    player, added = data.draw(st.integers(0, n - 1)), data.draw(numbers)
    codes = np.arange(2**n)
    values = values[codes & ~(1 << player)] + added * (codes >> player & 1)[:, None]
    np.testing.assert_allclose(shapley.exact_shapley(values)[player], added, atol=1e-9)


@hypothesis.given(games, numbers, st.integers(0, 2**32 - 1))
def test_values_are_linear_in_the_game(values, factor, seed):
    other = np.random.default_rng(seed).normal(size=values.shape)
    both = shapley.exact_shapley(values + factor * other)
    np.testing.assert_allclose(both, shapley.exact_shapley(values) + factor * shapley.exact_shapley(other), atol=1e-9)


@pytest.mark.parametrize("length", [0, 1, 3, 12])
def test_values_that_are_not_those_of_all_coalitions_are_refused(length):
    with pytest.raises(ValueError, match="all 2"):
        shapley.exact_shapley(np.zeros((length, 2)))


# Enumeration


@hypothesis.given(games)
def test_weighted_differences_of_all_pairs_are_the_exact_values(values):
    n = len(values).bit_length() - 1
    differences = values[: 2 ** (n - 1)] - values[::-1][: 2 ** (n - 1)]
    phi = np.asarray(shapley.pair_weights(shapley.enumerate_pairs(n)), np.float64).T @ differences
    np.testing.assert_allclose(phi, shapley.exact_shapley(values), atol=1e-5)


def test_pairs_and_their_complements_are_all_coalitions_in_the_order_of_their_codes():
    pairs = shapley.enumerate_pairs(5)
    assert pairs.dtype == bool
    np.testing.assert_array_equal(np.concatenate([pairs, ~pairs[::-1]]), all_coalitions(5))


def test_too_many_players_to_enumerate_are_refused():
    with pytest.raises(ValueError, match=r"2\^20 packed passes .* limited to 20 players"):
        shapley.enumerate_pairs(21)
    shapley.require_enumerable(20)


# The regression


def minimizer(masks, weights, values, total):
    """Returns the phi with the given total that minimizes the weighted mean square of `regression_residuals`."""
    n, num_classes = masks.shape[1], total.shape[0]
    codes = masks @ 2 ** np.arange(n)
    v, complement = (jnp.asarray(values[c], jnp.float32)[None] for c in (codes, 2**n - 1 - codes))
    free = np.linalg.svd(np.ones((1, n)))[2][1:].T  # basis of the directions with zero sum, [N, N-1]

    def residuals(u):  # u [N-1, K]
        phi = jnp.asarray(total / n, jnp.float32)[None] + jnp.asarray(free, jnp.float32) @ u
        r = shapley.regression_residuals(phi[None], jnp.asarray(masks)[None], v, complement)
        return (r * np.sqrt(weights)[None, None, :, None].astype(np.float32)).reshape(-1)

    zero = jnp.zeros((n - 1, num_classes))
    slope = np.asarray(jax.jacfwd(residuals)(zero)).reshape(-1, (n - 1) * num_classes)
    u = np.linalg.lstsq(slope, -np.asarray(residuals(zero)), rcond=None)[0].reshape(n - 1, num_classes)
    return total / n + free @ u


@pytest.fixture
def game(rng):
    """Returns a game of five players and two classes, v(empty) = 0, with interactions of all orders."""
    values = rng.normal(size=(2**5, 2))
    values[0] = 0
    return values


def test_the_regression_over_all_coalitions_has_its_minimum_at_the_exact_shapley_values(game):
    pairs = shapley.enumerate_pairs(5)[1:]  # without (empty, all)
    phi = minimizer(pairs, kernel_weights(pairs), game, game[-1])
    np.testing.assert_allclose(phi, shapley.exact_shapley(game), atol=1e-5)


def test_the_regression_over_sampled_pairs_approaches_the_exact_shapley_values(game):
    def error(num_pairs):
        masks = np.asarray(shapley.sample_coalitions(jax.random.key(7), num_players=5, num_pairs=num_pairs))
        return np.abs(minimizer(masks, np.ones(num_pairs), game, game[-1]) - shapley.exact_shapley(game)).max()

    assert error(20_000) < 0.03
    assert error(20_000) < error(50) / 3


def test_sums_are_products_in_full_precision_on_accelerators_too():
    jaxpr = jax.make_jaxpr(shapley.coalition_sums)(jnp.ones((2, 5, 3)), jnp.ones((2, 4, 5), bool))
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert products and all(e.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for e in products)


def test_coalition_sums_are_those_of_members_and_of_the_others(rng):
    phi, masks = rng.normal(size=(2, 5, 3)).astype(np.float32), rng.random((2, 4, 5)) < 0.5
    inside, outside = shapley.coalition_sums(jnp.asarray(phi), jnp.asarray(masks))
    for b, m in itertools.product(range(2), range(4)):
        np.testing.assert_allclose(inside[b, m], phi[b, masks[b, m]].sum(axis=0), atol=1e-5)
        np.testing.assert_allclose(outside[b, m], phi[b, ~masks[b, m]].sum(axis=0), atol=1e-5)


def test_allocation_only_keeps_the_values_and_lets_the_gradient_move_no_total(rng):
    phi = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    np.testing.assert_allclose(shapley.allocation_only(phi), phi, atol=1e-6)
    gradient = jax.grad(lambda p: jnp.sum(weights * shapley.allocation_only(p)))(phi)
    np.testing.assert_allclose(gradient, weights - weights.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)


def test_difference_only_keeps_the_values_and_lets_the_gradient_move_no_sum(rng):
    values, complements, a, b = jnp.asarray(rng.normal(size=(4, 2, 5, 3)), jnp.float32)
    for kept, given in zip(shapley.difference_only(values, complements), (values, complements), strict=True):
        np.testing.assert_allclose(kept, given, atol=1e-6)

    def weighted(v, c):
        kept_v, kept_c = shapley.difference_only(v, c)
        return jnp.sum(a * kept_v + b * kept_c)

    gradient, complement_gradient = jax.grad(weighted, argnums=(0, 1))(values, complements)
    np.testing.assert_allclose(gradient, (a - b) / 2, atol=1e-6)
    np.testing.assert_allclose(complement_gradient, (b - a) / 2, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_what_a_coalition_and_its_complement_share_has_no_part_in_shapley_values(rng, n):
    values, shared = rng.normal(size=(2, 2**n, 2))
    shared = shared + shared[::-1]  # code of S^c: 2^n - 1 - code of S
    np.testing.assert_allclose(shapley.exact_shapley(values + shared), shapley.exact_shapley(values), atol=1e-9)
    alone = rng.normal(size=2**n)[:, None] * [[1.0, 0.0]]
    assert np.abs(shapley.exact_shapley(values + alone) - shapley.exact_shapley(values)).max() > 1e-3
