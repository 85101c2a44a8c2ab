"""Files of a comparison: what each method has measured, so that a broken run goes on; the table as JSON and CSV."""

import csv
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from shapjax import paths
from shapjax.games.classifier import Classifier
from shapjax.training import distributed
from shapjax.version import __version__

FORMAT = 2  # of eval.json and methods.json; a reader refuses what it does not know


def origin() -> dict[str, Any]:
    """Returns what made an evaluation: the format of its files, the devices, and the versions."""
    return {"format": FORMAT, "device": f"{jax.default_backend()} x {jax.device_count()}",
            "versions": {"shapjax": __version__, "jax": jax.__version__}}


def fingerprint(settings: Mapping[str, Any], *arrays: np.ndarray) -> str:
    """Returns a digest of all that results depend on: JSON-able settings, and the arrays' contents."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


class Cache:
    """Results of earlier evaluations of one model, an .npz file each, with which a broken evaluation goes on.

    A result is read back only under the mark that it was written under. The mark holds the parameters. A model's
    functions have no digest; values of one coalition pair, written beside each result, must be those of the model.
    """

    def __init__(self, directory: str | os.PathLike, model: Classifier, images: np.ndarray, *, fresh: bool = False):
        """Args:
          directory: of the files; made when the first is written.
          model: the game that the results are of.
          images: float32 [n, H, W, C], as the model takes them; the first one is used.
          fresh: read nothing that is there.
        """
        self._directory, self._fresh = paths.as_path(directory), fresh
        mask_1N = np.arange(model.num_players)[None] % 2 == 0
        self._pair = np.concatenate(jax.jit(Classifier.pair_logits)(model, images[:1], mask_1N))
        self._params = fingerprint({"version": __version__, "grid": list(model.grid)},
                                   *map(np.asarray, jax.tree.leaves((model.params, model.error_law))))

    def mark(self, settings: Mapping[str, Any], *arrays: np.ndarray) -> str:
        """Returns the mark of results of this model, these settings and these arrays."""
        return fingerprint({"params": self._params} | settings, *arrays)

    def save(self, name: str, mark: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a result, in the first of several processes."""
        if jax.process_index() == 0:
            paths.write_arrays(self._directory / f"{name}.npz", {
                "fingerprint": np.array(mark), "coalition_pair": self._pair, **arrays})

    def load(self, name: str, mark: str) -> dict[str, np.ndarray] | None:
        """Reads a result; returns None if there is none, or it is broken, or of another mark or model.

        Of several processes, all read it or none: the next step of the work is then the same for all.
        """
        found = None if self._fresh else self._read(name, mark)
        return found if distributed.agreed(found is not None) else None

    def _read(self, name: str, mark: str) -> dict[str, np.ndarray] | None:
        try:
            found = paths.read_arrays(self._directory / f"{name}.npz")
            pair, tolerance = found.pop("coalition_pair"), 1e-3 * max(1, np.abs(self._pair).max())
            is_same = str(found.pop("fingerprint")) == mark and pair.shape == self._pair.shape
            return found if is_same and np.allclose(pair, self._pair, rtol=0, atol=tolerance) else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # it is measured again


def write_comparison(directory: str | os.PathLike, summary: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
                     ) -> None:
    """Writes methods.json (the table and what it rests on), methods.csv (the means) and methods.npz (maps to look at).

    Args:
      directory: to write to.
      summary, arrays: from `comparison.compare`.
    """
    directory = paths.as_path(directory)
    paths.write_arrays(directory / "methods.npz", arrays)
    rows = []
    for method in summary["methods"]:
        row = {"method": method["key"]}
        for metric in summary["metrics"]:
            name, value = metric["key"], method["values"][metric["key"]] or {}
            row |= {name: value.get("mean"), f"{name}_low": value.get("low"), f"{name}_high": value.get("high")}
        rows.append(row | method["cost"])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0])
    table.writeheader()
    table.writerows(rows)
    paths.write_text(directory / "methods.csv", text.getvalue())
    paths.write_json(directory / "methods.json", summary)
