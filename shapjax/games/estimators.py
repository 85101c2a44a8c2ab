"""Estimators of Shapley values for games too large to enumerate: paired KernelSHAP and antithetic permutations.

Letters as in `games.shapley`, and R permutations. Both estimators use only the difference v(S) - v(S^c) of a pair: what
a coalition shares with its complement, v(∅) included, cancels in Shapley values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

CONFIDENCE = 0.95  # of the interval ±1.96 standard errors, where few pairs make the errors themselves uncertain
ALONE = 0.98  # leverage of a pair without which the values are undetermined; 1 but for rounding and the ridge


class Estimate(NamedTuple):
    """Estimated Shapley values of B images with their standard errors.

    Attributes:
      values: float32 [B, N, K].
      standard_errors: float32 [B, N, K], in the units of the values.
      ratio: float32 [B], the largest standard error of an image over the spread (max - min) of its values.
      coalitions: int32 [B], coalitions that were evaluated, the full and the empty one included.
      converged: bool [B], whether the ratio is within the tolerance.
    """

    values: chex.Array
    standard_errors: chex.Array
    ratio: chex.Array
    coalitions: chex.Array
    converged: chex.Array


def kernel_shap_solve(masks: chex.Array, differences: chex.Array, totals: chex.Array, weights: chex.Array | None = None
                      ) -> tuple[chex.Array, chex.Array]:
    """Estimates the Shapley values of one game by paired KernelSHAP, a regression with a fixed total.

    Covert & Lee 2021.

    With x = ±1 for members and others, a pair's part of the regression depends on phi only through
    (v(S) - v(S^c) - x·phi)². The values are totals/N plus the least-squares deviations of sum zero.

    The moments of x are the sample's own (their equation 7). The estimate is consistent, and exact for games of
    interactions of at most two players once the moments have full rank. With the expected moments instead (their
    section 3.2) it would be unbiased, but its variance would be that of the differences, not of the regression's
    residuals: 2 to 1000 times as large on random two-layer networks of 10 players, equal on games without structure.

    The standard errors are heteroscedastic, by leverages, close to the jackknife's (MacKinnon & White 1985, HC3). They
    are scaled by the quotient of the quantiles of Student's and the normal distribution, so that ±1.96 standard errors
    cover about 95 % with few pairs too. They are infinite where the jackknife is undefined: where the values would be
    undetermined without one of the pairs (and its repetitions).

    Args:
      masks: bool [M, N], from `shapley.sample_coalitions`, or any others with their kernel weights.
      differences: float [M, K], v(S) - v(S^c).
      totals: float [K], v(all) - v(∅).
      weights: float [M]; 0 leaves a pair out. Default: all 1.

    Returns:
      values float32 [N, K], which sum to totals, and
      standard errors float32 [N, K], valid for weights of 0 and 1; infinite unless there are more pairs than players.
    """
    from scipy import special  # loads slowly, and most users of the package do without it

    m, n = masks.shape
    weight_M1 = jnp.ones((m, 1), jnp.float32) if weights is None else weights[:, None]
    x_MN = jnp.where(masks, jnp.float32(1), -1)
    share_K = totals / n
    y_MK = differences - x_MN.sum(axis=1, keepdims=True) * share_K
    x_MN = x_MN - x_MN.mean(axis=1, keepdims=True)  # deviations have sum zero, so only this part of x meets them
    with jax.default_matmul_precision("highest"):  # accelerators would multiply in fewer bits
        moments_NN, right_NK = x_MN.T @ (weight_M1 * x_MN), x_MN.T @ (weight_M1 * y_MK)
        scale = jnp.trace(moments_NN) / n
        # The moments are 0 along the ones, and in further directions if the sample leaves them open: values are equal
        # there. The second solution takes out the bias of the ridge.
        factor = jax.scipy.linalg.cho_factor(moments_NN + scale * (1e-4 * jnp.eye(n, dtype=jnp.float32) + 1 / n))
        psi_NK = jax.scipy.linalg.cho_solve(factor, right_NK)
        psi_NK += jax.scipy.linalg.cho_solve(factor, right_NK - moments_NN @ psi_NK)
        psi_NK -= psi_NK.mean(axis=0)
        influence_MN = jax.scipy.linalg.cho_solve(factor, x_MN.T).T
        leverage_M1 = (weight_M1 * x_MN * influence_MN).sum(axis=1, keepdims=True)
        residual_MK = weight_M1 * (y_MK - x_MN @ psi_NK) / jnp.maximum(1 - leverage_M1, 1e-3)
        variance_NK = (influence_MN**2).T @ residual_MK**2
    pairs = jnp.sum(weight_M1 > 0)
    freedom = np.maximum(np.arange(m + 1) - (n - 1), 1)  # of as many pairs as the index says
    tail = (1 + CONFIDENCE) / 2
    inflation = jnp.asarray(special.stdtrit(freedom, tail) / special.ndtri(tail), jnp.float32)[pairs]
    # Of two players, any pair tells the values exactly.
    alone = (n > 2) & (jnp.max(leverage_M1[:, 0] * _repetitions(masks, weight_M1[:, 0] > 0)) > ALONE)
    is_known = (pairs > n) & (jnp.sum(leverage_M1) > n - 1.5) & ~alone  # the leverages sum to the rank
    return share_K + psi_NK, jnp.where(is_known, inflation * jnp.sqrt(variance_NK), jnp.inf)


def _repetitions(masks: chex.Array, counts: chex.Array) -> chex.Array:
    """Counts how often each pair is among those that count: masks bool [M, N], counts bool [M] -> int [M]."""
    code_M = pair_codes(masks)
    order = jnp.argsort(code_M)
    sorted_M, below_M = code_M[order], jnp.cumulative_sum(counts[order], include_initial=True)
    first, last = (jnp.searchsorted(sorted_M, code_M, side=side) for side in ("left", "right"))
    return below_M[last] - below_M[first]


def pair_codes(masks: chex.Array) -> chex.Array:
    """Returns a number for each pair, the same for a coalition and its complement: masks bool [M, N] -> uint32 [M].

    It is a random sum of 32 bits, so different pairs have the same number only by rare chance.
    """
    bits_N = np.random.default_rng(0).integers(2**32, size=masks.shape[-1], dtype=np.uint32)
    same_segment_MN = masks == masks[:, -1:]
    return jnp.sum(jnp.where(same_segment_MN, bits_N, 0), axis=1, dtype=jnp.uint32)


def sample_ranks(key: chex.PRNGKey, *, num_players: int, num_permutations: int) -> chex.Array:
    """Draws uniform permutations, as the rank (place of arrival, from 0) of each player: int32 [R, N]."""
    ranks = jnp.broadcast_to(jnp.arange(num_players, dtype=jnp.int32), (num_permutations, num_players))
    return jax.random.permutation(key, ranks, axis=1, independent=True)


def permutation_prefixes(ranks: chex.Array) -> chex.Array:
    """Returns the coalitions of the first 1 … N-1 players of each permutation: ranks int [R, N] -> bool [R, N-1, N]."""
    return ranks[:, None, :] < jnp.arange(1, ranks.shape[1])[None, :, None]


def antithetic_contributions(ranks: chex.Array, differences: chex.Array, totals: chex.Array) -> chex.Array:
    """Computes the players' mean marginal contributions over a permutation and its reverse (Mitchell et al. 2022).

    The prefixes of the reverse are the complements of those of the permutation, so N-1 pairs give both.

    Args:
      ranks: int [R, N], from `sample_ranks`.
      differences: float [R, N-1, K], v(S) - v(S^c) of `permutation_prefixes`.
      totals: float [K], v(all) - v(∅).

    Returns:
      float [R, N, K], independent unbiased estimates of the Shapley values; each sums to totals.
    """
    ends_R1K = jnp.broadcast_to(totals, (ranks.shape[0], 1, totals.shape[0]))
    steps_RNK = jnp.diff(jnp.concatenate([-ends_R1K, differences, ends_R1K], axis=1), axis=1) / 2
    return jnp.take_along_axis(steps_RNK, ranks[:, :, None], axis=1)


class Moments(NamedTuple):
    """Mean and sum of squared deviations of `count` samples; both have a sample's shape."""

    count: chex.Array
    mean: chex.Array
    squares: chex.Array

    def add(self, samples: chex.Array) -> "Moments":
        """Returns the moments with samples [R, ...] added, merged without cancellation (Chan et al. 1983)."""
        count, mean = self.count + samples.shape[0], samples.mean(axis=0)
        shift = mean - self.mean
        squares = ((samples - mean) ** 2).sum(axis=0) + shift**2 * self.count * samples.shape[0] / count
        return Moments(count, self.mean + shift * samples.shape[0] / count, self.squares + squares)

    @property
    def standard_errors(self) -> chex.Array:
        """Returns standard errors of the mean; infinite for one sample."""
        variance = self.squares / (self.count * jnp.maximum(self.count - 1, 1))
        return jnp.where(self.count > 1, jnp.sqrt(variance), jnp.inf)


