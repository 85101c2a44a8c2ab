"""Opens and replaces the files of a run, local or in a bucket. A file appears whole or not at all.

Every other module reads and writes a run's files through this one. Paths are `etils.epath.Path`, with `~` expanded.
Those that begin with gs:// lie in a bucket of Google Cloud Storage, which gcsfs reads and writes. Nothing there can be
renamed or appended to: files are written on a local disk first, and uploaded whole.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import numpy as np
import tqdm
from etils import epath

from shapjax.errors import UserError

CHECKSUM = "checksum"  # the key under which JSON values carry one of their own
COPIED_AT_ONCE = 2**28  # bytes of a bucket, before what is there counts as copied
os.environ.setdefault("EPATH_USE_TF", "false")  # else epath starts TensorFlow, where it is installed, to read buckets


def as_path(path: str | os.PathLike) -> epath.Path:
    """Returns a path, local or in a bucket, with `~` expanded.

    Raises:
      UserError: on a URL of another kind, or if gcsfs is needed and not installed.
    """
    text = str(path)
    if "://" in text or text.startswith("gs:/"):
        if not re.match("gs://[^/]", text):
            raise UserError(f"{text}: expected a local path, or the text gs://BUCKET/PATH, of Google Cloud Storage (a "
                            "pathlib.Path loses a slash); download it, or mount other stores as a directory")
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{text} lies in a bucket, which takes gcsfs; run `pip install gcsfs`")
        # Other processes, and tensorstore in this one, write beside it.
        fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(path).expanduser()


def in_bucket(path: str | os.PathLike) -> bool:
    """Returns whether a path lies in a bucket."""
    return str(path).startswith("gs://")


def file_system() -> fsspec.AbstractFileSystem:
    """Returns the buckets, as epath opens them."""
    return fsspec.filesystem("gcs", finalize_on_close=True)


def bucket_errors() -> tuple[type[Exception], ...]:
    """Returns the errors, other than OSErrors, that a bucket may raise; none where no bucket was used."""
    if "gcsfs" not in sys.modules:
        return ()
    import aiohttp
    import gcsfs.retry
    import google.auth.exceptions
    return gcsfs.retry.HttpError, google.auth.exceptions.GoogleAuthError, aiohttp.ClientError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields a path to write to, which takes the place of `path` when the block ends well and vanishes otherwise.

    Missing parent directories are made.
    """
    path = as_path(path)
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as directory:
            part = epath.Path(directory) / path.name
            yield part
            upload(part, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def upload(source: epath.Path, path: epath.Path) -> None:
    """Replaces a file in a bucket by a local one, or those in a directory of the bucket by those of a local one.

    Raises:
      OSError: if it cannot be; then the file is as it was.
    """
    try:
        if source.is_dir():
            file_system().put(f"{source}/", f"{path}/", recursive=True)
        else:
            file_system().put_file(str(source), str(path))
    except (OSError, *bucket_errors()) as e:
        reason = "there is no such bucket" if isinstance(e, FileNotFoundError) else " ".join(str(e).split())[:300]
        raise OSError(f"{path} cannot be written: {reason}") from e


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
    probe = as_path(path).parent / f".{uuid.uuid4().hex[:8]}.part"
    write_text(probe, "")
    probe.unlink()


def is_same(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Returns whether two paths, however they are spelled, are of one file that exists."""
    one, other = as_path(one), as_path(other)
    if in_bucket(one) or in_bucket(other):
        return one == other and one.exists()
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def cache_directory() -> pathlib.Path:
    """Returns the local directory of what can be made or copied again: $XDG_CACHE_HOME/shapjax, or ~/.cache/shapjax."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "shapjax"


def local(path: str | os.PathLike) -> epath.Path:
    """Returns a path on a local disk: the path itself, or that of a copy of the file or directory in a bucket.

    Copies are kept in `cache_directory()`/buckets. A file that is there already, with the size and time of that in the
    bucket, is not copied again, and one that is gone from the bucket is removed. The processes of a machine share the
    copy: one makes it, the others wait. If there is nothing at the path, there is nothing at the one returned.

    Raises:
      UserError: if the disk has no room for the copy, or an object's name is none of a file.
    """
    path = as_path(path)
    if not in_bucket(path):
        return path
    root = cache_directory() / "buckets"
    root.mkdir(parents=True, exist_ok=True)
    bucket, _, key = str(path).removeprefix("gs://").partition("/")
    with (root / f".{bucket}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _copy(path, root)
    return epath.Path(root / bucket / key)


def _copy(path: epath.Path, root: pathlib.Path) -> None:
    """Makes what is below `root` the same as the bucket has at a path."""
    try:
        objects = file_system().find(str(path), detail=True)
    except FileNotFoundError:  # there is no such bucket
        objects = {}
    objects = {name: info for name, info in objects.items() if not name.endswith("/")}  # which stands for a directory
    if wrong := [name for name in objects if {"", ".", ".."} & set(name.split("/"))]:
        raise UserError(f"gs://{wrong[0]} has a name that no file can have; rename it")
    copy = root / str(path).removeprefix("gs://")
    for directory, _, names in os.walk(copy, topdown=False):
        for name in names:
            if str((file := pathlib.Path(directory, name)).relative_to(root)) not in objects:
                file.unlink()
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(directory)
    if copy.is_file() and not objects:
        copy.unlink()
    times = {name: int(info["mtime"].timestamp() * 1e6) * 1000 for name, info in objects.items()}  # ns
    missing = [name for name, info in objects.items() if _size_and_time(root / name) != (info["size"], times[name])]
    sizes, free = [objects[name]["size"] for name in missing], shutil.disk_usage(root).free
    if sum(sizes) > free:
        raise UserError(f"{path} has {sum(sizes) / 2**30:.1f} GiB to copy, and {root} has {free / 2**30:.1f} GiB free; "
                        "name a larger disk by XDG_CACHE_HOME, or mount the bucket (gcsfuse) and give that path")
    parts = dict(zip(missing, np.cumsum(sizes) // COPIED_AT_ONCE, strict=True))
    with tqdm.tqdm(total=sum(sizes), desc=f"copying {path}", unit="B", unit_scale=True, delay=1) as bar:
        for _, group in itertools.groupby(missing, parts.get):
            names = list(group)
            file_system().get([f"gs://{name}" for name in names], [str(root / name) for name in names])
            for name in names:
                os.utime(root / name, ns=(times[name], times[name]))
            bar.update(sum(objects[name]["size"] for name in names))


def _size_and_time(file: pathlib.Path) -> tuple[int, int] | None:
    """Returns the size of a file in bytes and when it was changed, in ns; None if there is none."""
    with contextlib.suppress(OSError):
        stat = file.stat()
        return stat.st_size, stat.st_mtime_ns
    return None
