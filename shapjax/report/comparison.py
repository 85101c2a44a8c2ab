"""The comparison of methods a run may hold: methods.json (numbers) and methods.npz (maps of a few images)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapjax.report.reading import broken, is_number, read_arrays, read_object

FORMAT = 1
CURVES = ("insertion", "deletion", "positive", "negative")
PERTURBATION_POINTS = 10  # 0, 10 … 90 % of the patches removed


class Comparison(NamedTuple):
    """`summary`: methods.json. `arrays`: methods.npz, with `order` [m, e, C, N], the patches of each map as they are
    removed, most important first (from the attributions, ties in reading order, where the file has none)."""

    summary: dict
    arrays: dict[str, np.ndarray]


def read_comparison(directory: Path) -> Comparison | None:
    """Reads and checks methods.json and methods.npz; None if the run has no methods.json.

    Raises:
      UserError: if a file is broken, or methods.npz is missing; names the file and the command that makes it.
    """
    path, command = directory / "methods.json", f"python eval.py --checkpoint {directory}"
    if not path.exists():
        return None
    summary = read_object(path, command)
    if summary.get("format") != FORMAT:
        raise broken(path, f"it is of format {summary.get('format')}, not {FORMAT}", command)
    try:
        fault = next(_summary_faults(summary), None)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        fault = f"it lacks {error}" if isinstance(error, KeyError) else "its entries are not as expected"
    if fault:
        raise broken(path, fault, command)

    path = directory / "methods.npz"
    arrays = read_arrays(path, command)
    try:
        fault = next(_array_faults(arrays, summary), None)
    except KeyError as error:
        fault = f"it lacks the array {error}"
    if fault:
        raise broken(path, fault, command)
    order = arrays.get("order", np.argsort(-arrays["attributions"], axis=-1, kind="stable"))
    return Comparison(summary, arrays | {"order": order})


def _summary_faults(summary: dict) -> Iterator[str]:
    """What is wrong with methods.json, if anything."""
    rows, columns = summary["grid"]
    players, metrics, methods = summary["players"], summary["metrics"], summary["methods"]
    for name in ("step", "images", "players", "confidence"):
        if not is_number(summary[name]):
            yield f"its {name} is not a number"
    if not all(isinstance(summary[name], str) for name in ("dataset", "split")):
        yield "its dataset or split is not a name"
    if rows * columns != players:
        yield f"its grid {rows} × {columns} does not have {players} players"
    if summary["target"] not in ("predicted", "label"):
        yield f"its target is {summary['target']!r}, not 'predicted' or 'label'"
    if not all(isinstance(name, str) for name in summary["class_names"]):
        yield "a class name is not text"
    for entries, what in ((metrics, "metrics"), (methods, "methods")):
        keys = [entry["key"] for entry in entries]
        if not keys or len(set(keys)) < len(keys):
            yield f"its {what} are none, or one is there twice"
    for metric in metrics:
        if metric["better"] not in ("lower", "higher", None) or not is_number(metric["digits"]):
            yield f"metric {metric['key']} has an unknown direction or number of digits"
        if not all(isinstance(metric[name], str) for name in ("title", "hint")):
            yield f"metric {metric['key']} has no title or hint"
    for method in methods:
        yield from _method_faults(method, [metric["key"] for metric in metrics], players)
    efficiency = summary.get("efficiency")
    if efficiency is not None:
        points = [point[name] for point in efficiency["kernel_shap"] for name in ("coalitions", "r2")]
        optional = [efficiency[name] for name in ("phi_r2", "reached_at") if efficiency.get(name) is not None]
        if not all(map(is_number, points + optional)) or min(points[::2], default=1) < 1:
            yield "its efficiency has values that are not numbers"


def _method_faults(method: dict, metrics: list[str], players: int) -> Iterator[str]:
    key = method["key"]
    if not all(isinstance(method[name], str) for name in ("title", "family", "citation", "options")):
        yield f"method {key} has no title, family, citation or options"
    for name in ("passes", "seconds", "peak_bytes"):
        cost = method["cost"][name]
        if cost is not None and not (is_number(cost) and cost >= 0):
            yield f"the cost of method {key} has {name} {cost!r}"
    for metric in metrics:
        value = method["values"][metric]
        if value is not None and not all(is_number(value[name]) for name in ("mean", "low", "high")):
            yield f"{metric} of method {key} is not a number with its interval"
        difference = value and value.get("difference")
        if difference and not all(is_number(difference[name]) for name in ("mean", "low", "high")):
            yield f"{metric} of method {key} has a difference that is not a number with its interval"
    for name in CURVES:
        points = method["curves"].get(name)
        expected = players + 1 if name in ("insertion", "deletion") else PERTURBATION_POINTS
        if points is not None and (len(points) != expected or not all(map(is_number, points))):
            yield f"the {name} curve of method {key} is not {expected} numbers"


def _array_faults(arrays: dict[str, np.ndarray], summary: dict) -> Iterator[str]:
    """What is wrong with methods.npz beside this methods.json, if anything."""
    images, labels, probabilities, classes = (
        arrays[name] for name in ("images", "labels", "probabilities", "classes"))
    attributions, deleted, names = (arrays[name] for name in ("attributions", "deleted", "methods"))
    keys = [method["key"] for method in summary["methods"]]
    if names.shape != (len(keys),) or [str(name) for name in names] != keys:
        yield "its methods are not those of methods.json"
    e, k, n = len(images), len(summary["class_names"]), summary["players"]
    fits = (
        images.dtype == np.uint8
        and images.ndim == 4
        and images.shape[-1] in (1, 3)
        and labels.shape == (e,)
        and probabilities.shape == (e, k)
        and classes.ndim == 2
        and len(classes) == e
        and attributions.shape == (len(keys), *classes.shape, n)
        and deleted.shape == (len(keys), *classes.shape, n + 1)
        and arrays.get("order", attributions).shape == attributions.shape
    )
    if not fits:
        yield "its arrays do not fit together"
    if not all(np.isfinite(array).all() for array in (probabilities, attributions, deleted)):
        yield "it has values that are not finite"
    if any(array.size and not -1e-3 <= array.min() <= array.max() <= 1.001 for array in (probabilities, deleted)):
        yield "it has probabilities that are not between 0 and 1"
    if e and not (0 <= classes.min() <= classes.max() < k and (classes == labels[:, None]).any(1).all()):
        yield "its classes are not classes, or an image's label is not among them"
    if "order" in arrays and not np.array_equal(
            np.sort(arrays["order"], axis=-1), np.broadcast_to(np.arange(n), attributions.shape)):
        yield "its order is not one of all patches"