def until_precise(draw: Callable, estimate: Callable, state: Any, *, shape: tuple[int, int], tolerance: chex.Array,
                  max_rounds: int) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
    """Draws rounds until the largest standard error is within a fraction of the spread, or max_rounds are drawn.

    Args:
      draw: (state, index of the round) -> state.
      estimate: (state, number of rounds) -> values and standard errors, float [N, K].
      state: before the first round.
      shape: (N, K).
      tolerance: largest standard error / (max - min of the values) to stop at.
      max_rounds: at least 1.

    Returns:
      values [N, K], standard errors [N, K], their ratio, number of rounds.
    """
    def body(carry):
        index, state, *_ = carry
        state = draw(state, index)
        values, errors = estimate(state, index + 1)
        largest, spread = errors.max(), values.max() - values.min()
        # An error of 0 is precise, even if the spread is 0 too.
        return index + 1, state, values, errors, jnp.where(largest > 0, largest / spread, 0)

    def unfinished(carry):
        return (carry[0] < max_rounds) & (carry[-1] > tolerance)

    zero = jnp.zeros(shape, jnp.float32)
    start = (jnp.int32(0), state, zero, zero, jnp.float32(jnp.inf))
    rounds, _, values, errors, ratio = jax.lax.while_loop(unfinished, body, start)
    return values, errors, ratio, rounds
