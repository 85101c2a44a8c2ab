"""Says how far a prior, such as phi, is from the Shapley values; refines values and gives their errors by that law.

The law's numbers are fitted on images whose Shapley values are nearly known (`shapjax.evaluation.calibration`). Letters
as in `games.shapley`.
"""

import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from shapjax.errors import UserError
from shapjax.games.refinement import posterior


class ErrorLaw(NamedTuple):
    """Holds the law of a prior's errors and of the noise of pairs, the same for all images of a model.

    In units of an image, the root mean square of its prior, the errors of a class have the standard deviation τ. They
    are normal given τ², which varies from class to class and image to image: freedom · scale² / τ² is χ² distributed.
    A patch's share of the variance grows with its prior.

    Attributes:
      scale: float scalar, the usual τ.
      freedom: float scalar, the degrees of freedom of τ²: the more, the less it varies.
      floor: float scalar, of a patch's share beside its squared prior: floor + prior² / (mean of prior²).
      ridge: float scalar, the variance of a pair's noise over τ².
      budgets: float [C], increasing, pairs over players; 0 first.
      factors: float [C], what standard errors at these budgets are multiplied by for their intervals to hold.
    """

    scale: chex.Array
    freedom: chex.Array
    floor: chex.Array
    ridge: chex.Array
    budgets: chex.Array
    factors: chex.Array

    def to_dict(self) -> dict[str, Any]:
        """Returns the law as JSON can hold it."""
        return {name: np.asarray(value).tolist() for name, value in self._asdict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ErrorLaw":
        """Inverts `to_dict`.

        Raises:
          ValueError: unless the values are those of a law.
        """
        if not isinstance(values, Mapping) or values.keys() != set(cls._fields):
            raise ValueError(f"expected {', '.join(cls._fields)}")
        law = cls(**{name: np.asarray(values[name], np.float32) for name in cls._fields})
        shapes = [x.shape for x in law]
        if shapes[:4] != [()] * 4 or len(shapes[4]) != 1 or shapes[4] != shapes[5] or not shapes[4][0]:
            raise ValueError("expected four numbers, and as many factors as budgets")
        if not all(np.all(np.isfinite(x) & (x >= 0)) for x in law) or np.any(np.diff(law.budgets) <= 0):
            raise ValueError("expected finite numbers of at least 0, and increasing budgets")
        return law


class Refined(NamedTuple):
    """Holds Shapley values with their errors, which follow Student's law.

    Attributes:
      values: float32 [..., N, K], or [..., N] of one class; they sum to the totals.
      standard_errors: of the same shape, the scale of Student's law.
      freedom: float32 [...], its degrees of freedom.
    """

    values: chex.Array
    standard_errors: chex.Array
    freedom: chex.Array

    def half_width(self, level: float = 0.95) -> np.ndarray:
        """Returns half the widths of intervals that hold this share of the Shapley values, float64 as the values.

        Not to be traced.

        Raises:
          UserError: if level is not between 0 and 1.
        """
        from scipy import special  # loads slowly, and most users of the package do without it

        if not isinstance(level, numbers.Real) or not 0 < level < 1:
            raise UserError(f"level is {level!r}, expected a share between 0 and 1, such as 0.95")
        errors, freedom = np.asarray(self.standard_errors, np.float64), np.asarray(self.freedom, np.float64)
        quantile = special.stdtrit(freedom, (1 + level) / 2)
        return quantile.reshape(*freedom.shape, *[1] * (errors.ndim - freedom.ndim)) * errors

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of these intervals, float64 as the values each; errors as of `half_width`."""
        values, half = np.asarray(self.values, np.float64), self.half_width(level)
        return values - half, values + half


def without_pairs(law: ErrorLaw, prior: chex.Array) -> Refined:
    """Returns a prior, float [N, K], with its errors."""
    n, k = prior.shape
    return refine(law, prior, jnp.zeros((0, n), bool), jnp.zeros((0, k), jnp.float32), prior.sum(axis=0))


def refine(law: ErrorLaw, prior: chex.Array, masks: chex.Array, differences: chex.Array, totals: chex.Array,
           taken: chex.Array | None = None) -> Refined:
    """Refines the prior of one game by pairs, as `refinement.posterior` does; without pairs, returns the prior.

    How far the pairs are from what the prior says of them tells how large its errors are in this game.

    Args:
      law: of the prior.
      prior: float [N, K].
      masks: bool [M, N], from `shapley.sample_coalitions`.
      differences: float [M, K], v(S) − v(S^c).
      totals: float [K], v(all) − v(∅).
      taken: int scalar, how many of the pairs to use, the first ones; None: all.
    """
    (m, n), weights = masks.shape, None
    if taken is not None:
        m, weights = taken, (jnp.arange(m) < taken).astype(jnp.float32)
    square_N = jnp.mean(prior**2, axis=1)
    unit = jnp.maximum(jnp.mean(square_N), jnp.finfo(jnp.float32).tiny)
    share_N = (law.floor + square_N / unit) / (law.floor + 1)
    known = posterior(prior, masks, differences, totals, ridge=law.ridge, shares=share_N, weights=weights)
    seen = known.distinct * known.misfit / (jnp.maximum(m, 1) * unit)
    freedom = law.freedom + known.distinct
    tau_K = jnp.sqrt((law.freedom * law.scale**2 + seen) / freedom)
    factor = jnp.interp(jnp.log1p(m / n), jnp.log1p(law.budgets), law.factors)
    errors_NK = factor * jnp.sqrt(unit * known.variances) * tau_K
    return Refined(known.values, errors_NK, freedom)
