"""Agreement of attributions with the Shapley values of the same game, and their efficiency gap."""

import warnings

import numpy as np

from shapjax.games.checks import require_shape


def efficiency_gap(totals: np.ndarray, empty_values: np.ndarray, phi: np.ndarray) -> float:
    """Computes the largest |f(x) - v(∅) - Σ_n phi_n| over images and classes.

    Args:
      totals: float [B, K], f(x) = v(all).
      empty_values: float [B, K], v(∅).
      phi: float [B, N, K].
    """
    return float(np.max(np.abs(totals - empty_values - phi.sum(axis=1))))


def agreement(phi: np.ndarray, ground_truth: np.ndarray) -> dict[str, np.ndarray]:
    """Measures the agreement of values with the ground truth, over (patch, class) of each image.

    R² of shares leaves out each class's mean over the patches, in the values and in the ground truth. Efficiency fixes
    these means, so equal values f(x)/N have an R² above 0, but an R² of shares of 0.

    Args:
      phi: float [B, N, K]; K = 1 for a method that explains one class.
      ground_truth: float [B, N, K].

    Returns:
      float64 [B] each: mse (squared logits), r2 = 1 - SSE/SST, r2_shares, pearson, spearman. NaN where undefined: R² of
      a constant game, correlations with constant values.

    Raises:
      ValueError: if the shapes differ.
    """
    from scipy import stats  # loads slowly, and most users of the package do without it

    phi, ground_truth = np.asarray(phi, np.float64), np.asarray(ground_truth, np.float64)
    require_shape("values", phi, ground_truth.shape, "images, patches, classes")
    shares = [(values - values.mean(axis=1, keepdims=True)).reshape(len(values), -1) for values in (phi, ground_truth)]
    phi, ground_truth = (values.reshape(len(values), -1) for values in (phi, ground_truth))
    ranks = [stats.rankdata(values, axis=1) for values in (phi, ground_truth)]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of constant values
        return {
            "mse": np.mean((phi - ground_truth) ** 2, axis=1),
            "r2": _r2(phi, ground_truth),
            "r2_shares": _r2(*shares),
            "pearson": stats.pearsonr(phi, ground_truth, axis=1).statistic,
            "spearman": stats.pearsonr(*ranks, axis=1).statistic,
        }


def shapley_error(phi: np.ndarray, ground_truth: np.ndarray) -> dict[str, float | list[float | None] | None]:
    """Averages the measures of `agreement` over images, and adds r2_per_image (B numbers); None where undefined.

    Args:
      phi: float [B, N, K].
      ground_truth: of that shape.
    """
    per_image = agreement(phi, ground_truth)
    return {name: _mean(values) for name, values in per_image.items()} | {
        "r2_per_image": [None if np.isnan(r2) else float(r2) for r2 in per_image["r2"]]}


def r2_ceiling(ground_truth: np.ndarray, standard_errors: np.ndarray) -> float | None:
    """Estimates the R² that perfect values would have against an estimated ground truth.

    The mean over images of 1 - mean(SE²) / Var(ground truth), over (patch, class).

    Args:
      ground_truth: float [B, N, K].
      standard_errors: float [B, N, K], of the ground truth; 0 where it is exact.

    Returns:
      at most 1; None where undefined, as R².

    Raises:
      ValueError: if the shapes differ.
    """
    ground_truth, errors = np.asarray(ground_truth, np.float64), np.asarray(standard_errors, np.float64)
    require_shape("standard errors", errors, ground_truth.shape, "images, patches, classes")
    ground_truth = ground_truth.reshape(len(ground_truth), -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _mean(_r2(ground_truth + errors.reshape(ground_truth.shape), ground_truth))


def _mean(values: np.ndarray) -> float | None:
    """Averages the defined values; None if there are none."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def _r2(estimate: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Computes 1 - SSE/SST of rows [B, P]; NaN where the target is constant (but for rounding of logits)."""
    sst = np.sum((target - target.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return np.where(np.ptp(target, axis=1) > 1e-9, 1 - np.sum((estimate - target) ** 2, axis=1) / sst, np.nan)
