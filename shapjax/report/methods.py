"""Prepares the page's sections on the methods compared: the table, the curves, the explorer's data."""

import base64
import math

import numpy as np
from matplotlib.colors import to_hex

from shapjax.report import charts, pictures
from shapjax.report.formatting import decimal, duration, interval, passes, signed, size
from shapjax.report.heatmap import COLORS, has_dark_ground
from shapjax.report.reading import Comparison

OWN = "phi"  # the method that is the model itself
# Of one unit, so that one scale makes sense.
SHAPLEY_VALUED = ("phi", "phi_8", "phi_32", "exact", "kernel_shap", "permutation")
SHOWN_FIRST = (
    "phi", "exact", "kernel_shap", "gradient_rollout", "integrated_gradients", "gradcam", "random")  # in the explorer
LIT_FIRST = ("phi", "kernel_shap", "gradient_rollout", "random")  # in the curves

_COSTS = (
    {"key": "passes", "title": "Passes", "better": "lower", "format": passes,
     "hint": "forward passes an explanation takes, or their equivalent"},
    {"key": "seconds", "title": "Time", "better": "lower", "format": duration,
     "hint": "seconds an explanation takes, compiled, after warm-up"},
    {"key": "peak_bytes", "title": "Memory", "better": "lower", "format": size,
     "hint": "peak memory of the accelerator"},
)
_CURVES = {
    "insertion": ("Insertion", "probability, most important shown first; higher is better", "shown", 1.0),
    "deletion": ("Deletion", "probability, most important removed first; lower is better", "removed", 1.0),
    "positive": ("Positive perturbation", "accuracy, most important removed first; lower is better", "removed", 0.9),
    "negative": ("Negative perturbation", "accuracy, least important removed first; higher is better", "removed", 0.9),
}


def table(comparison: Comparison) -> dict:
    """Returns the table's columns and rows, best first by deletion, or by the first metric where that is not there."""
    metrics = comparison.summary["metrics"]
    columns = [*metrics, *_COSTS]
    index = next((i for i, column in enumerate(columns) if column["key"] == "deletion"), 0)
    sign = -1 if columns[index]["better"] == "higher" else 1
    rows = []
    for method in comparison.summary["methods"]:
        cells = [_cell(method["values"][metric["key"]], metric["digits"]) for metric in metrics]
        for cost in _COSTS:
            number = method["cost"][cost["key"]]
            cells.append(_plain_cell(number, cost["format"](number)))
        rows.append(method | {"own": method["key"] == OWN, "cells": cells})

    def place(row: dict) -> float:
        number = row["cells"][index]["sort"]
        return math.inf if number is None else sign * number

    return {"columns": columns, "rows": sorted(rows, key=place), "sorted_by": columns[index]["key"],
            "direction": "descending" if sign < 0 else "ascending"}


def curves(comparison: Comparison) -> dict | None:
    """Returns the charts that can be drawn, and their legend; None if no method has curves."""
    # The model's own method is the last one: its line lies above the others.
    methods = sorted(comparison.summary["methods"], key=lambda method: method["key"] == OWN)
    found = []
    for kind, (title, sub, done, end) in _CURVES.items():
        lines = [
            charts.Line(m["key"], m["title"], list(zip(np.linspace(0, end, len(points)), points, strict=True)))
            for m in methods if (points := m["curves"].get(kind))]
        if lines:
            about = {"title": title, "sub": sub, "axis": f"patches {done}"}
            found.append(charts.fraction_chart(lines, x_end=end) | about)
    if not found:
        return None
    keys = [method["key"] for method in methods]
    lit = [key for key in LIT_FIRST if key in keys]
    return {"charts": found, "legend": methods[::-1], "slots": {key: slot for slot, key in enumerate(lit)}}


def sample_efficiency(comparison: Comparison) -> dict | None:
    """Returns a chart of KernelSHAP's R² by its budget, beside phi's own R²; None if it was not measured."""
    measured = comparison.summary.get("sample_efficiency")
    if not measured or not measured["kernel_shap"]:
        return None
    points = sorted((point["coalitions"], point["r2"]) for point in measured["kernel_shap"])
    lines = [charts.Line("kernel_shap", "KernelSHAP", points)]
    if measured["phi_r2"] is not None:
        lines.append(charts.Line(OWN, "phi", [(points[0][0], measured["phi_r2"]), (points[-1][0], measured["phi_r2"])]))
    return measured | {"chart": charts.budget_chart(lines), "largest": points[-1][0]}


def explorer(comparison: Comparison) -> dict | None:
    """Returns the data of the explorer's controls and script; None if there are no images.

    Numbers travel as base64: float32 attributions [m, e, C, N] and deleted [m, e, C, N + 1], uint16 order [m, e, C, N],
    float32 half_width [e, C, N] of phi's intervals, or null.
    """
    summary, arrays = comparison.summary, comparison.arrays
    if not len(arrays["images"]):
        return None
    names, first = summary["class_names"], arrays["images"][0]

    def rank(place: int) -> int:
        """Orders the maps: the model's own, others in logits, others, baselines."""
        key, family = summary["methods"][place]["key"], summary["methods"][place]["family"]
        return SHAPLEY_VALUED.index(key) if key in SHAPLEY_VALUED else len(SHAPLEY_VALUED) + (family == "baseline")

    places = sorted(range(len(arrays["methods"])), key=rank)  # given maps, of the targets alone, come after these
    methods = [summary["methods"][place] for place in places]
    keys = [method["key"] for method in methods]
    shown = [key for key in keys if key in SHOWN_FIRST]
    return {
        "uris": [pictures.image_uri(image) for image in arrays["images"]],
        "shown": shown if len(shown) > 1 else keys[:6],
        "data": {
            "grid": summary["grid"],
            "height": pictures.image_height(first),
            "pixelated": pictures.is_small(first),
            "methods": [
                {"key": m["key"], "title": m["title"], "logits": m["key"] in SHAPLEY_VALUED, "own": m["key"] == OWN}
                for m in methods],
            "images": [
                {
                    "label": names[label] if label >= 0 else None,
                    "darkGround": has_dark_ground(image),
                    "classes": [
                        {"name": names[index], "probability": float(probabilities[index]),
                         "label": bool(index == label), "predicted": bool(index == np.argmax(probabilities))}
                        for index in classes],
                }
                for image, label, classes, probabilities in zip(
                    *(arrays[name] for name in ("images", "labels", "classes", "probabilities")), strict=True)
            ],
            "colors": [to_hex(color) for color in COLORS(np.arange(256))],
            "attributions": _base64(arrays["attributions"][places], "<f4"),
            "deleted": _base64(arrays["deleted"][places], "<f4"),
            "order": _base64(arrays["order"][places], "<u2"),
            "half_width": _base64(arrays["half_width"], "<f4") if "half_width" in arrays else None,
        },
    }


def _cell(value: dict | None, digits: int) -> dict:
    if value is None:
        return _plain_cell(None, "undefined")
    cell = _plain_cell(value["mean"], decimal(value["mean"], digits=digits)) | {
        "interval": interval(value["low"], value["high"], digits=digits),
        "best": value["best"], "not_worse": value["not_worse"] and not value["best"]}
    if difference := value["difference"]:
        ends = interval(difference["low"], difference["high"], digits=digits)
        cell["difference"] = f"{signed(difference['mean'], digits=digits)} {ends}"
    return cell


def _plain_cell(number: float | None, text: str) -> dict:
    return {"sort": number, "text": text, "interval": "", "difference": "", "best": False, "not_worse": False}


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()
