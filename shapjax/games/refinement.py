"""Shapley values with their error: a prior, such as phi, refined by coalition pairs.

Letters as in `games.shapley`. With the error of the prior, delta = Shapley values − prior, whose sum over the players
is 0, a pair's difference is

    v(S) − v(S^c) = x·prior + x·delta + noise,    x = ±1 for members and others.

Normal laws of delta and of the noise make this a ridge regression: Bayesian KernelSHAP (Slack et al. 2021) around a
prior that is already good. Without pairs it is the prior; as their number grows it becomes paired KernelSHAP (Covert &
Lee 2021) and tends to the Shapley values, whatever the prior.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from shapjax.games.estimators import pair_codes

MIN_RIDGE = 1e-5  # of the mean diagonal of the moments; below it float32 cannot tell whether they are singular


class Posterior(NamedTuple):
    """Holds what is known of the Shapley values of one game.

    Attributes:
      values: float32 [N, K]; they sum to the totals.
      variances: float32 [N, K], of their errors over τ².
      misfit: float32 [K], how far the differences are from what the prior says of them: their squared length in its
        covariance for τ = 1. Its expectation is τ² times the number of pairs.
      distinct: int32 scalar, the number of pairs that differ, those left out not counted.
    """

    values: chex.Array
    variances: chex.Array
    misfit: chex.Array
    distinct: chex.Array


def posterior(prior: chex.Array, masks: chex.Array, differences: chex.Array, totals: chex.Array, *, ridge: chex.Array,
              shares: chex.Array | None = None, weights: chex.Array | None = None, noise: chex.Array | None = None
              ) -> Posterior:
    """Refines a prior of one game by pairs; without pairs, returns the prior, moved to the totals.

    The classes share one factorization. The values weigh the pairs as the Shapley kernel does, whatever is known of
    the noise: that enters the variances only, which are those of the linear estimate that the values are. The noise of
    a pair is the game's, not a measurement's: drawn again, the pair has the same.

    Args:
      prior: float [N, K].
      masks: bool [M, N], from `shapley.sample_coalitions`, or any others with their importance weights.
      differences: float [M, K], v(S) − v(S^c).
      totals: float [K], v(all) − v(∅).
      ridge: float scalar λ > 0, the variance of the noise over τ², that of the error of a player whose share is 1.
      shares: float [N], positive: the variance of each player's error over τ², but for their sum, which is 0.
        Default: all 1.
      weights: float [M], kernel probability over the probability that the pair was drawn with; 0 leaves a pair out.
        Default: all 1.
      noise: float [M], variance of the noise of each pair over λ τ². Default: all 1.
    """
    m, n = masks.shape
    prior = prior + (totals - prior.sum(axis=0)) / n
    share_N = jnp.ones(n, jnp.float32) if shares is None else jnp.asarray(shares)
    weight_M1 = jnp.ones((m, 1), jnp.float32) if weights is None else jnp.asarray(weights)[:, None]
    if not m:
        variance_NK = jnp.broadcast_to((share_N - share_N**2 / share_N.sum())[:, None], prior.shape)
        return Posterior(prior, variance_NK, misfit=jnp.zeros_like(totals), distinct=jnp.int32(0))
    noise_M = jnp.ones(m, jnp.float32) if noise is None else jnp.asarray(noise)
    x_MN = jnp.where(masks, jnp.float32(1), -1)
    sign_M1 = x_MN[:, -1:]
    with jax.default_matmul_precision("highest"):  # accelerators would multiply in fewer bits
        residual_MK = differences - x_MN @ prior
        x_MN -= x_MN.mean(axis=1, keepdims=True)  # delta has sum zero, so only this part of x meets it
        moments_NN, right_NK = x_MN.T @ (weight_M1 * x_MN), x_MN.T @ (weight_M1 * residual_MK)
        diagonal = jnp.trace(moments_NN) / n
        ridge = jnp.maximum(ridge, MIN_RIDGE * diagonal)
        ridge_N = ridge / share_N
        # The moments are 0 along the ones: what is added there changes nothing, as the inverse leaves them out.
        factor = jax.scipy.linalg.cho_factor(moments_NN + jnp.diag(ridge_N) + diagonal / n)
        inverse_NN = jax.scipy.linalg.cho_solve(factor, jnp.eye(n, dtype=jnp.float32))
        ones_N = inverse_NN.sum(axis=0)
        inverse_NN -= jnp.outer(ones_N, ones_N) / ones_N.sum()  # of deltas whose sum is 0
        delta_NK = inverse_NN @ right_NK
        delta_NK += inverse_NN @ (right_NK - moments_NN @ delta_NK - ridge_N[:, None] * delta_NK)  # less rounding
        gain_MN = weight_M1 * (x_MN @ inverse_NN) * sign_M1  # of the noise, which a complement has negated
        _, pair_M = jnp.unique(pair_codes(masks), return_inverse=True, size=m)
        taken_M = (weight_M1[:, 0] > 0).astype(jnp.float32)
        gain_MN, noise_M, count_M = (jax.ops.segment_sum(a, pair_M, m) for a in (gain_MN, taken_M * noise_M, taken_M))
        noise_M /= jnp.maximum(count_M, 1)
        variance_N = ridge * (inverse_NN**2 @ ridge_N + noise_M @ gain_MN**2)
        misfit_K = jnp.sum(weight_M1 * residual_MK**2, axis=0) - jnp.sum(right_NK * delta_NK, axis=0)
    return Posterior(prior + delta_NK - delta_NK.mean(axis=0), jnp.broadcast_to(variance_N[:, None], prior.shape),
                     misfit_K / ridge, jnp.sum(count_M > 0))
