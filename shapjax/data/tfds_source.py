"""Datasets that TensorFlow Datasets has prepared, read without TensorFlow."""

import dataclasses
import functools
import io
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from shapjax.data.encoded import Example
from shapjax.errors import UserError, near_names
from shapjax.paths import as_path

MASK = "segmentation_mask"
# The class of the background in segmentation masks, where it is not 0. Pets: 1 is the animal, 2 the background, 3 the
# border between the two, which is mostly fur and counts as the animal, as in nearly all work with two classes.
_BACKGROUND = {"oxford_iiit_pet": 2}


@dataclasses.dataclass(eq=False)
class TfdsRecords:
    """`encoded.Records` of a TFDS split. Each process opens the files itself, at its first read.

    Attributes:
      title, split: as the user names them, for messages.
      directory: of the prepared version.
      image, label: names of the features.
    """

    title: str
    split: str
    directory: str
    image: str
    label: str
    class_names: tuple[str, ...]
    stored_shape: tuple[int | None, int | None, int]
    mask_background: int | None
    upright: bool = False  # as TFDS decodes images, without a look at EXIF

    @functools.cached_property
    def _stored(self):
        as_stored = {self.image: tfds.decode.SkipDecoding()}
        if self.mask_background is not None:
            as_stored[MASK] = tfds.decode.SkipDecoding()
        return tfds.builder_from_directory(self.directory).as_data_source(self.split, decoders=as_stored)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_stored"}

    def __len__(self) -> int:
        return len(self._stored)

    def name(self, index: int) -> str:
        return f"image {index} of {self.title}, {self.split}"

    def examples(self, indices: Sequence[int] | np.ndarray) -> list[Example]:
        return [Example(io.BytesIO(stored[self.image]), int(stored[self.label]),
                        None if self.mask_background is None else io.BytesIO(stored[MASK]))
                for stored in self._stored.__getitems__([int(i) for i in indices])]


def open_records(name: str, split: str, data_dir: str) -> TfdsRecords:
    """Returns the records of a prepared dataset.

    Args:
      name: TFDS's, NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      split: in TFDS's syntax, such as "train[:90%]".
      data_dir: where prepared datasets lie; a leading ~ is the home directory; empty: TFDS's default.

    Raises:
      UserError: on a dataset or a split that is not there, one that is not prepared or not in a format with random
        access, or one without labeled 8-bit or 16-bit images.
    """
    title, data_dir = f"tfds:{name}", os.fspath(as_path(data_dir)) if data_dir else ""
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir or None)
    except (tfds.core.DatasetNotFoundError, ValueError):
        raise not_prepared(name, data_dir) from None
    _require_split(title, split, builder.info.splits)
    image, label = _image_and_label(title, builder.info)
    features = builder.info.features
    records = TfdsRecords(
        title=title, split=split, directory=str(builder.data_dir), image=image, label=label,
        class_names=tuple(features[label].names), stored_shape=tuple(features[image].shape),
        mask_background=_BACKGROUND.get(builder.name, 0) if MASK in features else None)
    try:
        records.examples([0])
    except NotImplementedError:
        raise UserError(f"{title} is prepared as {builder.info.file_format.value}, which has no random access; "
                        f"{_how_to_prepare(name, 'ANOTHER_DIRECTORY')}") from None
    except Exception as error:  # array_record and protobuf may raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{title} cannot be read from {builder.data_dir} ({reason}); remove that directory and "
                        f"{_how_to_prepare(name, data_dir)}") from error
    return records


def not_prepared(name: str, data_dir: str) -> UserError:
    """Returns the error for a dataset that is not on disk: it is unknown to TFDS, or has to be prepared."""
    known = known_names()
    base = re.split("[/:]", name)[0]
    if base not in known:
        return UserError(f"tfds:{name} is neither a dataset that TFDS knows nor prepared in "
                         f"{data_dir or tfds.core.constants.DATA_DIR}; {_near(base, known)}")
    return UserError(f"tfds:{name} is not prepared in {data_dir or tfds.core.constants.DATA_DIR}; "
                     f"{_how_to_prepare(name, data_dir)}")


def known_names() -> list[str]:
    """Returns the datasets that the installed TFDS can prepare."""
    return tfds.list_builders(with_community_datasets=False)


def _near(name: str, known: Sequence[str]) -> str:
    """Returns which names are near, or where all are listed."""
    hint = near_names(name.lower(), known)
    return hint if hint.startswith("did you mean") else "see https://www.tensorflow.org/datasets/catalog"


def _how_to_prepare(name: str, data_dir: str) -> str:
    """Returns what to do about a dataset that is not prepared."""
    return f"run `python -m shapjax prepare {name}{f' --data_dir {data_dir}' if data_dir else ''}`"


def _require_split(title: str, split: str, splits: tfds.core.splits.SplitDict) -> None:
    """Raises UserError unless a split, or every part of one, exists and has images."""
    for part in split.split("+"):
        base = part.strip().partition("[")[0]
        if base not in [*splits, "all"]:
            raise UserError(f"{title} has no split {base!r}; there are {', '.join(splits)}, and slices of them such as "
                            f"{list(splits)[0]}[:90%]")
    try:
        count = splits[split].num_examples
    except ValueError as error:
        reason = str(error).split(" See ")[0].rstrip(".")
        raise UserError(f"{title}: {reason}; expected a slice such as {list(splits)[0]}[:90%]") from None
    if count <= 0:
        raise UserError(f"{title}: the split {split!r} has no images; give a larger slice")


def _image_and_label(title: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    """Returns the names of the features that are an image and its class.

    They are the dataset's supervised pair, or else "image" and "label"; raises UserError if neither is there.
    """
    features = info.features
    for pair in (info.supervised_keys, ("image", "label")):
        if pair and len(pair) == 2 and all(isinstance(key, str) and key in features for key in pair):
            image, label = (features[key] for key in pair)
            if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
                if image.np_dtype == np.float32 or len(image.shape) != 3:
                    raise UserError(f"{title} has images of {np.dtype(image.np_dtype)} {image.shape}; expected whole "
                                    "numbers, height x width x channels")
                return pair
    has = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in sorted(features.items()))
    raise UserError(f"{title} is not a dataset of images with one label each: it has {has}; expected an Image and a "
                    "ClassLabel, named image and label")
