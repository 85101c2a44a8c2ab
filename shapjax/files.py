"""Writing files so that nobody ever sees half of one."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the place of `path` when the block ends well and vanishes when it does not.

    Missing parent directories are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike) -> None:
    """Makes the parents of `path`; raises OSError if no file can be written there. For use before long work."""
    parent = pathlib.Path(path).parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parent):
        pass
