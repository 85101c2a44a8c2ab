"""Labeled image datasets with random access, and how to get them by name."""

import dataclasses
import math
import os
from typing import Protocol

import ml_collections
import numpy as np

from shapjax.data import loading, mnist5k
from shapjax.data.encoded import EncodedSource
from shapjax.data.verification import in_threads
from shapjax.errors import UserError, near_names

SPLITS = ("train", "test")


class Source(Protocol):
    """A labeled image dataset from which any batch is read by position. Threads may share it; it can be pickled.

    Attributes:
      class_names: the K classes; label k is class_names[k].
      image_shape: (H, W, C) of every image.
      mean, std: per channel, of the training pixels in [0, 1] units.
      crops_on_read: images are decoded and resized on every read; crops can be cut out of them before.
      has_object_masks: batches include object masks.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crops_on_read: bool
    has_object_masks: bool

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray, crops: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Reads a batch into fresh arrays.

        Args:
          indices: int [b], positions in [0, len).
          crops: float [b, 4], only if `crops_on_read`: the part of each image that is resized to (H, W), see
            `boxes.crop_box`; None: the part that evaluation sees.

        Returns:
          {"image": uint8 [b,H,W,C], "label": int32 [b]}, and if `has_object_masks` "object_mask": bool [b,H,W], True on
          the object.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A `Source` held in memory.

    Attributes:
      images: uint8 [n,H,W,C].
      labels: int32 [n], positions in class_names; others raise UserError.
      object_masks: bool [n,H,W], or None.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    object_masks: np.ndarray | None = None

    def __post_init__(self):
        check_labels(self.labels, len(self.class_names))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    @property
    def has_object_masks(self) -> bool:
        return self.object_masks is not None

    @property
    def crops_on_read(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray, crops: None = None) -> dict[str, np.ndarray]:
        """Reads a batch, see `Source.read`."""
        if crops is not None:
            raise ValueError("crops were given, but the images of this source are not cropped on read (crops_on_read)")
        batch = {"image": self.images[indices], "label": self.labels[indices]}
        return batch if self.object_masks is None else batch | {"object_mask": self.object_masks[indices]}


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises UserError naming the first of `labels` (int [n]) that is not in [0, num_classes)."""
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise UserError(f"label {labels[wrong[0]]} of image {wrong[0]} is not in 0..{num_classes - 1} "
                        f"({wrong.size} such labels); number the classes from 0 and list every class")


def load_source(config: ml_collections.ConfigDict, split: str) -> Source:
    """Returns the training or test images of a run's dataset.

    Images are decoded once and kept in memory if they fit into `data.cache_gib`. Larger sets, and training images that
    are cropped at random at full resolution, are decoded on every read.

    Args:
      config: of a run; `dataset`, `data` and `augment.crop_area` are read. "mnist5k" has nothing to set.
      split: "train" or "test"; `data.train_split` and `data.test_split` name what that is.

    Raises:
      UserError: on a dataset, split or setting that does not exist, files that are missing, images that cannot be
        read or differ in size, or splits with different classes.
    """
    dataset, data = config.dataset, config.data
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of {dataset}; use {' or '.join(SPLITS)}")
    loading.check_settings(data)
    if dataset == "mnist5k":
        return _mnist5k(data, split)
    kind, _, name = dataset.partition(":")
    if kind not in ("tfds", "folder") or not name:
        raise UserError(f"unknown dataset {dataset!r}; {_hint(dataset)}")
    source = loading.load(dataset, data, split)
    bytes_an_image = math.prod(source.image_shape) + source.has_object_masks * math.prod(source.image_shape[:2])
    fits = len(source) * bytes_an_image <= data.cache_gib * 2**30
    crops = split == "train" and source.crops_on_read and config.augment.crop_area < 1
    return in_memory(source) if fits and not crops else source


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
                       arrays.get("object_mask"))


def _mnist5k(data: ml_collections.ConfigDict, split: str) -> Source:
    """Returns a split of MNIST-5k; raises UserError on settings that it does not have."""
    for key, default in {"train_split": "train", "test_split": "test", "image_size": 0}.items():
        if data[key] != default:
            raise UserError(f"--config.data.{key}={data[key]}: mnist5k has one size and its own splits; leave this "
                            "setting out")
    images, labels = mnist5k.load(split)
    return ArraySource(images, labels, mnist5k.CLASS_NAMES, mnist5k.MEAN, mnist5k.STD)


def _hint(dataset: str) -> str:
    """Returns a hint for an unknown dataset: the name that may be meant, or all names."""
    if dataset in ("tfds:", "folder:"):
        return "expected mnist5k, tfds:NAME or folder:PATH"
    if os.path.isdir(os.path.expanduser(dataset)):
        return f"did you mean folder:{dataset}?"
    from shapjax.data import tfds_source
    if dataset in (known := tfds_source.known_names()):
        return f"did you mean tfds:{dataset}?"
    hint = near_names(dataset, ["mnist5k", *(f"tfds:{name}" for name in known)])
    return hint if hint.startswith("did") else "expected mnist5k, tfds:NAME or folder:PATH"
