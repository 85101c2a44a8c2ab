"""Files of a comparison: what each method has measured, so that a broken run goes on; the table as JSON and CSV."""

import csv
import hashlib
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shapjax import paths as files


def fingerprint(settings: Mapping[str, Any], *arrays: np.ndarray) -> str:
    """A digest of all that a method's results depend on: JSON-able settings, and the arrays' contents."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def save_method(path: pathlib.Path, mark: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes results, such as a method's (`Comparison.measure`), under the mark of their run (`fingerprint`)."""
    with files.replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, fingerprint=np.array(mark), **arrays)


def load_method(path: pathlib.Path, mark: str) -> dict[str, np.ndarray] | None:
    """What `save_method` wrote; None if there is no such file, or it is broken, or of another run."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["fingerprint"]) == mark:
                return {name: archive[name] for name in archive.files if name != "fingerprint"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # measured again
    return None


def write_comparison(directory: pathlib.Path, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes methods.json (the table and what it rests on), methods.csv (the means) and methods.npz (maps to look at).

    Args:
      directory: to write to.
      summary: with "methods" (`comparison_table.summarize`) and "metrics".
      arrays: of methods.npz.
    """
    with files.replacing(directory / "methods.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with files.replacing(directory / "methods.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_lines(summary["methods"], [metric["key"] for metric in summary["metrics"]]))
    with files.replacing(directory / "methods.json") as part:
        part.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _lines(methods: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[list[Any]]:
    """A heading, and a line for each method: means with the ends of their intervals, then its cost."""
    ends = ("mean", "low", "high")
    heading = ["method", *(name if end == "mean" else f"{name}_{end}" for name in metrics for end in ends),
               "passes", "seconds", "peak_bytes"]
    return [heading] + [
        [method["key"], *(value[end] if (value := method["values"][name]) else "" for name in metrics for end in ends),
         *("" if cost is None else cost for cost in method["cost"].values())]
        for method in methods]
