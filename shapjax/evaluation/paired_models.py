"""Compares two evaluated models on the same images: differences of their metrics with intervals, paired by image."""

import json
import os
from typing import Any

import numpy as np

from shapjax import paths
from shapjax.errors import UserError
from shapjax.evaluation import table
from shapjax.metrics import registry, shapley_agreement, statistics

# Metrics of a model: (key, title, better, digits).
OF_MODELS = (
    ("accuracy", "Accuracy", "higher", 4),
    ("half_removed", "Accuracy, half removed", "higher", 4),
    ("cross_entropy", "Cross-entropy", "lower", 4),
    ("r2", "R²", "higher", 4),
    ("r2_shares", "R² of shares", "higher", 4),
)


def compare(one: str | os.PathLike, other: str | os.PathLike, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compares what eval.py has written of two models that were evaluated on the same images.

    Args:
      one, other: directories of the evaluations.
      seed: of the resampling of images.

    Returns:
      for each metric that both have a JSON-able dict: key ("METHOD/METRIC" for one of a method's maps), title, better,
      digits, one and other (means), images, and difference, of one - other: mean, low, high of the 95 % interval.

    Raises:
      UserError: if the images or their labels differ.
    """
    (a, a_labels), (b, b_labels) = map(_per_image, (one, other))
    if not np.array_equal(a_labels, b_labels):
        raise UserError(f"{one} and {other} are evaluations of different images; evaluate both on the same")
    rows = []
    for key, (title, better, digits, values) in a.items():
        if key not in b:
            continue
        values, others = np.asarray(values, np.float64), np.asarray(b[key][-1], np.float64)
        if len(values) != len(others):
            raise UserError(f"{one} and {other} are evaluations of {len(values)} and {len(others)} images; evaluate "
                            "both on the same")
        difference = statistics.paired_difference(values, others, seed=seed)
        both = ~np.isnan(values - others)
        if both.any():
            rows.append({
                "key": key, "title": title, "better": better, "digits": digits, "images": int(difference.n),
                "one": float(values[both].mean()), "other": float(others[both].mean()),
                "difference": {name: float(getattr(difference, name)) for name in ("mean", "low", "high")}})
    return rows


def _per_image(directory: str | os.PathLike) -> tuple[dict[str, tuple[str, str, int, np.ndarray]], np.ndarray]:
    """Returns the metrics of an evaluation by key: title, better, digits and values [n]; and the images' labels."""
    directory = paths.as_path(directory)
    arrays, found = paths.read_arrays(directory / "eval.npz"), {}
    if "correct" in arrays:
        found = {"accuracy": arrays["correct"], "half_removed": arrays["correct_under_removal"][:, 5],
                 "cross_entropy": arrays["cross_entropies"]}
    if "ground_truth" in arrays:
        n, _, _, k = arrays["shapley"].shape
        agreement = shapley_agreement.agreement(
            *(arrays[name].reshape(n, -1, k) for name in ("shapley", "ground_truth")))
        found |= {name: agreement[name] for name in ("r2", "r2_shares")}
    metrics = {key: (title, better, digits, found[key]) for key, title, better, digits in OF_MODELS if key in found}
    summary = None
    if (directory / "methods.json").exists():
        summary = json.loads((directory / "methods.json").read_text())
    if summary and summary.get("step") == json.loads((directory / "eval.json").read_text())["step"]:
        for method in summary["methods"]:
            values = paths.read_arrays(directory / "methods" / f"{method['key']}.npz")
            for metric in summary["metrics"]:
                name, known = metric["key"], registry.METRICS[metric["key"]]
                if name in table.SHOWN and known.better and f"metric/{name}" in values:
                    metrics[f"{method['key']}/{name}"] = (f"{known.title} by {method['title']}", known.better,
                                                          known.digits, values[f"metric/{name}"])
    return metrics, arrays["labels"]
