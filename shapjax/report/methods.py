"""Prepares the page's sections on the methods compared: the table, the curves, the explorer's data."""

import base64
from collections.abc import Sequence

import numpy as np

from shapjax.report import charts, pictures
from shapjax.report.formatting import decimal, duration, interval, passes, signed, size
from shapjax.report.heatmap import COLORS, has_dark_ground
from shapjax.report.reading import Comparison

OWN = "phi"  # the method that is the model itself
SHAPLEY_VALUED = ("phi", "exact", "kernel_shap", "permutation")  # of one unit, so that one scale makes sense
SHOWN_FIRST = (
    "phi", "exact", "kernel_shap", "gradient_rollout", "integrated_gradients", "gradcam", "random")  # in the explorer
LIT_FIRST = ("phi", "kernel_shap", "gradient_rollout", "random")  # in the curves

_COSTS = (
    ("passes", "Passes", "forward passes an explanation takes, or their equivalent", passes),
    ("seconds", "Time", "seconds an explanation takes, compiled, after warm-up", duration),
    ("peak_bytes", "Memory", "peak memory of the accelerator", size),
)
_CURVES = {
    "insertion": ("Insertion", "most important shown first", "patches shown", "higher", 1.0),
    "deletion": ("Deletion", "most important removed first", "patches removed", "lower", 1.0),
    "positive": ("Positive perturbation", "most important removed first", "patches removed", "lower", 0.9),
    "negative": ("Negative perturbation", "least important removed first", "patches removed", "higher", 0.9),
}


def table(comparison: Comparison) -> dict:
    """Returns the table's columns and rows, best first by deletion, or by the first metric where that is not there."""
    summary = comparison.summary
    columns = [
        {"key": m["key"], "title": m["title"], "better": m["better"], "hint": m["hint"]} for m in summary["metrics"]]
    columns += [{"key": key, "title": title, "better": "lower", "hint": hint} for key, title, hint, _ in _COSTS]
    keys = [column["key"] for column in columns]
    first = columns[keys.index("deletion") if "deletion" in keys else 0]
    rows = [
        {
            "key": method["key"], "title": method["title"], "own": method["key"] == OWN,
            "family": method["family"], "citation": method["citation"], "options": method["options"],
            "cells": [_cell(method["values"][metric["key"]], metric["digits"]) for metric in summary["metrics"]]
            + [_plain_cell(method["cost"][key], text(method["cost"][key])) for key, _, _, text in _COSTS],
        }
        for method in summary["methods"]
    ]
    sign = -1 if first["better"] == "higher" else 1
    index = columns.index(first)

    def place(row: dict) -> tuple:
        value = row["cells"][index]["sort"]
        return (value is None, sign * (value or 0))

    return {"columns": columns, "rows": sorted(rows, key=place), "sorted_by": first["key"],
            "direction": "descending" if sign < 0 else "ascending"}


def curves(comparison: Comparison) -> dict | None:
    """Returns the charts that can be drawn, and their legend; None if no method has curves."""
    methods = _own_last(comparison.summary["methods"])
    found = []
    for kind in _CURVES:
        lines = [
            charts.Line(method["key"], method["title"], [
                (x, float(y)) for x, y in zip(_fractions(kind, len(points)), points, strict=True)])
            for method in methods if (points := method["curves"].get(kind)) is not None
        ]
        if lines:
            title, order, axis, better, end = _CURVES[kind]
            measure = "probability" if kind in ("insertion", "deletion") else "accuracy"
            chart = charts.fraction_chart(lines, x_end=end)
            found.append(chart | {
                "title": title, "sub": f"{measure}, {order}; {better} is better", "axis": axis})
    if not found:
        return None
    keys = [method["key"] for method in methods]
    lit = [key for key in LIT_FIRST if key in keys]
    legend = [{"key": m["key"], "title": m["title"]} for m in reversed(methods)]
    return {"charts": found, "legend": legend, "slots": {key: slot for slot, key in enumerate(lit)}}


