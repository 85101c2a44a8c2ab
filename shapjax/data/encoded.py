"""A Source whose images are files (or records) that are decoded when they are read."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from shapjax.data import boxes, images
from shapjax.errors import UserError

CENTRAL_SHARE = 0.875  # of the shorter side is seen in evaluation, where images are resized: 224/256


class Example(NamedTuple):
    """One labeled image as it is stored; files are paths or open."""

    image: str | BinaryIO
    label: int
    mask: BinaryIO | None = None


class Records(Protocol):
    """The stored examples of a split. Threads may share it; pickled, it holds no open file.

    Attributes:
      class_names: the K classes.
      stored_shape: (H, W, C) of every image; H and W are None where images have sizes of their own.
      upright: images are shown as their EXIF orientation says.
      mask_background: the class number in masks that is not the object; None: there are no masks.
    """

    class_names: tuple[str, ...]
    stored_shape: tuple[int | None, int | None, int]
    upright: bool
    mask_background: int | None

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a person knows the example by: a path, or a number in a split."""
        ...

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        """The examples at these positions."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSource:
    """A Source that decodes on every read. Threads may share it; it can be pickled.

    Attributes:
      records: what is read.
      kept: int [n], the positions in `records` of the images that are there.
      image_shape: (H, W, C) of what `read` gives.
      crops_on_read: stored images are not of this size; `read` takes random-resized crops of them, and without crops
        gives the central 87.5 %.
      mean, std: per channel, of the training pixels in [0, 1] units.
    """

    records: Records
    kept: np.ndarray
    image_shape: tuple[int, int, int]
    crops_on_read: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.records.class_names

    @property
    def has_masks(self) -> bool:
        return self.records.mask_background is not None

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, indices: np.ndarray, crops: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See `sources.Source.read`. JPEG files are decoded at a reduced size where that is enough.

        Raises:
          UserError: on an image that cannot be read, or a label that is no class; names it.
        """
        if crops is not None and not self.crops_on_read:
            raise ValueError("crops are only taken of images that have sizes of their own (crops_on_read)")
        positions = self.kept[np.asarray(indices)]
        shape = (len(positions), *self.image_shape)
        batch = {"image": np.empty(shape, np.uint8), "label": np.empty(len(positions), np.int32)}
        if self.has_masks:
            batch["mask"] = np.empty(shape[:3], bool)
        for i, (position, example) in enumerate(zip(positions, self.records.examples(positions), strict=True)):
            box_of = self._box_of(None if crops is None else crops[i])
            if not 0 <= example.label < len(self.class_names):
                raise UserError(f"{self.records.name(position)} has the label {example.label}, which is no class; "
                                "choose a split that has labels")
            try:
                batch["image"][i] = images.decode(example.image, box_of, image_shape=self.image_shape,
                                                  upright=self.records.upright, fast=crops is not None)
                if self.has_masks:
                    batch["mask"][i] = images.decode_mask(example.mask, box_of, shape=self.image_shape[:2],
                                                          background=self.records.mask_background)
            except Exception as error:  # on damaged files decoders raise nearly anything
                raise images.unreadable(self.records.name(position), error) from error
            batch["label"][i] = example.label
        return batch

    def _box_of(self, crop: np.ndarray | None) -> Callable[[int, int], boxes.Box]:
        if crop is not None:
            return functools.partial(boxes.crop_box, crop=crop)
        return functools.partial(boxes.central_box, shape=self.image_shape[:2],
                                 share=CENTRAL_SHARE if self.crops_on_read else 1.0)
