"""How far given values are from the exact Shapley values of the same game, and from efficiency."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from shapjax import shapley

# A coalition-pair evaluator of one image's game: masks bool [M, N] -> v(S), v(S^c), two float [M, K].
PairFn = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def exact_shapley_values(pair_fn: PairFn, num_players: int) -> np.ndarray:
    """Exact Shapley values of a game by evaluating all its coalitions: 2^(N-1) packed pairs give 2^N values.

    Args:
      pair_fn: evaluates coalitions and their complements.
      num_players: N.

    Returns:
      float64 [N, K].

    Raises:
      UserError: if N is too large (`shapley.MAX_EXACT_PLAYERS`).
    """
    values, complements = pair_fn(shapley.enumerate_pairs(num_players))
    # Row i is the coalition of code i; its complement has code 2^N - 1 - i.
    return shapley.exact_shapley(np.concatenate([values, complements[::-1]]))


def efficiency_gap(totals: np.ndarray, empty_values: np.ndarray, phi: np.ndarray) -> float:
    """Largest |f(x) - v(∅) - Σ_n phi_n| over images and classes.

    Args:
      totals: float [B, K], f(x) = v(all).
      empty_values: float [B, K], v(∅).
      phi: float [B, N, K].
    """
    return float(np.max(np.abs(totals - empty_values - phi.sum(axis=1))))


def shapley_error(phi: np.ndarray, exact: np.ndarray) -> dict[str, float | list[float | None] | None]:
    """Agreement of values with the exact ones, over (patch, class) of each image, averaged over images.

    Args:
      phi: float [B, N, K].
      exact: float [B, N, K].

    Returns:
      mse (squared logits), r2 = 1 - SSE/SST, r2_allocation, pearson, spearman, and r2_per_image (B numbers). None where
      undefined: R² of a constant game, correlations with constant values. r2_allocation is R² once each class's mean
      over the patches is taken out of both: efficiency fixes these means, so even equal shares f(x)/N have an r2 above
      0, but an r2_allocation of 0.
    """
    rows = [_agreement(a, e) for a, e in zip(phi.astype(np.float64), exact, strict=True)]
    means = {name: _mean([row[name] for row in rows]) for name in ("mse", "r2", "r2_allocation", "pearson", "spearman")}
    return means | {"r2_per_image": [row["r2"] for row in rows]}


def _agreement(estimate: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """The measures of one image, from float64 [N, K]."""
    allocation = _r2(estimate - estimate.mean(axis=0), truth - truth.mean(axis=0))
    estimate, truth = estimate.ravel(), truth.ravel()
    varies = np.ptp(estimate) > 0 and np.ptp(truth) > 0
    return {
        "mse": float(np.mean((estimate - truth) ** 2)),
        "r2": _r2(estimate, truth),
        "r2_allocation": allocation,
        "pearson": float(stats.pearsonr(estimate, truth).statistic) if varies else None,
        "spearman": float(stats.spearmanr(estimate, truth).statistic) if varies else None,
    }


def _r2(estimate: np.ndarray, truth: np.ndarray) -> float | None:
    """1 - SSE/SST over all entries; None where the truth is constant (but for rounding: values are logits)."""
    sst = np.sum((truth - truth.mean()) ** 2)
    return float(1 - np.sum((estimate - truth) ** 2) / sst) if np.ptp(truth) > 1e-9 else None


def _mean(values: list[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None
