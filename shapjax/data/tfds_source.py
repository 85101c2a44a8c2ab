"""Datasets that TensorFlow Datasets has prepared, read without TensorFlow."""

import io
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from shapjax.data.encoded import Example, Records
from shapjax.errors import UserError, near_names
from shapjax.paths import as_path, in_bucket, local

MASK = "segmentation_mask"
# The class of the background in segmentation masks, where it is not 0. Pets: 1 is the animal, 2 the background, 3 the
# border between the two, which is mostly fur and counts as the animal, as in nearly all work with two classes.
_BACKGROUND = {"oxford_iiit_pet": 2}


def open_records(name: str, split: str, data_dir: str) -> Records:
    """Returns the records of a prepared dataset.

    Args:
      name: TFDS's, NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      split: in TFDS's syntax, such as "train[:90%]".
      data_dir: where prepared datasets lie; a leading ~ is the home directory; empty: TFDS's default. A dataset in a
        bucket is copied to a local disk (`paths.local`).

    Raises:
      UserError: on a dataset or a split that is not there, one that is not prepared or not in a format with random
        access, or one without labeled 8-bit or 16-bit images.
    """
    title, data_dir = f"tfds:{name}", os.fspath(as_path(data_dir)) if data_dir else ""
    if (builder := _builder(name, data_dir)) is None:
        raise not_prepared(name, data_dir)
    _require_split(title, split, builder.info.splits)
    image, label = _image_and_label(title, builder.info)
    features = builder.info.features
    masks = MASK in features
    as_stored = {key: tfds.decode.SkipDecoding() for key in ([image, MASK] if masks else [image])}

    def examples(indices: Sequence[int] | np.ndarray) -> list[Example]:
        return [Example(io.BytesIO(stored[image]), int(stored[label]), io.BytesIO(stored[MASK]) if masks else None)
                for stored in data.__getitems__([int(i) for i in indices])]

    if not builder.info.available_file_formats() & tfds.core.FileFormat.with_random_access():
        raise UserError(f"{title} is prepared as {builder.info.file_format.value}, which has no random access; "
                        f"{_how_to_prepare(name, 'ANOTHER_DIRECTORY')}")
    if in_bucket(builder.data_dir):  # where array_record takes a request, to the end of a file, for each image
        builder = tfds.builder_from_directory(local(builder.data_dir))
    try:
        data = builder.as_data_source(split, decoders=as_stored)
        examples([0])
    except Exception as error:  # array_record and protobuf may raise anything
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{title} cannot be read from {builder.data_dir} ({reason}); remove that directory and "
                        f"{_how_to_prepare(name, data_dir)}") from error
    return Records(
        count=len(data), name=lambda index: f"image {index} of {title}, {split}", examples=examples,
        class_names=tuple(features[label].names), stored_shape=tuple(features[image].shape),
        upright=False,  # as TFDS decodes images, without a look at EXIF
        mask_background=_BACKGROUND.get(builder.name, 0) if masks else None)


def is_on_disk(name: str, data_dir: str) -> bool:
    """Returns whether a dataset is prepared, on a local disk and not in a bucket."""
    builder = _builder(name, data_dir)
    return builder is not None and not in_bucket(builder.data_dir)


def _builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder | None:
    try:
        return tfds.core.read_only_builder.builder_from_files(
            name, data_dir=os.fspath(as_path(data_dir)) if data_dir else None)
    except (tfds.core.DatasetNotFoundError, ValueError):
        return None


def described(name: str, split: str, data_dir: str) -> Records:
    """Returns what is known of a dataset without its files: classes, the images' shape, and their number if prepared.

    There are no examples. Of a dataset that is not prepared, what TFDS knows is returned, with 0 images.

    Raises:
      UserError: on a dataset that TFDS does not know, a split that is not there, or one without labeled images.
    """
    title, count = f"tfds:{name}", 0
    if (builder := _builder(name, data_dir)) is not None:
        _require_split(title, split, builder.info.splits)
        count = builder.info.splits[split].num_examples
    else:
        try:
            builder = tfds.builder(name, try_gcs=False)
        except tfds.core.DatasetNotFoundError:
            raise not_prepared(name, "") from None
    image, label = (builder.info.features[key] for key in _image_and_label(title, builder.info))
    return Records(count=count, name=str, examples=lambda indices: [], class_names=tuple(label.names),
                   stored_shape=tuple(image.shape), upright=False)


def not_prepared(name: str, data_dir: str) -> UserError:
    """Returns the error for a dataset that is not on disk: it is unknown to TFDS, or has to be prepared."""
    base, known, directory = re.split("[/:]", name)[0], known_names(), data_dir or tfds.core.constants.DATA_DIR
    if base in known:
        return UserError(f"tfds:{name} is not prepared in {directory}; {_how_to_prepare(name, data_dir)}")
    hint = near_names(base.lower(), known, otherwise="see https://www.tensorflow.org/datasets/catalog")
    return UserError(f"tfds:{name} is neither a dataset that TFDS knows nor prepared in {directory}; {hint}")


def known_names() -> list[str]:
    """Returns the datasets that the installed TFDS can prepare."""
    return tfds.list_builders(with_community_datasets=False)


def _how_to_prepare(name: str, data_dir: str) -> str:
    """Returns what to do about a dataset that is not prepared."""
    if in_bucket(data_dir):
        return f"run `python -m shapjax prepare {name} --data_dir DIRECTORY`, copy what is in DIRECTORY to {data_dir}"
    return f"run `python -m shapjax prepare {name}{f' --data_dir {data_dir}' if data_dir else ''}`"


def _require_split(title: str, split: str, splits: tfds.core.splits.SplitDict) -> None:
    """Raises UserError unless a split, or every part of one, exists and has images."""
    try:
        count = splits[split].num_examples
    except ValueError as error:
        reason = str(error).split(" See ")[0].rstrip(".")
        raise UserError(f"{title}: {reason}; expected a split or a slice such as {list(splits)[0]}[:90%]") from None
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
