"""Refined Shapley values are the textbook's posterior, tend to the Shapley values, and know their error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapjax.games import refinement, shapley

N, K = 6, 3
posterior = jax.jit(refinement.posterior)


def draw(seed=0, *, n=N, k=K, m=9, scale=1.0):
    """Returns a prior, masks, differences and totals that belong to no game."""
    rng = np.random.default_rng(seed)
    masks = np.asarray(shapley.sample_coalitions(jax.random.key(seed), num_players=n, num_pairs=m))
    return (scale * rng.normal(size=(n, k)), masks, scale * rng.normal(size=(m, k)), scale * rng.normal(size=k))


def textbook(prior, masks, differences, totals, *, ridge, shares=None):
    """Returns mean and variance given the pairs, and misfit, by dense algebra in float64: the normal law, conditioned.

    delta ~ N(0, diag(shares)), given that its sum is 0; noise ~ N(0, λ I).
    """
    n = len(prior)
    prior = prior + (totals - prior.sum(axis=0)) / n
    shares = np.ones(n) if shares is None else shares
    x, law = np.where(masks, 1.0, -1.0), np.diag(shares) - np.outer(shares, shares) / shares.sum()
    gain = law @ x.T @ np.linalg.inv(x @ law @ x.T + ridge * np.eye(len(masks)))
    covariance = law - gain @ x @ law
    residual = differences - x @ prior
    misfit = np.sum(residual * np.linalg.solve(x @ law @ x.T + ridge * np.eye(len(masks)), residual), axis=0)
    return prior + gain @ residual, np.diag(covariance)[:, None], misfit


def distinct(arrays):
    """Leaves out pairs that are drawn again, whose noise is no news."""
    prior, masks, differences, totals = arrays
    _, first = np.unique(masks == masks[:, -1:], axis=0, return_index=True)
    return prior, masks[first], differences[first], totals


@pytest.mark.parametrize("m", [0, 1, 4, 40])
@pytest.mark.parametrize("shares", [None, np.array([0.1, 0.5, 1.0, 2.0, 3.0, 0.2])])
def test_it_is_the_normal_law_conditioned_on_the_pairs(m, shares):
    arrays = distinct(draw(m=m))
    got = posterior(*map(jnp.asarray, arrays), ridge=0.7, shares=shares)
    mean, variance, misfit = textbook(*arrays, ridge=0.7, shares=shares)
    np.testing.assert_allclose(got.misfit, misfit, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got.values, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.variances, np.broadcast_to(variance, (N, K)), rtol=1e-4, atol=1e-6)


def test_without_pairs_it_is_the_prior_moved_to_the_totals():
    prior, masks, differences, totals = draw(m=0)
    got = posterior(prior, masks, differences, totals, ridge=0.3)
    np.testing.assert_allclose(got.values, prior + (totals - prior.sum(axis=0)) / N, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.variances, 1 - 1 / N, rtol=1e-5)


@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([1e-4, 1.0, 1e4]))
def test_efficiency_holds_to_rounding(seed, scale, ridge):
    arrays = draw(seed, scale=scale)
    got = posterior(*arrays, ridge=ridge)
    np.testing.assert_allclose(got.values.sum(axis=0), arrays[-1], atol=2e-5 * scale)
    assert (got.variances >= 0).all()


def game(seed=0, n=N, k=K):
    """Returns the values of all coalitions of a random game with v(∅) = 0, float [2^n, k]."""
    values = np.random.default_rng(seed).normal(size=(2**n, k))
    values[0] = 0
    return values


def every_pair(values, n=N):
    """Returns the masks of all pairs but (∅, all), their differences, totals and kernel probabilities."""
    masks = shapley.enumerate_pairs(n)
    codes = np.arange(len(masks))
    differences = values[codes] - values[2**n - 1 - codes]
    size = masks.sum(axis=1)[1:]
    probability = shapley.kernel_size_probabilities(n)[size - 1] / np.array([math.comb(n, s) for s in size])
    return masks[1:], differences[1:], values[-1], probability


def test_all_pairs_at_kernel_weights_without_noise_give_the_shapley_values():
    values = game()
    masks, differences, totals, probability = every_pair(values)
    prior = np.random.default_rng(1).normal(size=(N, K))
    got = posterior(prior, masks, differences, totals, ridge=1e-9, weights=probability / probability.mean())
    np.testing.assert_allclose(got.values, shapley.exact_shapley(values), atol=1e-4)


def test_pairs_drawn_otherwise_give_the_shapley_values_by_their_importance_weights():
    values = game(2)
    masks, differences, totals, probability = every_pair(values)
    rows = np.random.default_rng(0).integers(len(masks), size=60_000)  # uniform, not from the kernel
    weights = probability[rows] / probability.mean()
    weighted, plain = (posterior(np.zeros((N, K)), masks[rows], differences[rows], totals, ridge=1e-6, weights=w).values
                       for w in (weights, None))
    exact = shapley.exact_shapley(values)
    assert np.abs(weighted - exact).max() < 0.03 < np.abs(plain - exact).max()


@given(st.integers(0, 10**6))
def test_an_additive_game_is_exact_whatever_the_prior_once_the_pairs_tell_all(seed):
    rng = np.random.default_rng(seed)
    phi, prior = rng.normal(size=(2, N, K))
    masks = np.tril(np.ones((N, N), bool))[:-1]  # N − 1 nested coalitions
    got = posterior(prior, masks, np.where(masks, 1, -1) @ phi, phi.sum(axis=0), ridge=1e-9)
    np.testing.assert_allclose(got.values, phi, atol=1e-3)
    assert got.variances.max() < 1e-3


@given(st.integers(0, 10**6))
def test_the_order_of_pairs_does_not_matter_and_patches_can_be_renamed(seed):
    prior, masks, differences, totals = draw(seed)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(len(masks)), rng.permutation(N)
    noise = rng.random(len(masks)) + 0.5
    first = posterior(prior, masks, differences, totals, noise=noise, ridge=0.5)
    other = posterior(prior[names], masks[order][:, names], differences[order], totals, noise=noise[order], ridge=0.5)
    for a, b in zip(first[:2], other[:2], strict=True):
        np.testing.assert_allclose(np.asarray(a)[names], b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first.misfit, other.misfit, rtol=1e-3)


@pytest.mark.parametrize("m", [0, 3, 8, 64])
def test_errors_of_games_drawn_from_the_prior_are_as_large_as_it_says(m):
    n, k, tau, ridge, games = 8, 4, 1.5, 2.0, 800
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), games)
    masks = np.array(jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=n, num_pairs=m))(keys))
    noise_of_size, shares = rng.uniform(0.2, 3.0, n), np.linspace(0.2, 3, n)
    noise = noise_of_size[np.minimum(masks.sum(axis=2), n - masks.sum(axis=2))]
    prior, delta = rng.normal(size=(games, n, k)), tau * np.sqrt(shares)[:, None] * rng.normal(size=(games, n, k))
    delta -= (shares / shares.sum())[:, None] * delta.sum(axis=1, keepdims=True)
    truth = prior + delta
    codes = (masks == masks[..., -1:]) @ 2 ** np.arange(n)
    of_pair = rng.normal(size=(games, 2**n, k))  # a pair that is drawn again has the same noise, of the other sign ...
    error = np.take_along_axis(of_pair, codes[..., None], axis=1) * np.where(masks[..., -1:], 1, -1)  # as complement
    differences = np.einsum("gmn,gnk->gmk", np.where(masks, 1, -1), truth)
    differences = differences + tau * np.sqrt(ridge * noise)[..., None] * error
    got = jax.vmap(lambda *a: posterior(*a[:4], ridge=ridge, noise=a[4], shares=shares))(
        prior, masks, differences, truth.sum(axis=1), noise)
    z = np.asarray((truth - got.values) / (tau * np.sqrt(got.variances)))
    for level, bound in ((0.5, 0.6745), (0.8, 1.2816), (0.95, 1.96)):
        assert np.mean(np.abs(z) < bound) == pytest.approx(level, abs=0.015)


@pytest.mark.parametrize(("n", "m"), [(196, 64), (256, 2000)])
def test_it_is_stable_at_the_sizes_of_large_models(n, m):
    prior, masks, differences, totals = distinct(draw(n=n, k=5, m=m))
    got = posterior(prior, masks, differences, totals, ridge=0.05)
    mean, variance, _ = textbook(prior, masks, differences, totals, ridge=0.05)
    np.testing.assert_allclose(got.values, mean, atol=2e-3)
    np.testing.assert_allclose(got.variances, np.broadcast_to(variance, (n, 5)), rtol=5e-3, atol=1e-6)
