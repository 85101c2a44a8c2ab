"""The report: one HTML file, with nothing to fetch, on what one or two evaluated runs do.

The same runs give the same bytes, so a report can be kept under version control.
"""

import base64
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from shapjax import files
from shapjax.config import flatten
from shapjax.errors import UserError
from shapjax.metrics.shapley_error import shapley_error
from shapjax.report import figures
from shapjax.report.figures import percent, signed

GALLERY_IMAGES = 12
_NUMBERS = (
    "step", "shapley_weight", "images", "accuracy_top1", "accuracy_top5", "cross_entropy", "efficiency_gap",
    "players", "classes", "parameters",
)
_SHAPLEY_NUMBERS = ("images", "coalitions_per_image", "mse")
_SHAPLEY_MEASURES = ("r2", "pearson", "spearman")  # null where undefined


class Run(NamedTuple):
    """What a run's directory says: eval.json, eval.npz, the lines of metrics.jsonl, config.json."""

    directory: Path
    evaluation: dict
    arrays: dict[str, np.ndarray]
    records: list[dict]
    config: dict


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


def read_run(directory: Path) -> Run:
    """Reads and checks a run's files. Raises UserError that names the file and the command that makes it."""
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: --runs needs the directory of a trained, evaluated run")
    evaluate = f"python eval.py --checkpoint {directory}"
    train = f"python train.py --config CONFIG --workdir {directory}"

    evaluation = _parse(directory / "eval.json", evaluate)
    errors = evaluation.get("shapley_error")
    unknown = [name for name in ("dataset", "split") if not isinstance(evaluation.get(name), str)]
    unknown += [name for name in _NUMBERS if not _is_number(evaluation.get(name))]
    if errors is not None:
        errors = errors if isinstance(errors, dict) else {}
        unknown += [name for name in _SHAPLEY_NUMBERS if not _is_number(errors.get(name))]
        defined = [name for name in _SHAPLEY_MEASURES if errors.get(name, "absent") is not None]
        unknown += [name for name in defined if not _is_number(errors.get(name))]
    if unknown:
        raise _broken(directory / "eval.json", f"it has no {', '.join(unknown)}", evaluate)

    arrays = _read_arrays(directory / "eval.npz", evaluate)
    if (errors is None) == ("exact" in arrays) or (errors is not None and errors["images"] != len(arrays["images"])):
        raise _broken(directory / "eval.npz", "it is not from the same evaluation as eval.json", evaluate)
    return Run(
        directory=directory, evaluation=evaluation, arrays=arrays,
        records=_read_records(directory / "metrics.jsonl", train), config=_parse(directory / "config.json", train))


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

    measured = [(label, run) for label, run in zip(labels, runs, strict=True) if "exact" in run.arrays]
    if "exact" not in model.arrays:
        measured = []  # the twin's agreement alone says nothing about the model
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, signed=signed, count=count, scientific=scientific, decimal=decimal)
    template = environment.from_string(resources.files("shapjax.report").joinpath("template.html").read_text("utf-8"))
    r2 = [None] * len(model.arrays["images"])
    if "exact" in model.arrays:
        r2 = shapley_error(model.arrays["shapley"], model.arrays["exact"])["r2_per_image"]
    return template.render(
        model=model.evaluation,
        twin=twin.evaluation if twin else None,
        twin_is_plain=twin is not None and twin.evaluation["shapley_weight"] == 0,
        labels=labels,
        hero=_hero(model),
        pictures=[_picture(model, index, value) for index, value in enumerate(r2[:GALLERY_IMAGES])],
        all_images=len(model.arrays["images"]),
        rows=_comparison([run.evaluation for run in runs]),
        agreement=_variants(
            figures.agreement_figure,
            [run.arrays["shapley"] for _, run in measured],
            [run.arrays["exact"] for _, run in measured],
            titles=[label for label, _ in measured],
        ) if measured else None,
        measured_runs=len(measured),
        curves=_variants(figures.curves_figure, [(name, run.records) for name, run in zip(labels, runs, strict=True)]),
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
        gradient=_gradient(),
    )


def decimal(number: float | None, *, digits: int = 2) -> str:
    """A number with a real minus; "undefined" for None."""
    return "undefined" if number is None else signed(number, digits=digits, plus="")


