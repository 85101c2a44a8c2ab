"""Images in directories, one directory a class."""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from shapjax.data.encoded import Example
from shapjax.errors import UserError

TEST_SHARE = 0.2  # of each class, where there are no directories for the splits
_SPLIT_NAMES = ("train", "test", "val", "validation")
_SPLIT = re.compile(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")  # the part of TFDS's syntax that has a meaning here


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRecords:
    """`encoded.Records` of image files; labels: int [n]."""

    files: Sequence[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    stored_shape: tuple[None, None, int] = (None, None, 3)
    upright: bool = True
    mask_background: None = None

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        return [Example(self.files[i], int(self.labels[i])) for i in indices]


def open_records(path: str, split: str) -> FolderRecords:
    """Lists, without opening them, the image files of a split of PATH/CLASS/… or PATH/SPLIT/CLASS/….

    Classes are the directories, in the order of their names. Their images are the files, at any depth, whose suffix is
    one that Pillow reads; hidden files and directories are left out. Images are in the order of a hash of CLASS/FILE,
    which is fixed and mixes the classes, so that a slice of a split is a sample of it. Where there are no directories
    for splits, "test" is the first 20 % of each class in that order (rounded, at least one image of two), and "train"
    the rest.

    Args:
      path: the directory; a leading ~ is the home directory.
      split: "train", "test", the name of a directory, or a slice of one of these, such as "train[:90%]" or
        "test[:1000]". "test" is also looked for as "val" and "validation".

    Raises:
      UserError: on a directory or split that is not there, fewer than two classes, or a class without images.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise UserError(f"folder:{path}: there is no such directory; give the one that holds those of the classes")
    if not (parsed := _SPLIT.fullmatch(split)):
        raise UserError(f"folder:{path}: the split {split!r} is not understood; expected a name such as train, or a "
                        "slice such as train[:90%]")
    name, start, stop = parsed.groups()
    if directories := _split_directories(path, name):
        aliases = [name, "val", "validation"] if name == "test" else [name]
        found = [alias for alias in aliases if alias in directories]
        if not found:
            raise UserError(f"folder:{path} has no split {name!r}; there are {', '.join(directories)}, and slices of "
                            f"them such as {directories[0]}[:90%]")
        classes = _classes(os.path.join(path, found[0]))
    elif name in ("train", "test"):
        classes = {class_name: _part(files, test=name == "test") for class_name, files in _classes(path).items()}
    else:
        raise UserError(f"folder:{path} has no split {name!r}; it has no directories for splits, so there are train "
                        "and test, and slices of them such as train[:90%]")
    listed = sorted((key, file, label) for label, files in enumerate(classes.values()) for key, file in files)
    chosen = listed[_position(start, len(listed), 0): _position(stop, len(listed), len(listed))]
    if not chosen:
        raise UserError(f"folder:{path}: the split {split!r} has no images; all of {name} are {len(listed)}")
    return FolderRecords([file for _, file, _ in chosen], np.array([label for *_, label in chosen]), tuple(classes))


def _split_directories(path: str, name: str) -> list[str]:
    """Returns the directories of splits, which have classes inside; none where the directories are the classes."""
    visible = _directories(path)
    if set(visible) <= set(_SPLIT_NAMES) and not any(_directories(os.path.join(path, d)) for d in visible):
        if visible:
            raise UserError(f"folder:{path}: {', '.join(visible)} hold no directories; put the images into one for "
                            f"each class, such as {os.path.join(path, visible[0], 'cat')}")
    if any(_directories(os.path.join(path, d)) for d in visible if d in (*_SPLIT_NAMES, name)):
        return [d for d in visible if _directories(os.path.join(path, d))]
    return []


def _classes(directory: str) -> dict[str, list[tuple[bytes, str]]]:
    """Returns {class name: (hash, path) of each of its images}; classes sorted by name, images by hash."""
    names = _directories(directory)
    if len(names) < 2:
        found = f"only one, {names[0]}" if names else "none"
        raise UserError(f"{directory} should hold a directory of images for each class, at least two; it has {found}")
    classes = {name: _image_files(directory, name) for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        raise UserError(f"{os.path.join(directory, empty[0])} has no images (files such as .jpg or .png); add some, or "
                        f"remove the directory{f' ({len(empty)} such classes)' if len(empty) > 1 else ''}")
    return classes


def _image_files(directory: str, class_name: str) -> list[tuple[bytes, str]]:
    """Returns the (hash, path) of the images of a class, sorted."""
    found = []
    for parent, directories, files in os.walk(os.path.join(directory, class_name)):
        directories[:] = [d for d in directories if not d.startswith(".")]
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in _suffixes():
                path = os.path.join(parent, file)
                relative = os.path.relpath(path, directory).replace(os.sep, "/")
                found.append((hashlib.blake2b(os.fsencode(relative), digest_size=8).digest(), path))
    return sorted(found)


def _part(files: list[tuple[bytes, str]], *, test: bool) -> list[tuple[bytes, str]]:
    """Returns the test images of a class, or the others."""
    count = max(round(TEST_SHARE * len(files)), min(1, len(files) - 1))
    return files[:count] if test else files[count:]


def _directories(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _position(text: str | None, count: int, default: int) -> int:
    """Returns the position of a slice's bound, such as "10%", "-10%" or "1000"; rounds as TFDS does."""
    if text is None:
        return default
    position = round(int(text[:-1]) / 100 * count) if text.endswith("%") else int(text)
    return max(position + count, 0) if position < 0 else position


@functools.cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)
