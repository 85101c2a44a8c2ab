"""Loads the images to evaluate a trained model on: those of its own dataset, or others that flags name."""

import ml_collections
import numpy as np
from absl import flags

from shapjax.data import other_images, sources
from shapjax.errors import UserError
from shapjax.model import SelfExplainingModel

flags.disclaim_key_flags()  # --help of a command shows them as its own


def define_flags() -> None:
    """Defines --dataset, --split and --data_dir."""
    flags.DEFINE_string("dataset", None, "Images, if not those of the dataset in training: tfds:NAME, or folder:PATH "
                        "with a directory for each class, some of the model's by their names, or with images that have "
                        "no labels. Images of another size are cut and resized.")
    flags.DEFINE_string("split", None, "Split of the dataset, or a slice of it, such as test[:1000]; of a folder that "
                        "has no splits, test (a fifth of it), train or all. If not given, test.")
    flags.DEFINE_string("data_dir", None, "Where TFDS datasets lie, if it differs from training.")


def name_and_split(model: SelfExplainingModel) -> tuple[str, str]:
    """Returns the dataset and the split that a model is evaluated on: its own, unless the flags name others."""
    f, own = flags.FLAGS, model.config
    name = f.dataset or own.dataset
    same_kind = name.partition(":")[0] == own.dataset.partition(":")[0]
    return name, f.split or (own.data.test_split if same_kind else "test")


def load_test_source(model: SelfExplainingModel) -> sources.Source:
    """Loads the images to evaluate a model on.

    Raises:
      UserError: if they cannot be loaded, have classes that are none of the model's, or the model's own dataset has
        changed since: other classes, or images of another size.
    """
    f, (name, split), config = flags.FLAGS, name_and_split(model), _moved(model)
    if f.dataset is None and f.split is None:
        return _load(model, config, "test")
    if name == "mnist5k":
        return _load(model, config, split)
    return other_images.load(name, split, data_dir=config.data.data_dir, cache_gib=config.data.cache_gib,
                             class_names=tuple(model.class_names), image_shape=tuple(model.image_shape))


def usual_count(source: sources.Source, name: str, split: str, *, usual: int) -> int:
    """Returns how many images to explain unless flags say: the usual number, or all if there are fewer, which it says.

    Args:
      source: the images.
      name, split: of `name_and_split`.
      usual: the number.
    """
    if len(source) < usual:
        print(f"{name}, split {split}, has {len(source)} images: all are explained, instead of {usual}")
    return min(usual, len(source))


def load_held_out(model: SelfExplainingModel, most: int) -> np.ndarray:
    """Reads images that a model was not trained on, at most so many: uint8 [n, H, W, C].

    They are looked for where the flags say that the dataset lies, then where it lay in training.

    Raises:
      UserError: if they cannot be read, or the dataset has changed since.
    """
    positions = np.asarray(model.meta.held_out, int)[:most]
    if not len(positions):
        return np.zeros((0, *model.image_shape), np.uint8)
    moved = _moved(model)
    try:
        source = _load(model, moved, "train")
    except UserError as error:
        if moved == model.config:
            raise
        try:
            source = _load(model, model.config, "train")
        except UserError:
            raise error from None
    return source.read(positions)["image"]


def _moved(model: SelfExplainingModel) -> ml_collections.ConfigDict:
    """Returns the config of a model's training run with the places that the flags name."""
    config = model.config.copy_and_resolve_references()
    flagged = {key: flags.FLAGS[name].value for name, key in (("dataset", "dataset"), ("data_dir", "data.data_dir"))
               if name in flags.FLAGS}  # train.py has neither: its config says where the images lie
    config.update_from_flattened_dict({key: value for key, value in flagged.items() if value is not None})
    return config


def _load(model: SelfExplainingModel, config: ml_collections.ConfigDict, split: str) -> sources.Source:
    """Loads a split of the dataset of the training; images of the training split are decoded when they are read."""
    if split == "train":
        config = config.copy_and_resolve_references()
        config.data.cache_gib = 0.0
    source = sources.load_source(config, split)
    whats = [("classes", tuple(model.class_names), source.class_names),
             ("image size", tuple(model.image_shape), source.image_shape)]
    if split == "train":
        whats.append(("number of training images", (model.meta.num_images,), (len(source),)))
    for what, then, now in whats:
        if then != now:
            raise UserError(f"{config.dataset} has changed since {model.directory} was trained: its {what} was "
                            f"{_brief(then)}, and is {_brief(now)}; restore it, or train again")
    return source


def _brief(values: tuple) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) <= 120 else f"{text[:100]}… ({len(values)})"