def sample_efficiency(comparison: Comparison) -> dict | None:
    """Returns a chart of KernelSHAP's R² by its budget, beside phi's own R²; None if it was not measured."""
    measured = comparison.summary.get("sample_efficiency")
    if not measured or not measured["kernel_shap"]:
        return None
    points = sorted((point["coalitions"], point["r2"]) for point in measured["kernel_shap"])
    lines = [charts.Line("kernel_shap", "KernelSHAP", points)]
    phi_r2 = measured.get("phi_r2")
    if phi_r2 is not None:
        lines.append(charts.Line(OWN, "phi", [(points[0][0], phi_r2), (points[-1][0], phi_r2)]))
    return {"chart": charts.budget_chart(lines), "phi_r2": phi_r2, "reached_at": measured.get("reached_at"),
            "largest": points[-1][0]}


def explorer(comparison: Comparison) -> dict | None:
    """Returns the data of the explorer's controls and script; None if there are no images.

    Numbers travel as base64: float32 attributions [m, e, C, N] and deleted [m, e, C, N + 1], uint16 order [m, e, C, N].
    """
    summary, arrays = comparison.summary, comparison.arrays
    if not len(arrays["images"]):
        return None
    places = _explorer_places(summary["methods"])
    methods = [summary["methods"][place] for place in places]
    names = summary["class_names"]
    shown = [method["key"] in SHOWN_FIRST for method in methods]
    if sum(shown) < 2:
        shown = [place < 6 for place in range(len(methods))]
    images = [
        {"uri": pictures.png_uri(image), "label": names[label],
         "prediction": names[int(np.argmax(probabilities))]}
        for image, label, probabilities in zip(
            arrays["images"], arrays["labels"], arrays["probabilities"], strict=True)
    ]
    return {
        "images": images,
        "methods": [
            {"key": method["key"], "title": method["title"], "shown": show}
            for method, show in zip(methods, shown, strict=True)],
        "players": summary["players"],
        "pixelated": pictures.is_small(arrays["images"][0]),
        "data": {
            "grid": summary["grid"],
            "height": pictures.image_height(arrays["images"][0]),
            "pixelated": pictures.is_small(arrays["images"][0]),
            "methods": [
                {"key": m["key"], "title": m["title"], "logits": m["key"] in SHAPLEY_VALUED, "own": m["key"] == OWN}
                for m in methods],
            "images": [
                {
                    "label": names[label],
                    "darkGround": has_dark_ground(image),
                    "classes": [
                        {"name": names[index], "probability": float(probabilities[index]),
                         "label": bool(index == label), "predicted": bool(index == np.argmax(probabilities))}
                        for index in classes],
                }
                for image, label, classes, probabilities in zip(
                    *(arrays[name] for name in ("images", "labels", "classes", "probabilities")), strict=True)
            ],
            "colors": ["#" + "".join(f"{round(255 * c):02x}" for c in color[:3])
                       for color in COLORS(np.arange(256))],
            "attributions": _base64(arrays["attributions"][places], "<f4"),
            "deleted": _base64(arrays["deleted"][places], "<f4"),
            "order": _base64(arrays["order"][places], "<u2"),
        },
    }


def _cell(value: dict | None, digits: int) -> dict:
    if value is None:
        return _plain_cell(None, "undefined")
    cell = _plain_cell(value["mean"], decimal(value["mean"], digits=digits)) | {
        "interval": interval(value["low"], value["high"], digits=digits),
        "best": bool(value.get("best")),
        "not_worse": bool(value.get("not_worse")) and not value.get("best")}
    if difference := value.get("difference"):
        ends = interval(difference["low"], difference["high"], digits=digits)
        cell["difference"] = f"{signed(difference['mean'], digits=digits)} {ends}"
    return cell


def _plain_cell(number: float | None, text: str) -> dict:
    return {"sort": number, "text": text, "interval": "", "difference": "", "best": False, "not_worse": False}


def _fractions(kind: str, points: int) -> list[float]:
    steps = points - 1 if kind in ("insertion", "deletion") else points
    return [step / steps for step in range(points)]


def _own_last(methods: Sequence[dict]) -> list[dict]:
    """Returns the methods with the model's own last: drawn last, its line lies above the others."""
    return sorted(methods, key=lambda method: method["key"] == OWN)


def _explorer_places(methods: Sequence[dict]) -> list[int]:
    """Returns the methods' positions in the order of the maps: the model's own, others in logits, others, baselines."""
    def rank(place: int) -> int:
        key, family = methods[place]["key"], methods[place]["family"]
        return SHAPLEY_VALUED.index(key) if key in SHAPLEY_VALUED else len(SHAPLEY_VALUED) + (family == "baseline")

    return sorted(range(len(methods)), key=rank)


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()
