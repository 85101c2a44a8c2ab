"""The table of a comparison: means over images with intervals, and which methods are not worse than the best."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shapjax.attribution.registry import Method
from shapjax.metrics import localization, statistics
from shapjax.metrics.registry import Metric

CORRECT = "_correct"  # ends the names of metrics of correctly classified images
CURVES = ("insertion", "deletion", "positive", "negative")
SHOWN = ("deletion", "insertion", "aopc", "lodds", "sensitivity_n", "shapley_pearson", "map", "pointing")  # printed


def summarize(results: Mapping[str, Mapping[str, np.ndarray]], methods: Sequence[Method], metrics: Sequence[Metric], *,
              coalitions: int, seed: int = 0, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Computes the rows of the table.

    A method is not significantly worse than the best if the interval of the paired difference, signed so that larger is
    better, has an upper end of at least 0.

    Args:
      results: by method, from `Measurement.measure`.
      methods, metrics: rows and columns.
      coalitions: that sampling methods took for an image.
      seed: of the resampling.
      confidence: of intervals and differences (bootstrap over images, the same resamples for all).

    Returns:
      a JSON-able dict for each method: key, title, family, citation, options, cost, values by metric (mean, low, high,
      images, best, not_worse, difference to the best in the metric's own sign; None if undefined) and curves (means
      over images).
    """
    columns = {metric.key: _column(metric, [results[m.key] for m in methods], seed, confidence)
               for metric in metrics}
    rows = []
    for i, method in enumerate(methods):
        result = results[method.key]
        peak = float(result["cost/peak_bytes"])
        rows.append({
            "key": method.key, "title": method.title, "family": method.family, "citation": method.citation,
            "options": f"{coalitions:,} coalitions".replace(",", "\u00a0") if method.sampled else "",
            "cost": {"passes": float(result["cost/passes"]), "seconds": float(result["cost/seconds"]),
                     "peak_bytes": None if np.isnan(peak) else int(peak)},
            "values": {key: column[i] for key, column in columns.items()},
            "curves": {name: np.mean(result[f"curve/{name}"], axis=0, dtype=np.float64).tolist()
                       for name in CURVES},
        })
    return rows


def line(row: Mapping[str, Any]) -> str:
    """Returns a method's means and time in one line, from its row of `summarize`."""
    means = "  ".join(f"{key} {value['mean']:.2f}" if value else f"{key} –" for key, value in row["values"].items())
    return f"{row['key']:22}{means}  {row['cost']['seconds']:.2g} s an image"


def _column(metric: Metric, results: Sequence[Mapping[str, np.ndarray]], seed: int, confidence: float
            ) -> list[dict[str, Any] | None]:
    """Returns one metric of all methods."""
    base = metric.key.removesuffix(CORRECT)
    rows = np.stack([np.asarray(result[f"metric/{base}"], np.float64) for result in results], axis=1)
    where = np.asarray(results[0]["correct"]) if base != metric.key else np.ones(len(rows), bool)
    statistic = _STATISTICS.get(base)

    def interval(values: np.ndarray, of: Callable | None) -> statistics.Interval:
        if of is None:
            return statistics.bootstrap_mean(values[where], seed=seed, confidence=confidence)
        return statistics.bootstrap(of, values[where], seed=seed, confidence=confidence)

    if not where.any():
        return [None] * len(results)
    means = interval(rows, statistic)
    column = [None if np.isnan(means.mean[i]) else
              {"mean": float(means.mean[i]), "low": float(means.low[i]), "high": float(means.high[i]),
               "images": int(np.broadcast_to(means.n, means.mean.shape)[i]), "best": False, "not_worse": False,
               "difference": None}
              for i in range(len(results))]
    if metric.better is None or not any(column):
        return column
    sign = 1 if metric.better == "higher" else -1
    best = int(np.nanargmax(sign * means.mean))
    column[best] |= {"best": True, "not_worse": True}
    for i, entry in enumerate(column):
        if entry is None or i == best:
            continue
        if statistic is None:
            difference = statistics.paired_difference(rows[where, i], rows[where, best], seed=seed,
                                                      confidence=confidence)
        else:
            difference = interval(rows[:, [i, best]], lambda total: statistic(total)[..., 0] - statistic(total)[..., 1])
        if np.isnan(difference.mean):
            continue
        entry["difference"] = {name: float(getattr(difference, name)) for name in ("mean", "low", "high")}
        entry["not_worse"] = bool((difference.high if sign > 0 else -difference.low) >= 0)
    return column


def _counts(total: np.ndarray) -> localization.SegmentationCounts:
    """Returns summed counts [..., 6], as `scoring.localization_scores` lays them side by side, by name."""
    return localization.SegmentationCounts(total[..., 0], total[..., 1], total[..., 2:4], total[..., 4:6])


# Metrics of a dataset that are no means over images, from the sums over images.
_STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixel_accuracy": lambda total: localization.pixel_accuracy(_counts(total)),
    "miou": lambda total: localization.mean_iou(_counts(total)),
}
