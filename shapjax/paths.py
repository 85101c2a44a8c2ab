"""Opens and replaces the files of a run, local or in a bucket. A file appears whole or not at all.

Every other module reads and writes a run's files through this one. Paths are `etils.epath.Path`, with `~` expanded.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

CHECKSUM = "checksum"  # the key under which JSON values carry one of their own


def as_path(path: str | os.PathLike) -> epath.Path:
    """Returns a path, local or in a bucket, with `~` expanded."""
    return epath.Path(path).expanduser()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields a path to write to, which takes the place of `path` when the block ends well and vanishes otherwise.

    Missing parent directories are made.
    """
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replaces a file by this text, in UTF-8."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, values: Any) -> None:
    """Replaces a file by these values as indented JSON."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns JSON-able values with a checksum of all of them, by which `unsealed` finds any change."""
    return {**values, CHECKSUM: _checksum(values)}


def unsealed(values: Any) -> Any:
    """Inverts `sealed`, on what JSON has given back. Values without a checksum, as older files have, stay as they are.

    Raises:
      ValueError: if the values are not those that were sealed.
    """
    if not isinstance(values, Mapping) or CHECKSUM not in values:
        return values
    values = dict(values)
    if values.pop(CHECKSUM) != _checksum(values):
        raise ValueError("its values are not those that were written")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces a file by these arrays as a compressed .npz."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, by name; never unpickles.

    Raises:
      OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error: if there is none, or it is damaged.
    """
    with as_path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def require_writable(path: str | os.PathLike) -> None:
    """Makes the parents of `path`; raises OSError if no file can be written there. For use before long work."""
    parent = as_path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    probe = parent / f".{uuid.uuid4().hex[:8]}.part"
    probe.write_bytes(b"")
    probe.unlink()
