"""Labeled image datasets with random access, and how to get them by name."""

import contextlib
import dataclasses
import functools
import io
import math
import os
from collections.abc import Sequence

import ml_collections
import numpy as np

from shapjax.data import folder, mnist5k, normalization
from shapjax.data.encoded import EncodedSource, Records
from shapjax.data.verification import CORRUPT, in_threads, readable, size_or_error
from shapjax.errors import UserError, near_names

SPLITS = ("train", "test")
_KINDS = "expected mnist5k, tfds:NAME or folder:PATH"
_PEEK = 100  # images of the other split whose sizes are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A labeled image dataset held in memory. It is read like an `EncodedSource`, but has no crops.

    Attributes:
      images: uint8 [n,H,W,C].
      labels: int32 [n], positions in class_names; others raise UserError, which names the first. All -1 if not labeled.
      class_names: the K classes; label k is class_names[k].
      mean, std: per channel, of the training pixels in [0, 1] units.
      object_masks: bool [n,H,W], or None.
      labeled: the classes of the images are known.
    """

    crops_on_read = False

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    object_masks: np.ndarray | None = None
    labeled: bool = True

    def __post_init__(self):
        if not self.labeled:
            return
        num_classes = len(self.class_names)
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= num_classes))
        if wrong.size:
            raise UserError(f"label {self.labels[wrong[0]]} of image {wrong[0]} is not in 0..{num_classes - 1} "
                            f"({wrong.size} such labels); number the classes from 0 and list every class")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    @property
    def has_object_masks(self) -> bool:
        return self.object_masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads a batch, see `EncodedSource.read`."""
        batch = {"image": self.images[indices], "label": self.labels[indices]}
        return batch if self.object_masks is None else batch | {"object_mask": self.object_masks[indices]}

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Reads labels only: int [b] -> int32 [b]."""
        return self.labels[indices]


Source = ArraySource | EncodedSource  # labeled images, of which any batch is read by position


def load_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """Returns the training or test images of a run's dataset.

    Images are decoded and resized once, and kept in memory if they fit into `data.cache_gib`. Larger sets, and training
    images that are cropped at random at a resolution above that of the model, are decoded on every read.

    Args:
      config: of a run; `dataset`, `data` and `augment.crop_area` are read. "mnist5k" has nothing to set.
      split: "train" or "test"; `data.train_split` and `data.test_split` name what that is.

    Raises:
      UserError: on a dataset, split or setting that does not exist or cannot work, files that are missing, images
        that cannot be read or differ in size without `data.image_size`, or splits with different classes.
    """
    dataset, data = config.dataset, config.data
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of {dataset}; use {' or '.join(SPLITS)}")
    if data.corrupt not in CORRUPT:
        raise UserError(f"--config.data.corrupt={data.corrupt}: expected one of {', '.join(CORRUPT)}")
    if dataset == "mnist5k":
        return _mnist5k(data, split)
    kind, _, name = dataset.partition(":")
    if kind not in ("tfds", "folder") or not name:
        raise UserError(f"unknown dataset {dataset!r}; {_hint(dataset)}")
    source = _encoded(dataset, data, split)
    crops = split == "train" and source.crops_on_read and config.augment.crop_area < 1
    return source if crops else decoded_if_small(source, cache_gib=data.cache_gib)


def undecoded(config: ml_collections.ConfigDict) -> Source:
    """Returns the training images, of which none is decoded before it is read; arguments and errors of `load_source`.

    Of a dataset of TFDS in a bucket nothing is copied: number, classes and shape are known, and nothing can be read. Of
    one that TFDS knows and that is not prepared, only classes and shape are known: its length is 0.
    """
    kind, _, name = config.dataset.partition(":")
    if kind == "tfds" and name:
        from shapjax.data import tfds_source
        if not tfds_source.is_on_disk(name, config.data.data_dir):
            records = tfds_source.described(name, config.data.train_split, config.data.data_dir)
            shape, larger = _shape(config.data, records, _stored_size(config.dataset, config.data, records))
            unknown = (0.5,) * shape[2]
            return EncodedSource(records, np.arange(records.count), shape, crops_on_read=larger, mean=unknown,
                                 std=unknown)
    config = config.copy_and_resolve_references()
    config.data.cache_gib = 0.0
    return load_source(config, "train")


def count(config: ml_collections.ConfigDict) -> int:
    """Returns the number of training images, of which none is opened; errors as of `load_source`."""
    kind, _, name = config.dataset.partition(":")
    if kind == "tfds" and name:
        from shapjax.data import tfds_source
        return tfds_source.described(name, config.data.train_split, config.data.data_dir).count
    if kind == "folder" and name:
        with contextlib.redirect_stdout(io.StringIO()):  # what is left out is said when they are loaded
            return open_split(config.dataset, config.data.train_split, "").count
    return len(load_source(config, "train"))


def decoded_if_small(source: EncodedSource, *, cache_gib: float) -> Source:
    """Returns the source in memory if it fits into so much of it, else as it is."""
    bytes_an_image = math.prod(source.image_shape) + source.has_object_masks * math.prod(source.image_shape[:2])
    return in_memory(source) if len(source) * bytes_an_image <= cache_gib * 2**30 else source


def _encoded(dataset: str, data: ml_collections.ConfigDict, split: str) -> EncodedSource:
    """Returns the source of one split, "train" or "test", of the dataset "tfds:…" or "folder:…"."""
    train = open_split(dataset, data.train_split, data.data_dir)
    test = open_split(dataset, data.test_split, data.data_dir, train.class_names)
    chosen, other = (train, test) if split == "train" else (test, train)
    if dataset.startswith("folder:"):
        sizes = readable(chosen, corrupt=data.corrupt)
        kept, size = np.array(list(sizes)), _common_size(dataset, chosen, sizes, other, required=not data.image_size)
    else:
        kept = np.array(list(readable(chosen, corrupt="skip"))) if data.corrupt == "skip" else np.arange(len(chosen))
        size = _stored_size(dataset, data, chosen)
    shape, larger = _shape(data, chosen, size)
    mean, std = _mean_and_std(dataset, data.train_split, data.data_dir, data.corrupt, shape)
    return EncodedSource(chosen, kept, shape, crops_on_read=larger, mean=mean, std=std)


def _stored_size(dataset: str, data: ml_collections.ConfigDict, records: Records) -> tuple[int, int] | None:
    """Returns the size (H, W) of all images of TFDS; None if they differ and are resized, or else UserError."""
    size = None if None in records.stored_shape[:2] else records.stored_shape[:2]
    if not size and not data.image_size:
        raise UserError(f"the images of {dataset} differ in size; set the size to resize them to, such as "
                        "--config.data.image_size=224")
    return size


def _shape(data: ml_collections.ConfigDict, records: Records, size: tuple[int, int] | None
           ) -> tuple[tuple[int, int, int], bool]:
    """Returns (H, W, C) of the images as they are read, and whether stored ones are larger, or differ in size.

    Memory would not keep the resolution of larger ones, at which crops are cut.
    """
    shape = (data.image_size, data.image_size) if data.image_size else size
    return (*shape, 1 if records.stored_shape[2] in (1, 2) else 3), size is None or max(size) > max(shape)


def open_split(dataset: str, split: str, data_dir: str, class_names: Sequence[str] | None = None) -> Records:
    """Returns the records of a split of the dataset "tfds:…" or "folder:…".

    Args:
      data_dir: where TFDS's datasets lie.
      class_names: those of the training split, if this is the other one.
    """
    kind, _, name = dataset.partition(":")
    if kind == "folder":
        return folder.open_records(name, split, class_names)
    from shapjax.data import tfds_source
    return tfds_source.open_records(name, split, data_dir)


def _common_size(dataset: str, records: Records, sizes: dict[int, tuple[int, int]], other: Records, *, required: bool
                 ) -> tuple[int, int] | None:
    """Returns the size (H, W) that all images and the first `_PEEK` of the other split have; None if they differ.

    Args:
      sizes: {position: (width, height)} of the readable images of `records`.
      other: records of the other split.
      required: they have to be of one size; else UserError.
    """
    first = {}  # the name of the first image of each size
    for position, size in sizes.items():
        first.setdefault(size, records.name(position))
    for position, example in enumerate(other.examples(range(min(_PEEK, len(other))))):
        size = size_or_error(example.image, thorough=False)
        if not isinstance(size, Exception):  # an error is reported when its own split is loaded
            first.setdefault(size, other.name(position))
    (width, height), *different = first
    if different and required:
        (name, other_name), (other_width, other_height) = list(first.values())[:2], different[0]
        raise UserError(f"the images of {dataset} differ in size ({name} is {width}x{height}, {other_name} "
                        f"{other_width}x{other_height}); set --config.data.image_size to resize them")
    return None if different else (height, width)


def in_memory(source: EncodedSource) -> ArraySource:
    """Decodes all images of a source into memory, by one thread a core, with a progress bar."""
    n, shape = len(source), source.image_shape
    arrays = {"image": np.empty((n, *shape), np.uint8), "label": np.empty(n, np.int32)}
    if source.has_object_masks:
        arrays["object_mask"] = np.empty((n, *shape[:2]), bool)

    def fill(indices: np.ndarray) -> None:
        for key, values in source.read(indices).items():
            arrays[key][indices] = values

    for _ in in_threads(fill, n, desc="decoding images"):
        pass
    for array in arrays.values():
        array.setflags(write=False)
    return ArraySource(arrays["image"], arrays["label"], source.class_names, source.mean, source.std,
                       arrays.get("object_mask"), source.labeled)


def _mnist5k(data: ml_collections.ConfigDict, split: str) -> Source:
    """Returns a split of MNIST-5k; raises UserError on settings that it does not have."""
    for key, default in {"train_split": "train", "test_split": "test", "image_size": 0}.items():
        if data[key] != default:
            raise UserError(f"--config.data.{key}={data[key]}: mnist5k has one size and its own splits; leave this "
                            "setting out")
    images, labels = mnist5k.load(split)
    return ArraySource(images, labels, mnist5k.CLASS_NAMES, mnist5k.MEAN, mnist5k.STD)


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


def _hint(dataset: str) -> str:
    """Returns a hint for an unknown dataset: the name that may be meant, or all kinds of names."""
    if dataset in ("tfds:", "folder:"):
        return _KINDS
    if os.path.isdir(os.path.expanduser(dataset)):
        return f"did you mean folder:{dataset}?"
    from shapjax.data import tfds_source
    known = ["mnist5k", *(f"tfds:{name}" for name in tfds_source.known_names())]
    return near_names(dataset, known, otherwise=_KINDS)
