"""A model of our own as weights, a run or an export: a plain classifier, say, that is to explain itself from now on."""

import pathlib

import jax
from flax import linen as nn

from shapjax import model as inference
from shapjax.errors import UserError
from shapjax.export import read as exported
from shapjax.pretrained.architecture import HEADS, RUN_SETTINGS, Architecture, Converted
from shapjax.pretrained.positions import interpolate
from shapjax.training import checkpoint


def is_run(path: pathlib.Path) -> bool:
    """Whether a path is the workdir of a run, or an exported model."""
    return (path / "checkpoints").is_dir() or exported.is_marked(path)


def describe(path: pathlib.Path) -> Architecture:
    """The model of a run's newest checkpoint, or of an export; UserError if there is none. Does not start JAX."""
    meta = exported.read_meta(path) if exported.is_exported(path) else checkpoint.newest_meta(path)
    if meta is None:
        raise UserError(f"{path} holds no complete checkpoint to take weights from; train it first")
    settings = {key: value for key, value in meta.config.model.items() if key not in RUN_SETTINGS}
    if not settings["allocation_depth"]:  # such a head may be added
        del settings["allocation_depth"], settings["allocation_reach"]
    if not meta.config.num_pairs:  # it knows of no coalitions
        del settings["painting"], settings["layer_masking"]
    return Architecture("run of shapjax", settings, meta.image_shape[:2], len(meta.class_names), meta.mean, meta.std,
                        meta.image_shape[2])


def convert(path: pathlib.Path, module: nn.Module) -> Converted:
    """The parameters that inference of the run's newest checkpoint would use; positions as the module's grid wants."""
    params, meta, _ = inference.read(path)
    source, notes = inference.build(meta), ()
    params = {key: dict(value) if key == "allocation" else value for key, value in params.items()}
    placed = [tree for tree in (params, params.get("allocation", {})) if "positions" in tree]
    if placed and source.grid != module.grid:
        for tree in placed:
            tree["positions"] = interpolate(tree["positions"], source.grid, module.grid)
        notes = (f"positions interpolated from {source.grid[0]}x{source.grid[1]} to "
                 f"{module.grid[0]}x{module.grid[1]}",)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names, heads = (frozenset(map(jax.tree_util.keystr, some))
                    for some in (paths, [path for path in paths if path[0].key in HEADS]))
    return Converted(params, names, frozenset(), notes, head=heads)
