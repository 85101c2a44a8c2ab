"""Reading files of a run; what is missing or broken is named with the command that makes it."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np

from shapjax.errors import UserError


def read_text(path: Path, command: str) -> str:
    """The text of a file. Raises UserError if it is missing or not UTF-8."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise missing(path, command) from None
    except (OSError, UnicodeDecodeError):
        raise broken(path, "it cannot be read as text", command) from None


def read_object(path: Path, command: str) -> dict:
    """The JSON object in a file. Raises UserError if it is missing or holds anything else."""
    text = read_text(path, command)
    try:
        content = json.loads(text)
    except ValueError:
        raise broken(path, "it is not JSON", command) from None
    if not isinstance(content, dict):
        raise broken(path, "it is not a JSON object", command)
    return content


def read_arrays(path: Path, command: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises UserError if it is missing, damaged or pickled."""
    if not path.is_file():
        raise missing(path, command)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
        raise broken(path, "it is not an .npz archive of plain arrays", command) from None


def missing(path: Path, command: str) -> UserError:
    """The error for a file that is not there."""
    return UserError(f"{path} is missing: run `{command}` first")


def broken(path: Path, fault: str, command: str) -> UserError:
    """The error for a file that cannot be used."""
    return UserError(f"{path} cannot be used, {fault}: make it again with `{command}`")


def is_number(value) -> bool:
    """Whether this is a finite number (a bool is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
