"""A model of our own as weights, from a run or an export: a baseline model, for instance, that is trained further."""

import os

import numpy as np
from flax.traverse_util import flatten_dict

from shapjax.config import model_settings
from shapjax.errors import UserError
from shapjax.export import read
from shapjax.paths import as_path
from shapjax.pretrained.architecture import RUN_SETTINGS, Architecture, Plan
from shapjax.pretrained.recipes import Recipe
from shapjax.training.meta import newest_meta


def is_run(path: str | os.PathLike) -> bool:
    """Returns whether a path is the workdir of a run, or an exported model."""
    return (as_path(path) / "checkpoints").is_dir() or read.is_marked(path)


def describe(path: str | os.PathLike) -> Architecture:
    """Returns the architecture of a run's newest checkpoint, or of an export. Does not start JAX.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    meta = read.read_meta(path) if read.is_exported(path) else newest_meta(path)
    if meta is None:
        raise UserError(f"{path} holds no complete checkpoint to take weights from; train it first")
    settings = {key: value for key, value in model_settings(meta.config).items() if key not in RUN_SETTINGS}
    if not settings["explainer_depth"]:  # an explainer head may be added
        del settings["explainer_depth"]
    return Architecture("run of shapjax", settings, meta.image_shape[:2], len(meta.class_names), meta.mean, meta.std,
                        meta.image_shape[2], meta.class_names)


def read_plan(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], Plan]:
    """Returns the newest checkpoint's parameters for inference, by path, and the plan to take them as they are."""
    tensors = flatten_dict(read.read_model(path)[0], sep="/")
    return tensors, Plan(describe(path), {name: Recipe((name,)) for name in tensors}, blocks="")
