"""What the directory of a run holds, read and checked."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shapjax.errors import UserError
from shapjax.export import read as exported
from shapjax.report.comparison import Comparison, read_comparison
from shapjax.report.reading import broken, is_number, read_arrays, read_object, read_text

_NUMBERS = (
    "step", "shapley_weight", "images", "accuracy_top1", "accuracy_top5", "cross_entropy", "efficiency_gap",
    "players", "classes", "parameters",
)
_SHAPLEY_NUMBERS = ("images", "coalitions_per_image", "mse")
_SHAPLEY_MEASURES = ("r2", "r2_allocation", "pearson", "spearman")  # null where undefined

TRUTHS = {"exact": "exact", "kernel_shap": "estimated"}  # kinds of true values, and the adjective for people


class Run(NamedTuple):
    """What a run's directory says: eval.json, eval.npz, the lines of metrics.jsonl, config.json, and the comparison of
    methods if there is one. An exported model has no metrics.jsonl, so no records."""

    directory: Path
    evaluation: dict
    arrays: dict[str, np.ndarray]
    records: list[dict]
    config: dict
    comparison: Comparison | None


def read_run(directory: Path) -> Run:
    """Reads and checks a run's files. Raises UserError that names the file and the command that makes it."""
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: --runs needs the directory of a trained, evaluated run")
    evaluate = f"python eval.py --checkpoint {directory}"
    train = f"python train.py --config CONFIG --workdir {directory}"

    evaluation = read_object(directory / "eval.json", evaluate)
    errors = evaluation.get("shapley_error")
    unknown = [name for name in ("dataset", "split") if not isinstance(evaluation.get(name), str)]
    unknown += [name for name in _NUMBERS if not is_number(evaluation.get(name))]
    if errors is not None:
        errors = errors if isinstance(errors, dict) else {}
        unknown += [name for name in _SHAPLEY_NUMBERS if not is_number(errors.get(name))]
        defined = [name for name in _SHAPLEY_MEASURES if errors.get(name, "absent") is not None]
        unknown += [name for name in defined if not is_number(errors.get(name))]
        unknown += ["truth"] if errors.get("truth") not in TRUTHS else []
    if unknown:
        raise broken(directory / "eval.json", f"it has no {', '.join(unknown)}", evaluate)

    arrays = _read_evaluation_arrays(directory / "eval.npz", evaluate)
    if (errors is None) == ("truth" in arrays) or (errors is not None and errors["images"] != len(arrays["images"])):
        raise broken(directory / "eval.npz", "it is not from the same evaluation as eval.json", evaluate)
    comparison = read_comparison(directory)
    if comparison and comparison.summary["step"] != evaluation["step"]:
        comparison = None  # of an earlier checkpoint
    config, records = read_object(directory / exported.CONFIG, train), []
    if exported.FORMAT_KEY in config:
        config = exported.read_config(directory).get("config", {})
    else:
        records = _read_records(directory / "metrics.jsonl", train)
    return Run(directory=directory, evaluation=evaluation, arrays=arrays, records=records, config=config,
               comparison=comparison)


def _read_records(path: Path, command: str) -> list[dict]:
    records = []
    for number, line in enumerate(read_text(path, command).splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break  # the last line of a run that was cut off
        try:
            record = json.loads(line)
            good = isinstance(record, dict) and is_number(record.get("step"))
        except ValueError:
            good = False
        if not good:
            raise broken(path, f"line {number} is not a record of a step", command)
        records.append(record)
    return records


def _read_evaluation_arrays(path: Path, command: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(path, command)
    try:
        images, labels, logits, shapley = (arrays[name] for name in ("images", "labels", "logits", "shapley"))
        names = arrays["class_names"]
    except KeyError as error:
        raise broken(path, f"it lacks the array {error}", command) from None
    n, k = len(images), len(names)
    fits = (
        n > 0
        and images.dtype == np.uint8
        and images.ndim == shapley.ndim == 4
        and images.shape[-1] in (1, 3)
        and labels.shape == (n,)
        and logits.shape == (n, k)
        and shapley.shape[::3] == (n, k)
        and arrays.get("truth", shapley).shape == shapley.shape
        and 0 <= labels.min() <= labels.max() < k
    )
    if not fits:
        raise broken(path, "its arrays do not fit together", command)
    if not all(np.isfinite(arrays[name]).all() for name in ("logits", "shapley", "truth") if name in arrays):
        raise broken(path, "it has values that are not finite, so the training run diverged", command)
    return arrays
