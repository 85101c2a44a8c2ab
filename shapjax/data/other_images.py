"""Images to evaluate a trained model on, of any dataset: classes are matched by name."""

import dataclasses
import os

import numpy as np

from shapjax import paths
from shapjax.data import folder, sources
from shapjax.data.encoded import EncodedSource, Example, Records
from shapjax.data.verification import readable
from shapjax.errors import UserError, few, near_names


def load(dataset: str, split: str, *, data_dir: str, cache_gib: float, class_names: tuple[str, ...],
         image_shape: tuple[int, int, int]) -> sources.Source:
    """Returns images of any size, with classes of a model or without labels; leaves out what cannot be read.

    Args:
      dataset: folder:PATH or tfds:NAME; a folder without directories for classes holds images that are not labeled.
      split: its name or a slice, see `folder.open_records`; of images that are not labeled all are taken.
      data_dir: where TFDS's datasets lie.
      cache_gib: images that fit into so much memory are decoded once.
      class_names: of the model; the label of an image is the place of its class among these.
      image_shape: (H, W, C) of the model.

    Raises:
      UserError: as `sources.load_source`, or if a class is none of the model's.
    """
    kind, _, name = dataset.partition(":")
    if kind not in ("tfds", "folder") or not name:
        raise UserError(f"--dataset={dataset}: expected folder:PATH or tfds:NAME")
    unlabeled = _images_in(str(paths.local(name))) if kind == "folder" else []
    if unlabeled:
        records = Records(count=len(unlabeled), name=unlabeled.__getitem__, class_names=class_names, upright=True,
                          examples=lambda indices: [Example(unlabeled[i], -1) for i in indices],
                          stored_shape=(None, None, 3))
    else:
        records = sources.open_split(dataset, split, data_dir, class_names)
        if kind == "tfds":
            records = _matched(dataset, records, class_names)
    sizes = readable(records, corrupt="skip")
    larger = len(set(sizes.values())) > 1 or max(map(max, sizes.values())) > max(image_shape[:2])
    source = EncodedSource(records, np.array(list(sizes)), image_shape, crops_on_read=larger, labeled=not unlabeled)
    return sources.decoded_if_small(source, cache_gib=cache_gib)


def _matched(dataset: str, records: Records, class_names: tuple[str, ...]) -> Records:
    """Returns the records with the labels of the model's classes of the same names."""
    places = {name: place for place, name in enumerate(class_names)}
    if unknown := [name for name in records.class_names if name not in places]:
        raise UserError(f"{dataset} has classes that the model has not: {few(unknown)}; "
                        f"{near_names(unknown[0], places, otherwise=few(class_names))}")
    labels = [places[name] for name in records.class_names]

    def examples(indices: np.ndarray) -> list[Example]:
        return [example._replace(label=labels[example.label] if 0 <= example.label < len(labels) else -1)
                for example in records.examples(indices)]

    return dataclasses.replace(records, class_names=class_names, examples=examples)


def _images_in(path: str) -> list[str]:
    """Returns the image files in a directory that has none for classes, sorted; [] if it has some."""
    if not os.path.isdir(path) or folder.directories(path):
        return []
    others = {}
    files = folder.image_files(path, ".", others)
    folder.say_left_out(path, others)
    return sorted(file for _, file in files)