def count(number: float) -> str:
    """65536 as "65 536", with a narrow space that no line breaks at."""
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def scientific(number: float) -> str:
    """3.3e-06 as "3.3 × 10⁻⁶"."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    if exponent in ("+00", "-01"):
        return decimal(number)
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def _comparison(evaluations: Sequence[Mapping]) -> list[dict]:
    """Rows of the table: name, hint, and a value for each run."""

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
        {"name": "R² against exact values", "hint": "1 is perfect", "values": of_shapley_error("r2", 3)},
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
    limit = figures.vote_limit(votes[..., shown])
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
    if "exact" in arrays:
        votes["exact"] = arrays["exact"][index, ..., predicted]
    limit = max(figures.vote_limit(values) for values in votes.values())
    label, prediction = str(names[arrays["labels"][index]]), str(names[predicted])
    return {
        "number": index + 1,
        "label": label,
        "prediction": prediction,
        "correct": int(arrays["labels"][index]) == predicted,
        "probability": float(_softmax(logits)[predicted]),
        "r2": r2,
        "limit": limit,
        "input": {"uri": _png_uri(image), "height": _height(image), "pixelated": _is_small(image),
                  "description": f"Image {index + 1}, labelled {label}"},
        "maps": [
            {
                "title": {"predicted": "Predicted votes", "exact": "Exact Shapley values"}[kind],
                "sum": float(values.sum(dtype=np.float64)),
                "map": _vote_map(image, values, limit, f"class {prediction}, {kind}"),
            }
            for kind, values in votes.items()
        ],
    }


def _vote_map(image: np.ndarray, votes: np.ndarray, limit: float, subject: str) -> dict:
    """What an inline SVG of 100 units' width needs: the tinted image, lines between patches, their numbers."""
    grid_h, grid_w = votes.shape
    height = _height(image)
    cell_w, cell_h = 100 / grid_w, height / grid_h
    row, column = np.unravel_index(np.argmax(votes), votes.shape)
    cells = []
    if votes.size <= figures.MAX_LABELLED_PATCHES:
        cells = [
            {
                "x": round((c + 0.5) * cell_w, 2),
                "y": round((r + 0.5) * cell_h, 2),
                "text": signed(float(vote), digits=1),
                "colors": figures.number_colors(float(vote) / limit),
            }
            for (r, c), vote in np.ndenumerate(votes)
        ]
    return {
        "uri": _png_uri(figures.vote_overlay(image, votes, limit)),
        "height": height,
        "pixelated": _is_small(image),
        "grid": "".join(f"M0 {i * cell_h:.2f}H100" for i in range(1, grid_h))
        + "".join(f"M{i * cell_w:.2f} 0V{height:g}" for i in range(1, grid_w)),
        "font": round(0.3 * min(cell_w, cell_h), 2),
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
        f"{theme_name}_{width}": _svg_uri(draw(*arguments, **settings, stacked=width == "narrow", theme=theme))
        for theme_name, theme in (("light", figures.LIGHT), ("dark", figures.DARK))
        for width in ("wide", "narrow")
    }


def _svg_uri(figure: Figure) -> str:
    svg = figures.figure_bytes(figure, format="svg", transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _png_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _height(image: np.ndarray) -> float:
    return round(100 * image.shape[0] / image.shape[1], 2)


def _is_small(image: np.ndarray) -> bool:
    return max(image.shape[:2]) <= 96  # shown enlarged: pixels stay squares; a photograph is shown smooth


def _gradient() -> str:
    """The colours of the votes from the lowest to the highest, as CSS."""
    stops = (figures.VOTE_COLORS(position)[:3] for position in np.linspace(0, 1, 9))
    return ", ".join("#" + "".join(f"{round(255 * channel):02x}" for channel in stop) for stop in stops)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()


def _parse(path: Path, command: str) -> dict:
    try:
        content = json.loads(_read(path, command))
    except ValueError:
        raise _broken(path, "it is not JSON", command) from None
    if not isinstance(content, dict):
        raise _broken(path, "it is not a JSON object", command)
    return content


def _read_records(path: Path, command: str) -> list[dict]:
    records = []
    for number, line in enumerate(_read(path, command).splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break  # the last line of a run that was cut off
        try:
            record = json.loads(line)
            good = isinstance(record, dict) and _is_number(record.get("step"))
        except ValueError:
            good = False
        if not good:
            raise _broken(path, f"line {number} is not a record of a step", command)
        records.append(record)
    return records


def _read_arrays(path: Path, command: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise _missing(path, command)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise _broken(path, "it is not an .npz archive of plain arrays", command) from None
    try:
        images, labels, logits, shapley = (arrays[name] for name in ("images", "labels", "logits", "shapley"))
        names = arrays["class_names"]
    except KeyError as error:
        raise _broken(path, f"it lacks the array {error}", command) from None
    n, k = len(images), len(names)
    fits = (
        n > 0
        and images.dtype == np.uint8
        and images.ndim == shapley.ndim == 4
        and images.shape[-1] in (1, 3)
        and labels.shape == (n,)
        and logits.shape == (n, k)
        and shapley.shape[::3] == (n, k)
        and arrays.get("exact", shapley).shape == shapley.shape
        and 0 <= labels.min() <= labels.max() < k
    )
    if not fits:
        raise _broken(path, "its arrays do not fit together", command)
    if not all(np.isfinite(arrays[name]).all() for name in ("logits", "shapley", "exact") if name in arrays):
        raise _broken(path, "it has values that are not finite, so the training run diverged", command)
    return arrays


def _read(path: Path, command: str) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise _missing(path, command) from None
    except (OSError, UnicodeDecodeError):
        raise _broken(path, "it cannot be read as text", command) from None


def _missing(path: Path, command: str) -> UserError:
    return UserError(f"{path} is missing: run `{command}` first")


def _broken(path: Path, fault: str, command: str) -> UserError:
    return UserError(f"{path} cannot be used, {fault}: make it again with `{command}`")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
