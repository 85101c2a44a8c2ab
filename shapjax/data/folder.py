"""Images in directories, one directory a class, and the masks of their objects in a directory beside them."""

import hashlib
import os
import re

from PIL import Image

from shapjax.data.encoded import Example, Records
from shapjax.errors import UserError

TEST_SHARE = 0.2  # of each class, where there are no directories for the splits
MASKS = "masks"  # the directory of the masks, which holds directories of the same names as those beside it
_SPLIT_NAMES = ("train", "test", "val", "validation")
_SPLIT = re.compile(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")  # the part of TFDS's syntax that has a meaning here


def open_records(path: str, split: str) -> Records:
    """Lists, without opening them, the image files of a split of PATH/CLASS/… or PATH/SPLIT/CLASS/….

    Classes are the directories, in the order of their names. Their images are the files, at any depth, whose suffix is
    one that Pillow reads; hidden files and directories are left out. Images are in the order of a hash of CLASS/FILE,
    which is fixed and mixes the classes, so that a slice of a split is a sample of it. Where there are no directories
    for splits, "test" is the first 20 % of each class in that order (rounded, at least one image of two), "train" the
    rest, and "all" both. The mask of the object in PATH/X.jpg is PATH/masks/X.png: 0 on the background. A split has
    masks for all of its images or for none.

    Args:
      path: the directory; a leading ~ is the home directory.
      split: "train", "test", the name of a directory, or a slice of one of these, such as "train[:90%]" or
        "test[:1000]". "test" is also looked for as "val" and "validation".

    Raises:
      UserError: on a directory or split that is not there, fewer than two classes, a class without images, or masks for
        some images only.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise UserError(f"folder:{path}: there is no such directory; give the one that holds those of the classes")
    if not (parsed := _SPLIT.fullmatch(split)):
        raise UserError(f"folder:{path}: the split {split!r} is not understood; expected a name such as train, or a "
                        "slice such as train[:90%]")
    name, start, stop = parsed.groups()
    directories = _split_directories(path, name)
    splits = directories or ["train", "test", "all"]
    aliases = [name, "val", "validation"] if name == "test" else [name]
    found = [alias for alias in aliases if alias in splits]
    if not found:
        raise UserError(f"folder:{path} has no split {name!r}; there are {', '.join(splits)}, and slices of them such "
                        f"as {splits[0]}[:90%]")
    if directories:
        classes = classes_in(os.path.join(path, found[0]))
    else:
        classes = classes_in(path)
        if name != "all":
            classes = {class_name: part(files, test=name == "test") for class_name, files in classes.items()}
    listed = sorted((key, file, label) for label, files in enumerate(classes.values()) for key, file in files)
    chosen = listed[_bound(start, len(listed)) : _bound(stop, len(listed))]
    if not chosen:
        raise UserError(f"folder:{path}: the split {split!r} has no images; all of {name} are {len(listed)}")
    files, labels = [file for _, file, _ in chosen], [label for *_, label in chosen]
    masks = _masks(path, files)
    return Records(count=len(files), name=files.__getitem__,
                   examples=lambda indices: [Example(files[i], labels[i], masks and masks[i]) for i in indices],
                   class_names=tuple(classes), stored_shape=(None, None, 3), upright=True,
                   mask_background=0 if masks else None)


def _masks(path: str, files: list[str]) -> list[str] | None:
    """Returns the paths of the images' masks; None if there are none; raises UserError if only some have one."""
    if not _has_masks(path):
        return None
    masks = [os.path.join(path, MASKS, os.path.splitext(os.path.relpath(file, path))[0] + ".png") for file in files]
    absent = [i for i, mask in enumerate(masks) if not os.path.isfile(mask)]
    if 0 < len(absent) < len(masks):
        raise UserError(f"{files[absent[0]]} has no mask {masks[absent[0]]}, as {len(absent)} of {len(files)} images; "
                        "add them, or remove the others")
    return None if absent else masks


def _split_directories(path: str, name: str) -> list[str]:
    """Returns the directories of splits, which have classes inside; none where the directories are the classes."""
    visible = directories(path)
    if any(directories(os.path.join(path, d)) for d in visible if d in (*_SPLIT_NAMES, name)):
        return [d for d in visible if directories(os.path.join(path, d))]
    if visible and set(visible) <= set(_SPLIT_NAMES):
        raise UserError(f"folder:{path}: {', '.join(visible)} hold no directories; put the images into one for each "
                        f"class, such as {os.path.join(path, visible[0], 'cat')}")
    return []


def classes_in(directory: str) -> dict[str, list[tuple[bytes, str]]]:
    """Returns {class name: (hash, path) of each of its images}; classes sorted by name, images by hash."""
    names = directories(directory)
    if len(names) < 2:
        raise UserError(f"{directory} should hold a directory of images for each class, at least two; found "
                        f"{names[0] if names else 'none'}")
    classes = {name: image_files(directory, name) for name in names}
    if empty := [name for name, files in classes.items() if not files]:
        raise UserError(f"{os.path.join(directory, empty[0])} has no images (files such as .jpg or .png); add some, or "
                        f"remove the directory{f' ({len(empty)} such classes)' if len(empty) > 1 else ''}")
    return classes


def image_files(directory: str, class_name: str) -> list[tuple[bytes, str]]:
    """Returns the (hash, path) of the images in directory/class_name, at any depth, sorted."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = []
    for parent, directories, files in os.walk(os.path.normpath(os.path.join(directory, class_name))):
        directories[:] = [d for d in directories if not d.startswith(".")]
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes:
                path = os.path.join(parent, file)
                relative = os.path.relpath(path, directory).replace(os.sep, "/")
                found.append((hashlib.blake2b(os.fsencode(relative), digest_size=8).digest(), path))
    return sorted(found)


def part(files: list[tuple[bytes, str]], *, test: bool) -> list[tuple[bytes, str]]:
    """Returns the test images of a class, its first `TEST_SHARE`, or the others."""
    count = max(round(TEST_SHARE * len(files)), min(1, len(files) - 1))
    return files[:count] if test else files[count:]


def directories(path: str) -> list[str]:
    """Returns the names of the directories of splits or classes, sorted."""
    return [name for name in _visible(path) if name != MASKS or not _has_masks(path)]


def _has_masks(path: str) -> bool:
    """Returns whether a directory's `MASKS` repeats directories beside it; otherwise it is a class of that name."""
    inside = _visible(os.path.join(path, MASKS)) if os.path.isdir(os.path.join(path, MASKS)) else []
    return bool(inside) and set(inside) <= set(_visible(path)) - {MASKS}


def _visible(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _bound(text: str | None, count: int) -> int | None:
    """Returns a slice's bound, such as "10%", "-10%" or "1000", as Python takes it; rounds as TFDS does."""
    if text is None:
        return None
    return round(int(text[:-1]) / 100 * count) if text.endswith("%") else int(text)
