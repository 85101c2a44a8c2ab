"""Loads the dataset of a trained model. A checkpoint knows where it lay in training; flags say where it lies now."""

import numpy as np
from absl import flags

from shapjax.data import sources
from shapjax.errors import UserError
from shapjax.model import SelfExplainingModel

flags.disclaim_key_flags()  # --help of a command shows them as its own


def define_flags() -> None:
    """Defines --dataset and --data_dir."""
    flags.DEFINE_string("dataset", None, "The dataset, if its name differs from that in training: folder:PATH, "
                        "tfds:NAME.")
    flags.DEFINE_string("data_dir", None, "Where TFDS datasets lie, if it differs from training.")


def load_test_source(model: SelfExplainingModel) -> sources.Source:
    """Loads the test split of the dataset that a model was trained on, from where the flags say that it lies now.

    Raises:
      UserError: if it cannot be loaded, or has changed since: other classes, or images of another size.
    """
    return _load(model, "test")


def load_held_out(model: SelfExplainingModel, most: int) -> np.ndarray:
    """Reads images that a model was not trained on, at most so many: uint8 [n, H, W, C].

    Raises:
      UserError: if they cannot be read, or the dataset has changed since.
    """
    positions = np.asarray(model.meta.held_out, int)[:most]
    if not len(positions):
        return np.zeros((0, *model.image_shape), np.uint8)
    source = _load(model, "train")
    if len(source) != model.meta.num_images:
        raise UserError(f"{model.config.dataset} has changed since {model.directory} was trained: it had "
                        f"{model.meta.num_images} training images, and has {len(source)}")
    return source.read(positions)["image"]


def _load(model: SelfExplainingModel, split: str) -> sources.Source:
    """Loads a split; images of the training split are decoded when they are read."""
    config = model.config.copy_and_resolve_references()
    flagged = {key: flags.FLAGS[name].value for name, key in (("dataset", "dataset"), ("data_dir", "data.data_dir"))
               if name in flags.FLAGS}  # train.py has neither: its config says where the images lie
    config.update_from_flattened_dict({key: value for key, value in flagged.items() if value is not None})
    if split == "train":
        config.data.cache_gib = 0.0
    source = sources.load_source(config, split)
    for what, then, now in (("classes", tuple(model.class_names), source.class_names),
                            ("image size", tuple(model.image_shape), source.image_shape)):
        if then != now:
            raise UserError(f"{model.config.dataset} has changed since {model.directory} was trained: its {what} was "
                            f"{_brief(then)}, and is {_brief(now)}; restore it, or train again")
    return source


def _brief(values: tuple) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) <= 120 else f"{text[:100]}… ({len(values)})"
