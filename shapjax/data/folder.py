"""Images in directories, one directory a class, and the masks of their objects in a directory beside them."""

import collections
import functools
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence

from shapjax import paths
from shapjax.data import opening
from shapjax.data.encoded import Example, Records
from shapjax.errors import UserError, few, near_names, printable

TEST_SHARE = 0.2  # of each class, where there are no directories for the splits
MASKS = "masks"  # the directory of the masks, which holds directories of the same names as those beside it
_SPLIT_NAMES = ("train", "test", "val", "validation")
_SPLIT = re.compile(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")  # the part of TFDS's syntax that has a meaning here
# What systems leave behind, in lower case; no one put it there on purpose.
_BY_THE_WAY = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db",
               "desktop.ini", "icon\r"}
_SUFFIX = re.compile(r"\.\w{1,10}")  # "Dr. Who" has none
_BESIDE = "outside the directories of the classes"

Files = list[tuple[bytes, str]]  # of a class: (hash of the name, path) of each image, sorted


def open_records(path: str, split: str, class_names: Sequence[str] | None = None) -> Records:
    """Lists, without opening them, the image files of a split of PATH/CLASS/… or PATH/SPLIT/CLASS/….

    Classes are the directories, in the order of their names (in Unicode's form NFC). Their images are the files, at any
    depth and behind links too, whose suffix is one that is read, or that have none and begin as an image does. Hidden
    files and those that systems leave behind are left out; the number and the first names of all others are printed.
    Images are in the order of a hash of CLASS/FILE, which is fixed and mixes the classes, so that a slice of a split is
    a sample of it. Where there are no directories for splits, "test" is the first 20 % of each class in that order
    (rounded, at least one image of two), "train" the rest, and "all" both. The mask of the object in PATH/X.jpg is
    PATH/masks/X.png: 0 on the background. A split has masks for all of its images or for none.

    Args:
      path: the directory; a leading ~ is the home directory. One in a bucket is copied to a local disk (`paths.local`).
      split: "train", "test", the name of a directory, or a slice of one of these, such as "train[:90%]" or
        "test[:1000]". "test" is also looked for as "val" and "validation".
      class_names: those of the training split, if this is another one: it may lack images of some, which is printed.

    Raises:
      UserError: on a directory or split that is not there, fewer than two classes, a class without training images, or
        masks for some images only.
    """
    given, path = path, str(paths.local(path))
    if not os.path.isdir(path):
        raise UserError(f"folder:{given}: there is no such directory; give the one that holds those of the classes")
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
        classes = classes_in(os.path.join(path, found[0]), class_names)
    else:
        classes = classes_in(path, class_names)
        if name != "all":
            classes = {class_name: part(files, test=name == "test") for class_name, files in classes.items()}
    if class_names and (empty := [class_name for class_name, files in classes.items() if not files]):
        _say(f"folder:{path}: the split {name!r} has no images of {len(empty)} of {len(classes)} classes: {few(empty)}")
    listed = sorted((key, file, label) for label, files in enumerate(classes.values()) for key, file in files)
    chosen = listed[_bound(start, len(listed)) : _bound(stop, len(listed))]
    if not chosen:
        raise UserError(f"folder:{path}: the split {split!r} has no images; all of {name} are {len(listed)}"
                        f"{'' if directories else '; the split all takes every image'}")
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


def classes_in(directory: str, known: Sequence[str] | None = None) -> dict[str, Files]:
    """Lists the images of each class, sorted by name; prints what is left out.

    Args:
      directory: has one for each class.
      known: the classes that images may be of, such as those of the training split; of some there may be none.

    Raises:
      UserError: on fewer than two classes, a class without images, or one with images that is not known.
    """
    names = _class_names(directory)
    if known is None and len(names) < 2:
        raise UserError(f"{directory} should hold a directory of images for each class, at least two; found "
                        f"{next(iter(names), 'none')}")
    others = {entry.path: _BESIDE for entry in _entries(directory) if not _is_directory(entry) and _is_image(entry)}
    classes = {name: image_files(directory, stored, others) for name, stored in names.items()}
    say_left_out(directory, others)
    if known is not None:
        if more := [name for name, files in classes.items() if files and name not in known]:
            raise UserError(f"{os.path.join(directory, names[more[0]])} has images of none of the {len(known)} classes "
                            f"({near_names(more[0], known, otherwise=few(known))}); rename or remove the directory, or "
                            f"train on this class too{_such_classes(more)}")
        return {name: classes.get(name, []) for name in known}
    if empty := [name for name, files in classes.items() if not files]:
        place = os.path.join(directory, names[empty[0]])
        unread = [kind for file, kind in others.items() if file.startswith(os.path.join(place, ""))]
        found = f"of files only {_count_kinds(unread)}" if unread else "files such as .jpg or .png"
        raise UserError(f"{place} has no images ({found}); add some, or remove the directory{_such_classes(empty)}")
    return classes


