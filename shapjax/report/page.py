"""Writes the report: one HTML file, with nothing to fetch, about one or two evaluated models.

The same evaluations give the same bytes, so a report can be kept under version control.
"""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources

import jinja2
from etils import epath
from matplotlib.figure import Figure

from shapjax.config import FREE_TO_CHANGE, flatten
from shapjax.errors import UserError
from shapjax.evaluation.refinement_quality import CURVE
from shapjax.paths import as_path, write_text
from shapjax.report import figures, gallery, methods, plots
from shapjax.report.formatting import count, decimal, percent, probability_text, scientific, signed
from shapjax.report.heatmap import gradient, number_colors, value_text
from shapjax.report.pictures import svg_uri
from shapjax.report.reading import GROUND_TRUTHS, Comparison, Run, read_run, unusable

GALLERY_IMAGES = 12
SCRIPTS = ("format.js", "table.js", "curves.js", "explorer.js")

# Errors that the code below raises on damaged files; it relies on the content that evaluations write.
_DAMAGE = (KeyError, IndexError, AttributeError, TypeError, ValueError, ArithmeticError, jinja2.TemplateError)


def write_report(output_dir: str | os.PathLike, runs: Sequence[str | os.PathLike]) -> epath.Path:
    """Writes `output_dir`/index.html about one or two evaluated models and returns its path.

    The file appears whole or not at all.

    Args:
      output_dir: made if it is not there.
      runs: directories that eval.py wrote to; the first is of the model, the second (if any) is compared with it,
        usually its baseline model (shapley.weight = 0).

    Raises:
      UserError: if files are missing or damaged, or the models were evaluated on different data.
    """
    if not 1 <= len(runs) <= 2:
        raise UserError(f"a report is about one run, or a model and its baseline model, not {len(runs)} runs")
    try:
        html = render([read_run(run) for run in runs])
    except UserError:
        raise
    except _DAMAGE as error:
        raise unusable(runs, error) from error
    path = as_path(output_dir) / "index.html"
    try:
        write_text(path, html)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}): give another --output") from None
    return path


def render(runs: Sequence[Run]) -> str:
    """Returns the HTML of the page about one or two runs, the first of which is the model."""
    model, other = runs[0], runs[1] if len(runs) == 2 else None
    data = [f"{run.evaluation['dataset']} {run.evaluation['split']}" for run in runs]
    if len(set(data)) > 1:
        raise UserError(f"{model.directory} was evaluated on {data[0]}, {other.directory} on {data[1]}: a report needs "
                        "two runs of the same data")
    is_baseline = other is not None and other.evaluation["shapley_weight"] == 0
    labels = ["Model"]
    if other is not None:
        labels.append("Baseline model" if is_baseline else other.directory.resolve().name)

    named, errors = list(zip(labels, runs, strict=True)), model.evaluation["shapley_error"]
    # The agreement of the second run alone says nothing about the model.
    measured = [(label, run) for label, run in named if errors and "ground_truth" in run.arrays]
    kind = GROUND_TRUTHS[errors["ground_truth"]] if errors else "exact"
    r2 = errors["r2_per_image"] if errors else [None] * len(model.arrays["images"])
    refinement = model.evaluation.get("refinement")
    logs = [(label, run.records) for label, run in named if run.records]
    settings = _settings([run.evaluation.get("config") for run in runs])
    return _template().render(
        model=model.evaluation,
        other=other.evaluation if other else None,
        is_baseline=is_baseline,
        labeled=model.evaluation["accuracy_top1"] is not None,
        labels=labels,
        hero=gallery.hero(model),
        pictures=[gallery.picture(model, index, value) for index, value in enumerate(r2[:GALLERY_IMAGES])],
        all_images=len(model.arrays["images"]),
        kind=kind,
        agreement=_variants(
            plots.agreement_figure,
            [run.arrays["shapley"] for _, run in measured],
            [run.arrays["ground_truth"] for _, run in measured],
            r2=[run.evaluation["shapley_error"]["r2"] for _, run in measured],
            titles=[label for label, _ in measured],
            kind=kind,
        ) if measured else None,
        measured_runs=len(measured),
        refinement=refinement,
        errors_figure=_variants(plots.errors_figure, refinement["points"], CURVE) if refinement else None,
        curves=_variants(plots.curves_figure, logs) if logs else None,
        settings=settings,
        differing=[row["name"] for row in settings if row["differs"] and row["name"] not in FREE_TO_CHANGE],
        runs=runs,
        gradient=gradient(),
        comparison=_methods(model.comparison) if model.comparison else None,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shapjax.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=percent, probability=probability_text, signed=signed, count=count, scientific=scientific,
        decimal=decimal, value_text=value_text, number_colors=number_colors)
    return environment.get_template("page.html")


def _methods(comparison: Comparison) -> dict:
    """Returns the sections about methods, and the script they need with its hash: the page runs no other."""
    folder = resources.files("shapjax.report") / "templates"
    parts = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    script = f'(() => {{\n"use strict";\n{parts}}})();\n'
    return {
        "summary": comparison.summary,
        "table": methods.table(comparison),
        "curves": methods.curves(comparison),
        "sample_efficiency": methods.sample_efficiency(comparison),
        "explorer": methods.explorer(comparison),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _settings(configs: Sequence[Mapping | None]) -> list[dict]:
    """Returns the settings of the runs as rows of a name and a value for each run; None has no settings."""
    flat = [flatten(config or {}) for config in configs]
    rows = []
    for name in sorted(set().union(*flat)):
        values = [json.dumps(settings[name]) if name in settings else "–" for settings in flat]
        rows.append({"name": name, "values": values, "differs": all(configs) and len(set(values)) > 1})
    return rows


def _variants(draw: Callable[..., Figure], *arguments, **settings) -> dict[str, str]:
    """Returns a figure in two themes, wide and stacked: the browser shows the one that fits."""
    return {
        f"{theme_name}_{width}": svg_uri(draw(*arguments, **settings, stacked=width == "narrow", theme=theme))
        for theme_name, theme in (("light", figures.LIGHT), ("dark", figures.DARK))
        for width in ("wide", "narrow")
    }
