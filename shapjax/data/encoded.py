"""A source whose images are files or records that are decoded when they are read."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from shapjax.data import boxes, images
from shapjax.errors import UserError

CENTRAL_SHARE = 0.875  # of the shorter side is seen in evaluation, where images are resized: 224/256


class Example(NamedTuple):
    """One labeled image as it is stored; its files are paths or open files."""

    image: str | BinaryIO
    label: int
    object_mask: str | BinaryIO | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The stored examples of a split. Threads may share it.

    Attributes:
      count: of the examples.
      name: position -> a name of the example for messages: a path, or a number in a split.
      examples: positions -> the examples.
      class_names: the K classes.
      stored_shape: (H, W, C) of every image; H and W are None where images differ in size.
      upright: EXIF orientation is applied.
      mask_background: the value of the background in segmentation masks; None: there are no masks.
    """

    count: int
    name: Callable[[int], str]
    examples: Callable[[Sequence[int] | np.ndarray], list[Example]]
    class_names: tuple[str, ...]
    stored_shape: tuple[int | None, int | None, int]
    upright: bool
    mask_background: int | None = None

    def __len__(self) -> int:
        return self.count


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSource:
    """A source that decodes on every read. Threads may share it.

    Attributes:
      records: the stored examples.
      kept: int [n], the positions in `records` of the source's images.
      image_shape: (H, W, C) of the images that `read` returns.
      crops_on_read: stored images are larger, or differ in size; `read` cuts random-resized crops out of them, and
        without crops the central 87.5 %. Smaller ones are seen whole.
      mean, std: per channel, of the training pixels in [0, 1] units.
      labeled: the classes of the images are known; else their labels are -1.
      has_object_masks: batches include object masks.
    """

    records: Records
    kept: np.ndarray
    image_shape: tuple[int, int, int]
    crops_on_read: bool
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labeled: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.records.class_names

    @property
    def has_object_masks(self) -> bool:
        return self.records.mask_background is not None

    def __len__(self) -> int:
        return len(self.kept)

    def read(self, indices: np.ndarray, crops: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Reads a batch into fresh arrays; JPEG files are decoded at a reduced size where that is enough.

        Args:
          indices: int [b], positions in [0, len).
          crops: float [b, 4]: the part of each image that is resized to (H, W), see
            `boxes.crop_box`; None: the part that evaluation sees.

        Returns:
          {"image": uint8 [b,H,W,C], "label": int32 [b]}, and if `has_object_masks` "object_mask": bool [b,H,W], True on
          the object.

        Raises:
          UserError: on an image that cannot be read, or a label that is no class; names it.
        """
        positions = self.kept[np.asarray(indices)]
        shape = (len(positions), *self.image_shape)
        batch = {"image": np.empty(shape, np.uint8), "label": np.empty(len(positions), np.int32)}
        if self.has_object_masks:
            batch["object_mask"] = np.empty(shape[:3], bool)
        share = CENTRAL_SHARE if self.crops_on_read else 1.0
        box_of = functools.partial(boxes.central_box, shape=self.image_shape[:2], share=share)
        for i, (position, example) in enumerate(zip(positions, self.records.examples(positions), strict=True)):
            if crops is not None:
                box_of = functools.partial(boxes.crop_box, crop=crops[i])
            if self.labeled and not 0 <= example.label < len(self.class_names):
                raise UserError(f"{self.records.name(position)} has the label {example.label}, which is no class; "
                                "choose a split that has labels")
            try:
                batch["image"][i] = images.decode(example.image, box_of, image_shape=self.image_shape,
                                                  upright=self.records.upright, fast=crops is not None)
                if self.has_object_masks:
                    batch["object_mask"][i] = images.decode_mask(
                        example.object_mask, box_of, shape=self.image_shape[:2],
                        background=self.records.mask_background)
            except Exception as error:  # on damaged files decoders raise nearly anything
                raise images.unreadable(self.records.name(position), error) from error
            batch["label"][i] = example.label
        return batch

    def read_labels(self, indices: np.ndarray) -> np.ndarray:
        """Reads labels only, and decodes nothing: int [b] -> int32 [b]."""
        return np.array([example.label for example in self.records.examples(self.kept[np.asarray(indices)])], np.int32)