def _class_names(directory: str) -> dict[str, str]:
    """Returns {class name: name of its directory}, sorted."""
    names = {}
    for stored in directories(directory):
        name = unicodedata.normalize("NFC", stored)
        if printable(name) != name:
            raise UserError(f"{directory} holds a directory of the name {stored!r}, which cannot be printed; rename it")
        if name in names:
            raise UserError(f"{directory} holds two directories of the name {name}, in two forms of Unicode, NFC and "
                            "NFD; move the images of both into one")
        names[name] = stored
    return dict(sorted(names.items()))


def _such_classes(names: list[str]) -> str:
    return f" ({len(names)} such classes)" if len(names) > 1 else ""


def image_files(directory: str, class_name: str, others: dict[str, str]) -> Files:
    """Returns the images in directory/class_name, at any depth; adds {path: kind} of all else to `others`."""
    found = []
    for entry in _files(os.path.normpath(os.path.join(directory, class_name))):
        if _is_image(entry):
            relative = unicodedata.normalize("NFC", os.path.relpath(entry.path, directory).replace(os.sep, "/"))
            found.append((hashlib.blake2b(os.fsencode(relative), digest_size=8).digest(), entry.path))
        else:
            others[entry.path] = _suffix(entry.name) or "without a suffix"
    return sorted(found)


def say_left_out(directory: str, others: dict[str, str]) -> None:
    """Prints the number, the kinds and the first names of files that are left out, if there are any."""
    if others:
        names = few(sorted(os.path.relpath(file, directory) for file in others))
        _say(f"folder:{directory}: left out {len(others)} files that are not read as images of a class: "
             f"{_count_kinds(list(others.values()))}; {names}")


def _count_kinds(kinds: list[str]) -> str:
    """Returns "2 .heic (`pip install pillow-heif` to read them), 1 .mp4"."""
    return ", ".join(f"{count} {kind}" + (f" ({how} to read them)" if (how := opening.how_to_read(kind)) else "")
                     for kind, count in sorted(collections.Counter(kinds).items()))


@functools.cache
def _say(text: str) -> None:
    """Prints a line, once: a run lists its folder several times."""
    print(printable(text))


def _files(directory: str) -> Iterator[os.DirEntry]:
    """Yields the files below a directory, no directory twice: links are followed, but not to one that they lie in."""
    seen, waiting = set(), [(directory, os.path.realpath(directory))]
    while waiting:
        path, place = waiting.pop()  # the place has no links in it
        if place in seen:
            continue
        seen.add(place)
        for entry in _entries(path):
            if not _is_directory(entry):
                yield entry
                continue
            own = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(place, entry.name)
            if not os.path.join(place, "").startswith(os.path.join(own, "")):
                waiting.append((entry.path, own))


def _is_image(entry: os.DirEntry) -> bool:
    """Returns whether a file is an image by its suffix, or by how it begins where it has none; not for pipes."""
    if entry.is_symlink():  # also one that leads nowhere: it is reported as an image that cannot be read
        if os.path.exists(entry.path) and not os.path.isfile(entry.path):
            return False
    elif not entry.is_file(follow_symlinks=False):
        return False
    suffix = _suffix(entry.name)
    return suffix in opening.suffixes() if suffix else opening.begins_as_image(entry.path)


def _suffix(name: str) -> str:
    """Returns the suffix of a file, in lower case; "" if it has none."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def part(files: Files, *, test: bool) -> Files:
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
    """Returns the names of the directories in a directory."""
    return [entry.name for entry in _entries(path) if _is_directory(entry)]


def _entries(path: str) -> list[os.DirEntry]:
    """Returns what is in a directory, sorted by name, but for hidden files and those that systems leave behind."""
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")
                           and entry.name.lower() not in _BY_THE_WAY), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{path} cannot be listed: {error.strerror or error}") from None


def _is_directory(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _bound(text: str | None, count: int) -> int | None:
    """Returns a slice's bound, such as "10%", "-10%" or "1000", as Python takes it; rounds as TFDS does."""
    if text is None:
        return None
    return round(int(text[:-1]) / 100 * count) if text.endswith("%") else int(text)
