"""The table of a comparison: means over images with intervals, and which methods are not worse than the best."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shapjax.attribution.registry import Method
from shapjax.metrics import localization, statistics
from shapjax.metrics.registry import Metric

CONFIDENCE = 0.95  # of intervals and differences
CORRECT = "_correct"  # ends the names of metrics of correctly classified images
CURVES = ("insertion", "deletion", "positive", "negative")
# Metrics of a dataset that are no means over images, from the sums over images.
OF_SUMS = {"pixel_accuracy": localization.pixel_accuracy, "miou": localization.mean_iou}
SHOWN = ("deletion", "insertion", "aopc", "lodds", "sensitivity_n", "shapley_pearson", "map", "pointing")  # printed


def summarize(results: Mapping[str, Mapping[str, np.ndarray]], methods: Sequence[Method], metrics: Sequence[Metric], *,
              coalitions: int, seed: int = 0) -> list[dict[str, Any]]:
    """Computes the rows of the table.

    A method is not significantly worse than the best if the interval of the paired difference, signed so that larger is
    better, has an upper end of at least 0.

    Args:
      results: by method, from `Measurement.measure` or `score`; without costs, these are None.
      methods, metrics: rows and columns.
      coalitions: that sampling methods took for an image.
      seed: of the resampling of images, the same for all intervals and differences.

    Returns:
      a JSON-able dict for each method: key, title, family, citation, options, cost, values by metric (mean, low, high,
      images, best, not_worse, difference to the best in the metric's own sign; None if undefined) and curves (means
      over images).
    """
    ordered = [results[method.key] for method in methods]
    columns = {metric.key: _column(metric, ordered, seed=seed, confidence=CONFIDENCE) for metric in metrics}
    rows = []
    for i, (method, result) in enumerate(zip(methods, ordered, strict=True)):
        rows.append({
            "key": method.key, "title": method.title, "family": method.family, "citation": method.citation,
            "options": f"{coalitions:,} coalitions".replace(",", "\u00a0") if method.sampled else "",
            "cost": {name: None if np.isnan(cost := result.get(f"cost/{name}", np.nan)) else kind(cost)
                     for name, kind in (("passes", float), ("seconds", float), ("peak_bytes", int))},
            "values": {key: column[i] for key, column in columns.items()},
            "curves": {name: np.mean(result[f"curve/{name}"], axis=0, dtype=np.float64).tolist() for name in CURVES},
        })
    return rows


def line(row: Mapping[str, Any]) -> str:
    """Returns a method's means and time in one line, from its row of `summarize`."""
    means = "  ".join(f"{key} {value['mean']:.2f}" if value else f"{key} –" for key, value in row["values"].items())
    return f"{row['key']:22}{means}  {row['cost']['seconds']:.2g} s an image"


def _column(metric: Metric, results: Sequence[Mapping[str, np.ndarray]], **options: Any) -> list[dict[str, Any] | None]:
    """Returns one metric of all methods; options are those of `statistics.bootstrap`."""
    base = metric.key.removesuffix(CORRECT)
    rows = np.stack([np.asarray(result[f"metric/{base}"], np.float64) for result in results], axis=1)
    if base != metric.key:
        rows = rows[results[0]["correct"]]
    if not len(rows):
        return [None] * len(results)
    of_sums = OF_SUMS.get(base)
    means = statistics.bootstrap(of_sums, rows, **options) if of_sums else statistics.bootstrap_mean(rows, **options)
    column = [None if np.isnan(mean) else {"mean": float(mean), "low": float(low), "high": float(high),
                                           "images": int(n), "best": False, "not_worse": False, "difference": None}
              for mean, low, high, n in zip(*np.broadcast_arrays(*means), strict=True)]
    if metric.better is None or not any(column):
        return column
    sign = 1 if metric.better == "higher" else -1
    best = int(np.nanargmax(sign * means.mean))
    column[best] |= {"best": True, "not_worse": True}
    for i, entry in enumerate(column):
        if entry is None or i == best:
            continue
        if of_sums:
            difference = statistics.bootstrap(
                lambda total: of_sums(total)[..., 0] - of_sums(total)[..., 1], rows[:, [i, best]], **options)
        else:
            difference = statistics.paired_difference(rows[:, i], rows[:, best], **options)
        if not np.isnan(difference.mean):
            entry["difference"] = {name: float(getattr(difference, name)) for name in ("mean", "low", "high")}
            entry["not_worse"] = bool((difference.high if sign > 0 else -difference.low) >= 0)
    return column
