"""A model of our own as weights, from a run or an export: a baseline model, for instance, that is trained further."""

import os

import jax
from flax import linen as nn

from shapjax.config import model_settings
from shapjax.errors import UserError
from shapjax.export import read
from shapjax.paths import as_path
from shapjax.pretrained.architecture import HEADS, RUN_SETTINGS, Architecture, Converted
from shapjax.pretrained.positions import interpolate
from shapjax.training import checkpoint


def is_run(path: str | os.PathLike) -> bool:
    """Returns whether a path is the workdir of a run, or an exported model."""
    return (as_path(path) / "checkpoints").is_dir() or read.is_marked(path)


def describe(path: str | os.PathLike) -> Architecture:
    """Returns the architecture of a run's newest checkpoint, or of an export. Does not start JAX.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    meta = read.read_meta(path) if read.is_exported(path) else checkpoint.newest_meta(path)
    if meta is None:
        raise UserError(f"{path} holds no complete checkpoint to take weights from; train it first")
    settings = {key: value for key, value in model_settings(meta.config).items() if key not in RUN_SETTINGS}
    if not settings["explainer_depth"]:  # an explainer head may be added
        del settings["explainer_depth"]
    return Architecture("run of shapjax", settings, meta.image_shape[:2], len(meta.class_names), meta.mean, meta.std,
                        meta.image_shape[2])


def convert(path: str | os.PathLike, module: nn.Module) -> Converted:
    """Returns the newest checkpoint's parameters for inference; positions are fitted to the module's grid."""
    params, meta, _ = read.read_model(path)
    old, notes = read.build(meta).grid, ()
    placed = [tree for tree in (params, params.get("explainer", {})) if "positions" in tree]
    if placed and old != module.grid:
        for tree in placed:
            tree["positions"] = interpolate(tree["positions"], old, module.grid)
        notes = (f"positions interpolated from {old[0]}x{old[1]} to {module.grid[0]}x{module.grid[1]}",)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names, heads = (frozenset(map(jax.tree_util.keystr, some))
                    for some in (paths, [path for path in paths if path[0].key in HEADS]))
    return Converted(params, names, frozenset(), notes, head=heads)
