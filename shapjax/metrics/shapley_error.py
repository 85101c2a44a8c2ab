"""How far given values are from the true Shapley values of the same game, and from efficiency."""

import numpy as np
from scipy import stats

from shapjax.games.checks import require_shape


def efficiency_gap(totals: np.ndarray, empty_values: np.ndarray, phi: np.ndarray) -> float:
    """Largest |f(x) - v(∅) - Σ_n phi_n| over images and classes.

    Args:
      totals: float [B, K], f(x) = v(all).
      empty_values: float [B, K], v(∅).
      phi: float [B, N, K].
    """
    return float(np.max(np.abs(totals - empty_values - phi.sum(axis=1))))


def agreement(phi: np.ndarray, exact: np.ndarray) -> dict[str, np.ndarray]:
    """Agreement of values with the true ones, over (patch, class) of each image.

    Args:
      phi: float [B, N, K]; of a method that explains one class, K = 1.
      exact: float [B, N, K].

    Returns:
      float64 [B] each: mse (squared logits), r2 = 1 - SSE/SST, r2_allocation, pearson, spearman. NaN where undefined:
      R² of a constant game, correlations with constant values. r2_allocation is R² once each class's mean over the
      patches is taken out of both: efficiency fixes these means, so even equal shares f(x)/N have an r2 above 0, but
      an r2_allocation of 0.
    """
    phi, exact = np.asarray(phi, np.float64), np.asarray(exact, np.float64)
    require_shape("values", phi, exact.shape, "images, patches, classes")
    allocations = [values - values.mean(axis=1, keepdims=True) for values in (phi, exact)]
    phi, exact = (values.reshape(len(values), -1) for values in (phi, exact))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "mse": np.mean((phi - exact) ** 2, axis=1),
            "r2": _r2(phi, exact),
            "r2_allocation": _r2(*(values.reshape(len(values), -1) for values in allocations)),
            "pearson": _pearson(phi, exact),
            "spearman": _pearson(*(stats.rankdata(values, axis=1) for values in (phi, exact))),
        }


def shapley_error(phi: np.ndarray, exact: np.ndarray) -> dict[str, float | list[float | None] | None]:
    """Means over images of each measure of `agreement`, and r2_per_image (B numbers); None where undefined."""
    per_image = agreement(phi, exact)
    means = {name: float(np.nanmean(values)) if not np.isnan(values).all() else None
             for name, values in per_image.items()}
    return means | {"r2_per_image": [None if np.isnan(r2) else float(r2) for r2 in per_image["r2"]]}


def _r2(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """1 - SSE/SST of rows [B, P]; NaN where the truth is constant (but for rounding: values are logits)."""
    sst = np.sum((truth - truth.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return np.where(np.ptp(truth, axis=1) > 1e-9, 1 - np.sum((estimate - truth) ** 2, axis=1) / sst, np.nan)


def _pearson(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Correlations of rows [B, P]; NaN where one is constant."""
    varies = (np.ptp(estimate, axis=1) > 0) & (np.ptp(truth, axis=1) > 0)
    centered = [values - values.mean(axis=1, keepdims=True) for values in (estimate, truth)]
    x, y = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in centered)
    return np.where(varies, np.clip(np.sum(x * y, axis=1), -1, 1), np.nan)
