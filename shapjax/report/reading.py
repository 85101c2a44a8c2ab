"""Reads the files of an evaluation, and of the training run beside it, from a directory.

`shapjax.evaluation` writes these files. The checks here find common faults: a file that is missing, damaged, of another
version, or of another evaluation than the one beside it. `unusable` words all other faults.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from shapjax.errors import UserError
from shapjax.evaluation.comparison import GIVEN
from shapjax.evaluation.files import FORMAT
from shapjax.export import read as export
from shapjax.paths import as_path, read_arrays

GROUND_TRUTHS = {"exact": "exact", "kernel_shap": "estimated"}  # kinds of ground truth, and the adjective for people


class Comparison(NamedTuple):
    """The comparison of methods: `summary` is methods.json, `arrays` methods.npz."""

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Run(NamedTuple):
    """Holds the content of a directory that eval.py wrote to.

    Attributes:
      directory: its path.
      evaluation: eval.json.
      arrays: eval.npz.
      records: the lines of metrics.jsonl; none where there is no training run.
      comparison: of methods; None if there is none of the same checkpoint.
    """

    directory: epath.Path
    evaluation: dict[str, Any]
    arrays: dict[str, np.ndarray]
    records: list[dict[str, Any]]
    comparison: Comparison | None


def read_run(directory: str | os.PathLike) -> Run:
    """Reads an evaluation's files and, if there is one, the log of the training run.

    Raises:
      UserError: if a file is missing or cannot be used; names it and the command that makes it again.
    """
    directory = as_path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: --runs needs the directory of an evaluated run")
    evaluation = _read_json(directory / "eval.json")
    arrays = _read_arrays(directory / "eval.npz")
    errors = evaluation.get("shapley_error")
    if ("ground_truth" in arrays) != bool(errors) or (errors and errors["images"] != len(arrays["images"])):
        raise _broken(directory / "eval.npz", "it is not from the same evaluation as eval.json")
    if not all(np.isfinite(arrays[name]).all() for name in ("logits", "shapley")):
        raise UserError(f"{directory / 'eval.npz'} has values that are not finite: the training run has diverged, so "
                        "there is nothing to show; train again with a lower --config.optim.learning_rate")
    return Run(directory, evaluation, arrays, _read_records(directory / "metrics.jsonl"),
               read_comparison(directory, step=evaluation.get("step")))


def read_comparison(directory: str | os.PathLike, *, step: int) -> Comparison | None:
    """Reads methods.json and methods.npz; returns None if there are none, or they are of another step's checkpoint.

    Raises:
      UserError: as `read_run`.
    """
    directory = as_path(directory)
    if not (directory / "methods.json").exists():
        return None
    summary = _read_json(directory / "methods.json")
    if summary.get("step") != step:
        return None
    arrays = _read_arrays(directory / "methods.npz")
    if [str(name) for name in arrays["methods"]] != [
            method["key"] for method in summary["methods"] if method["family"] != GIVEN]:
        raise _broken(directory / "methods.npz", "its methods are not those of methods.json")
    return Comparison(summary, arrays)


def unusable(directories: Sequence[str | os.PathLike], error: Exception) -> UserError:
    """Returns the error for evaluations whose files turned out damaged as the page was drawn."""
    commands = " or ".join(f"`{_command(as_path(directory) / 'eval.json')}`" for directory in directories)
    return UserError(f"eval.json, eval.npz, methods.json or methods.npz in {' or '.join(map(str, directories))} is "
                     f"damaged ({_brief(error)}): make them again with {commands}")


def _command(path: epath.Path) -> str:
    """Returns the command that writes a file."""
    directory = path.parent
    if path.name == "metrics.jsonl":
        return f"python -m shapjax train --config CONFIG --workdir {directory}"
    if (directory / "checkpoints").exists():
        return f"python -m shapjax eval --checkpoint {directory}"
    if export.is_exported(directory):
        return f"python -m shapjax eval --checkpoint {directory} --output EVALUATION"
    return f"python -m shapjax eval --checkpoint RUN --output {directory}"


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Returns the JSON object in a file of this format."""
    with _reading(path):
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    if content.get("format") != FORMAT:
        raise _broken(path, f"it is of format {str(content.get('format'))[:20]}, not {FORMAT}")
    return content


def _read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file."""
    with _reading(path):
        return read_arrays(path)


def _read_records(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the records of a training run; [] if there is no such file.

    The last line is left out where it has no end, as in a run that was cut off.
    """
    if not path.exists():
        return []
    with _reading(path):
        lines = path.read_text("utf-8").split("\n")[:-1]
        return [{"step": int(record["step"])} | record for record in map(json.loads, lines)]


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
    """Turns errors of numpy, zipfile and json about a damaged file into one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `{_command(path)}` first") from None
    except Exception as error:
        raise _broken(path, _brief(error)) from error


def _broken(path: epath.Path, fault: str) -> UserError:
    return UserError(f"{path} cannot be used ({fault}): make it again with `{_command(path)}`")


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
