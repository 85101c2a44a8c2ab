"""Makes a source of a stored dataset from its name ("tfds:…", "folder:…") and settings."""

import functools
from typing import BinaryIO

import ml_collections
import numpy as np

from shapjax.data import folder, images, normalization
from shapjax.data.encoded import EncodedSource, Records
from shapjax.data.verification import CORRUPT, readable
from shapjax.errors import UserError

_PEEK = 100  # images of the other split whose sizes are looked at


def open_split(dataset: str, split: str, data_dir: str) -> Records:
    """Returns the records of a split of the dataset "tfds:…" or "folder:…"; data_dir: where TFDS's datasets lie.

    Raises:
      UserError: on a dataset or a split that is not there.
    """
    kind, _, name = dataset.partition(":")
    if kind == "folder":
        return folder.open_records(name, split)
    from shapjax.data import tfds_source
    return tfds_source.open_records(name, split, data_dir)


def load(dataset: str, data: ml_collections.ConfigDict, split: str) -> EncodedSource:
    """Returns the source of one split.

    Args:
      dataset: "tfds:NAME" or "folder:PATH".
      data: the group of that name of a config.
      split: "train" or "test".

    Raises:
      UserError: on a split that does not exist, images that cannot be read or differ in size without
        `data.image_size`, or splits with different classes.
    """
    named = {"train": data.train_split, "test": data.test_split}
    records = {key: open_split(dataset, name, data.data_dir) for key, name in named.items()}
    _require_same_classes(dataset, records["train"], records["test"])
    chosen, other = (records["train"], records["test"])[:: 1 if split == "train" else -1]
    if dataset.startswith("folder:"):
        kept, sizes = readable(chosen, corrupt=data.corrupt)
        size = _common_size(dataset, chosen, kept, sizes, other, required=not data.image_size)
    else:
        kept = readable(chosen, corrupt="skip")[0] if data.corrupt == "skip" else np.arange(len(chosen))
        size = None if None in chosen.stored_shape[:2] else chosen.stored_shape[:2]
        if not size and not data.image_size:
            raise UserError(f"the images of {dataset} differ in size; set the size to resize them to, such as "
                            "--config.data.image_size=224")
    channels = 1 if chosen.stored_shape[2] in (1, 2) else 3
    shape = (data.image_size, data.image_size) if data.image_size else size
    crops_on_read = shape != size  # resized on read, so crops can be cut at full resolution
    mean, std = _mean_and_std(dataset, data.train_split, data.data_dir, data.corrupt, (*shape, channels))
    return EncodedSource(chosen, kept, (*shape, channels), crops_on_read=crops_on_read, mean=mean, std=std)


def check_settings(data: ml_collections.ConfigDict) -> None:
    """Raises UserError on a size that is negative, or an unknown choice, in the group `data` of a config."""
    if data.image_size < 0:
        raise UserError(f"--config.data.image_size={data.image_size}: expected pixels, or 0 for images as they are")
    if not data.cache_gib >= 0:
        raise UserError(f"--config.data.cache_gib={data.cache_gib}: expected 0 or more")
    if data.corrupt not in CORRUPT:
        raise UserError(f"--config.data.corrupt={data.corrupt}: expected one of {', '.join(CORRUPT)}")


def _require_same_classes(dataset: str, train: Records, test: Records) -> None:
    """Raises UserError unless both splits have the same classes."""
    only = [f"only in {name}: {', '.join(sorted(a))}" for name, a in (
        ("train", set(train.class_names) - set(test.class_names)),
        ("test", set(test.class_names) - set(train.class_names))) if a]
    if only:
        raise UserError(f"the splits of {dataset} have different classes ({'; '.join(only)}); give both the same "
                        "directories")


def _common_size(dataset: str, records: Records, kept: np.ndarray, sizes: np.ndarray, other: Records, *,
                 required: bool) -> tuple[int, int] | None:
    """Returns the size (H, W) that all images and the first `_PEEK` of the other split have; None if they differ.

    Args:
      kept, sizes: positions and (width, height) of the readable images of `records`, from `verification.readable`.
      other: records of the other split.
      required: they have to be of one size.

    Raises:
      UserError: if they have to be and are not.
    """
    of_other = [(other.name(i), size) for i, example in enumerate(other.examples(range(min(_PEEK, len(other)))))
                if (size := _size(example.image))]
    differing = [(records.name(kept[i]), tuple(sizes[i])) for i in np.flatnonzero((sizes != sizes[0]).any(1))[:1]]
    differing += [(name, size) for name, size in of_other if size != tuple(sizes[0])]
    if differing and required:
        (width, height), (name, (other_width, other_height)) = sizes[0], differing[0]
        raise UserError(f"the images of {dataset} differ in size ({records.name(kept[0])} is {width}x{height}, {name} "
                        f"{other_width}x{other_height}); set --config.data.image_size to resize them")
    return None if differing else (int(sizes[0][1]), int(sizes[0][0]))


def _size(file: str | BinaryIO) -> tuple[int, int] | None:
    """Returns the (width, height) of an image; None if it cannot be read."""
    try:
        return images.check(file, thorough=False)
    except Exception:  # reported when its own split is loaded
        return None


@functools.cache  # the test split needs them too
def _mean_and_std(dataset: str, split: str, data_dir: str, corrupt: str, image_shape: tuple[int, int, int]
                  ) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the published (mean, std) of a dataset, or else those measured on its training split."""
    kind, _, name = dataset.partition(":")
    known = normalization.KNOWN.get(name.partition("/")[0].partition(":")[0]) if kind == "tfds" else None
    if known and len(known[0]) == image_shape[2]:
        return known
    records = open_split(dataset, split, data_dir)
    return normalization.measure(EncodedSource(records, np.arange(len(records)), image_shape, crops_on_read=True),
                                 corrupt=corrupt)
