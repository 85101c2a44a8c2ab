"""The report: one HTML file, with nothing to fetch, on what one or two evaluated runs do.

The same runs give the same bytes, so a report can be kept under version control.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from shapjax import paths as files
from shapjax.config import flatten
from shapjax.errors import UserError
from shapjax.metrics.shapley_error import shapley_error
from shapjax.report import figures, methods
from shapjax.report.comparison import Comparison
from shapjax.report.formatting import count, decimal, percent, probability_text, scientific, signed
from shapjax.report.heatmap import MAX_LABELED_PATCHES, color_limit, gradient, number_colors, overlay, value_text
from shapjax.report.pictures import image_height, is_small, png_uri, svg_uri
from shapjax.report.runs import TRUTHS, Run, read_run

GALLERY_IMAGES = 12
SCRIPTS = ("format.js", "table.js", "curves.js", "explorer.js")


def write_report(output_dir: str | os.PathLike, runs: Sequence[str | os.PathLike]) -> Path:
    """Writes `output_dir`/index.html about one or two runs and returns its path.

    The file appears whole or not at all.

    Args:
      output_dir: made if it is not there.
      runs: run directories; the first is the model, the second (if any) the run it is compared with, usually its plain
        twin (shapley_weight = 0).

    Raises:
      UserError: if files of a run are missing or broken, or the runs are of different data.
    """
    if not 1 <= len(runs) <= 2:
        raise UserError(f"a report is about one run, or a model and its plain twin, not {len(runs)} runs")
    html = render([read_run(Path(run)) for run in runs])
    page = Path(output_dir) / "index.html"
    try:
        with files.replacing(page) as part:
            part.write_text(html, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {page} ({error.strerror}): give another --output") from None
    return page


def render(runs: Sequence[Run]) -> str:
    """The HTML of the page about one or two runs (the first is the model)."""
    model, twin = runs[0], runs[1] if len(runs) == 2 else None
    if twin is not None:
        data = [(run.evaluation["dataset"], run.evaluation["split"]) for run in runs]
        if data[0] != data[1]:
            raise UserError(
                f"{model.directory} was evaluated on {' '.join(data[0])}, {twin.directory} on {' '.join(data[1])}:"
                " a report needs two runs of the same data")
    labels = ["Model"]
    if twin is not None:
        labels.append("Plain twin" if twin.evaluation["shapley_weight"] == 0 else twin.directory.resolve().name)

    measured = [(label, run) for label, run in zip(labels, runs, strict=True) if "truth" in run.arrays]
    if "truth" not in model.arrays:
        measured = []  # the twin's agreement alone says nothing about the model
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shapjax.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=percent, probability=probability_text, signed=signed, count=count, scientific=scientific,
        decimal=decimal, value_text=value_text)
    template = environment.get_template("page.html")
    errors = model.evaluation["shapley_error"]
    truth = TRUTHS[errors["truth"]] if errors else "exact"
    r2 = [None] * len(model.arrays["images"])
    if "truth" in model.arrays:
        r2 = shapley_error(model.arrays["shapley"], model.arrays["truth"])["r2_per_image"]
    logs = [(label, run.records) for label, run in zip(labels, runs, strict=True) if run.records]
    return template.render(
        model=model.evaluation,
        twin=twin.evaluation if twin else None,
        twin_is_plain=twin is not None and twin.evaluation["shapley_weight"] == 0,
        labels=labels,
        hero=_hero(model),
        pictures=[_picture(model, index, value) for index, value in enumerate(r2[:GALLERY_IMAGES])],
        all_images=len(model.arrays["images"]),
        rows=_comparison([run.evaluation for run in runs], truth),
        truth=truth,
        agreement=_variants(
            figures.agreement_figure,
            [run.arrays["shapley"] for _, run in measured],
            [run.arrays["truth"] for _, run in measured],
            titles=[label for label, _ in measured],
            truth=truth,
        ) if measured else None,
        measured_runs=len(measured),
        curves=_variants(figures.curves_figure, logs) if logs else None,
        settings=_settings([run.config for run in runs]),
        runs=[
            {
                "label": label,
                "directory": run.directory.resolve().name,
                "step": run.evaluation["step"],
                "device": run.evaluation.get("device", "unknown"),
                "versions": dict(sorted(run.evaluation.get("versions", {}).items())),
            }
            for label, run in zip(labels, runs, strict=True)
        ],
        gradient=gradient(),
        comparison=_methods(model.comparison) if model.comparison else None,
    )


def _methods(comparison: Comparison) -> dict:
    """The sections about methods and the script they need, with its hash: the page runs no other."""
    folder = resources.files("shapjax.report") / "templates"
    parts = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    return {
        "summary": comparison.summary,
        "table": methods.table(comparison),
        "curves": methods.curves(comparison),
        "efficiency": methods.efficiency(comparison),
        "explorer": methods.explorer(comparison),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _comparison(evaluations: Sequence[Mapping], truth: str) -> list[dict]:
    """Rows of the table: name, hint, and a value for each run; truth says what the true values are, "exact" or not."""

    def accuracy(value: float, images: int) -> str:
        return f"{100 * value:.1f} ± {100 * (value * (1 - value) / images) ** 0.5:.1f} %"

    def of_shapley_error(key: str, digits: int) -> list[str]:
        errors = [evaluation.get("shapley_error") for evaluation in evaluations]
        return [decimal(error[key], digits=digits) if error else "not measured" for error in errors]

    higher, lower = "higher is better", "lower is better"
    return [
        {"name": "Top-1 accuracy", "hint": higher,
         "values": [accuracy(e["accuracy_top1"], e["images"]) for e in evaluations]},
        {"name": "Top-5 accuracy", "hint": higher,
         "values": [accuracy(e["accuracy_top5"], e["images"]) for e in evaluations]},
        {"name": "Cross-entropy", "hint": lower,
         "values": [decimal(e["cross_entropy"], digits=3) for e in evaluations]},
        {"name": f"R² against {truth} values", "hint": "1 is perfect", "values": of_shapley_error("r2", 3)},
        {"name": "R² of the shares", "hint": "equal shares have 0", "values": of_shapley_error("r2_allocation", 3)},
        {"name": "Mean squared error", "hint": f"{lower}, logits²", "values": of_shapley_error("mse", 4)},
        {"name": "Pearson correlation", "hint": "1 is perfect", "values": of_shapley_error("pearson", 3)},
        {"name": "Spearman rank correlation", "hint": "1 is perfect", "values": of_shapley_error("spearman", 3)},
        {"name": "Efficiency gap", "hint": "0 up to rounding",
         "values": [scientific(e["efficiency_gap"]) for e in evaluations]},
    ]


def _hero(run: Run) -> dict:
    """The votes on the first image for its three most probable classes, on one scale."""
    picture = _picture(run, 0, None)
    votes, logits, names = run.arrays["shapley"][0], run.arrays["logits"][0], run.arrays["class_names"]
    probabilities = _softmax(logits)
    shown = np.argsort(-probabilities, kind="stable")[:3]
    limit = color_limit(votes[..., shown])
    return {
        "input": picture["input"],
        "label": picture["label"],
        "limit": limit,
        "classes": [
            {
                "name": str(names[index]),
                "probability": float(probabilities[index]),
                "sum": float(votes[..., index].sum(dtype=np.float64)),
                "map": _vote_map(run.arrays["images"][0], votes[..., index], limit, f"class {names[index]}"),
            }
            for index in shown
        ],
    }


def _picture(run: Run, index: int, r2: float | None) -> dict:
    """One image of the gallery: its predicted and exact votes for the predicted class, on one scale."""
    arrays = run.arrays
    image, logits, names = arrays["images"][index], arrays["logits"][index], arrays["class_names"]
    predicted = int(np.argmax(logits))
    votes = {"predicted": arrays["shapley"][index, ..., predicted]}
    if "truth" in arrays:
        votes[TRUTHS[run.evaluation["shapley_error"]["truth"]]] = arrays["truth"][index, ..., predicted]
    limit = max(color_limit(values) for values in votes.values())
    label, prediction = str(names[arrays["labels"][index]]), str(names[predicted])
    return {
        "number": index + 1,
        "label": label,
        "prediction": prediction,
        "correct": int(arrays["labels"][index]) == predicted,
        "probability": float(_softmax(logits)[predicted]),
        "r2": r2,
        "limit": limit,
        "input": {"uri": png_uri(image), "height": image_height(image), "pixelated": is_small(image),
                  "description": f"Image {index + 1}, labeled {label}"},
        "maps": [
            {
                "title": "Predicted votes" if kind == "predicted" else f"{kind.capitalize()} Shapley values",
                "sum": float(values.sum(dtype=np.float64)),
                "map": _vote_map(image, values, limit, f"class {prediction}, {kind}"),
            }
            for kind, values in votes.items()
        ],
    }


def _vote_map(image: np.ndarray, votes: np.ndarray, limit: float, subject: str) -> dict:
    """What an inline SVG of 100 units' width needs: the tinted image, lines between patches, their numbers."""
    grid_h, grid_w = votes.shape
    height = image_height(image)
    cell_w, cell_h = 100 / grid_w, height / grid_h
    row, column = np.unravel_index(np.argmax(votes), votes.shape)
    cells = []
    if votes.size <= MAX_LABELED_PATCHES:
        cells = [
            {
                "x": round((c + 0.5) * cell_w, 2),
                "y": round((r + 0.5) * cell_h, 2),
                "text": value_text(float(vote), limit),
                "colors": number_colors(float(vote) / limit),
            }
            for (r, c), vote in np.ndenumerate(votes)
        ]
    return {
        "uri": png_uri(overlay(image, votes, limit)),
        "height": height,
        "pixelated": is_small(image),
        "grid": "".join(f"M0 {i * cell_h:.2f}H100" for i in range(1, grid_h))
        + "".join(f"M{i * cell_w:.2f} 0V{height:g}" for i in range(1, grid_w)),
        "font": round((0.3 if limit >= 1 else 0.25) * min(cell_w, cell_h), 2),  # the longer numbers have to fit
        "cells": cells,
        "description": f"Votes for {subject}: {grid_h} × {grid_w} patches, the largest"
        f" {signed(float(votes[row, column]))} in row {row + 1}, column {column + 1};"
        f" the smallest {signed(float(votes.min()))}",
    }


def _settings(configs: Sequence[Mapping]) -> list[dict]:
    """The settings of all runs as rows of a name and a value for each run."""
    flat = [dict(flatten(config)) for config in configs]
    rows = []
    for name in sorted(set().union(*flat)):
        values = [json.dumps(settings[name]) if name in settings else "–" for settings in flat]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def _variants(draw: Callable[..., Figure], *arguments, **settings) -> dict[str, str]:
    """A figure in two themes, wide and stacked: the browser shows the one that fits."""
    return {
        f"{theme_name}_{width}": svg_uri(draw(*arguments, **settings, stacked=width == "narrow", theme=theme))
        for theme_name, theme in (("light", figures.LIGHT), ("dark", figures.DARK))
        for width in ("wide", "narrow")
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()
