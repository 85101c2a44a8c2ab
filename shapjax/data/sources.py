"""Datasets with random access, under one interface and by name."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Protocol

import numpy as np

from shapjax.data import mnist5k
from shapjax.errors import UserError

SPLITS = ("train", "test")


class Source(Protocol):
    """A labelled image dataset of which any batch can be read by position.

    Attributes:
      class_names: the K classes; label k is class_names[k].
      image_shape: (H, W, C) of every image.
      mean, std: per channel, of the training pixels in [0, 1] units.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Positions int [b] in [0, len) to {"image": uint8 [b,H,W,C], "label": int32 [b]}; fresh arrays."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A Source held in memory: images uint8 [n,H,W,C], labels int32 [n] (checked against class_names)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        check_labels(self.labels, len(self.class_names))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": self.images[indices], "label": self.labels[indices]}


def check_labels(labels: np.ndarray, num_classes: int) -> None:
    """Raises UserError naming the first of `labels` (int [n]) that is not in [0, num_classes)."""
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise UserError(f"label {labels[wrong[0]]} of image {wrong[0]} is not in 0..{num_classes - 1} "
                        f"({wrong.size} such labels); number the classes from 0 and list every class")


def load_source(dataset: str, split: str) -> Source:
    """The Source of a dataset's "train" or "test" split.

    Raises:
      UserError: an unknown dataset or split, or one whose files are missing.
    """
    if dataset not in _LOADERS:
        near = difflib.get_close_matches(str(dataset), _LOADERS)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_LOADERS)}"
        raise UserError(f"unknown dataset {dataset!r}; {hint}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} of {dataset}; use {' or '.join(SPLITS)}")
    return _LOADERS[dataset](split)


def _mnist5k(split: str) -> Source:
    images, labels = mnist5k.load(split)
    return ArraySource(images, labels, mnist5k.CLASS_NAMES, mnist5k.MEAN, mnist5k.STD)


_LOADERS: dict[str, Callable[[str], Source]] = {"mnist5k": _mnist5k}
