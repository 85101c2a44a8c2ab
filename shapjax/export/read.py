"""Reads a trained model: from an export, a directory of plain files, or from a training run.

    model.safetensors   the parameters that inference uses, float32, named by their places: "blocks/mlp_in/kernel"
    config.json         all else: settings, class names, image shape, normalization, step, checksums of all files
    explain.stablehlo   the whole explanation as a program, from pixels to Shapley values
    pair.stablehlo      the values of a coalition and its complement as a program, of a calibrated model
    calibration.json    the law of the errors of its values, of a calibrated model
    README.md           how to load them

`shapjax.export.write` writes an export. The programs or the parameters may be missing. Small models come with the
package.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import chex
import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax import linen as nn

from shapjax import config, models
from shapjax.errors import UserError, few
from shapjax.paths import as_path, unsealed
from shapjax.training import checkpoint
from shapjax.training.digest import digests
from shapjax.training.meta import Meta

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
PROGRAM, PAIR = "explain.stablehlo", "pair.stablehlo"
FORMAT_KEY = "shapjax_export"  # of config.json: the mark of such a directory
FORMAT = 2  # its value; a reader refuses what it does not know
SHIPPED = epath.resource_path("shapjax") / "shipped"  # the models that come with the package
EVALUATION = "eval.json"  # what eval.py has measured, beside the model
MEASURED = ("dataset", "accuracy", "r2")  # of it, what an export keeps in its config.json


def located(model: str | os.PathLike) -> epath.Path:
    """Returns the directory of a model.

    Args:
      model: a directory, or the name of a model that comes with the package; a directory of that name goes first.

    Raises:
      UserError: if there is neither.
    """
    path = as_path(model)
    if path.exists():
        return path
    names = sorted(directory.name for directory in SHIPPED.iterdir() if (directory / CONFIG).exists())
    if os.fspath(model) in names:
        return SHIPPED / model
    raise UserError(f"{model} does not exist; give the --workdir of a training run, an exported model, or a model that "
                    f"comes with shapjax: {', '.join(names)}")


def is_shipped(directory: epath.Path) -> bool:
    """Returns whether a directory is that of a model that comes with the package."""
    return directory.parent == SHIPPED


def read_measured(directory: str | os.PathLike, *, step: int) -> dict[str, Any] | None:
    """Returns what was measured of a model, by the names in `MEASURED`; None if it was not.

    Accuracy and R² are shares of 1; R² is None where there was no ground truth.
    """
    directory = as_path(directory)
    for name in (EVALUATION, CONFIG):
        try:
            found = json.loads((directory / name).read_text("utf-8"))
            if name == CONFIG:
                found = found["measured"]
            elif found["step"] == step:
                error = found["shapley_error"] or {}
                found = {"accuracy": found["accuracy_top1"], "r2": error.get("r2"), "dataset": found["dataset"]}
            return {key: found[key] for key in MEASURED}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or of another step
            continue
    return None


def is_exported(directory: str | os.PathLike) -> bool:
    """Returns whether a directory holds an exported model, good or bad, rather than a training run."""
    directory = as_path(directory)
    return not (directory / "checkpoints").exists() and any(
        (directory / name).exists() for name in (CONFIG, WEIGHTS, PROGRAM))


def is_marked(path: str | os.PathLike) -> bool:
    """Returns whether a path is a directory whose config.json says that it holds an export of ours."""
    try:
        return FORMAT_KEY in json.loads((as_path(path) / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, TypeError):  # none, not JSON, or JSON of another kind
        return False


def build(meta: Meta) -> nn.Module:
    """Returns the module of a model with this meta data, for inference: products in float32, nothing computed again."""
    settings = config.model_settings(meta.config) | {"remat": "none"}
    if settings["dtype"] == "bfloat16_products":
        settings["dtype"] = "float32"
    return models.build(settings, image_shape=meta.image_shape, num_classes=len(meta.class_names))


def read_model(directory: str | os.PathLike, *, step: int | None = None) -> tuple[chex.ArrayTree, Meta, int]:
    """Reads the parameters of a training run or of an exported model, with what belongs to them.

    Args:
      directory: the --workdir of a training run, or an exported model.
      step: of the checkpoint; None = the newest. An export has one step only.

    Returns:
      parameters (host arrays), meta data, step.

    Raises:
      UserError: if there is no usable model.
    """
    reader = read if is_exported(directory) else checkpoint.load_params
    return reader(directory, lambda meta: models.param_shapes(build(meta), image_shape=meta.image_shape), step=step)


def read_meta(directory: str | os.PathLike) -> Meta:
    """Returns the meta data of an exported model; raises UserError if it is damaged or foreign."""
    values = read_config(directory)
    with _describing_a_model(as_path(directory) / CONFIG):
        return Meta.from_dict(values)


def read(directory: str | os.PathLike, init_params: Callable[[Meta], chex.ArrayTree], *, step: int | None = None
         ) -> tuple[chex.ArrayTree, Meta, int]:
    """Reads the parameters of an exported model, as `checkpoint.load_params` does those of a run.

    Args:
      directory: of the exported model.
      init_params: gives the shapes to expect (concrete or abstract) from the meta data.
      step: the required step; None = any.

    Returns:
      parameters (host arrays), meta data, step.

    Raises:
      UserError: if it is of another step, lacks a file, or is damaged or foreign.
    """
    directory = as_path(directory)
    values = read_config(directory)
    path, files = directory / CONFIG, values.get("files")
    if type(values.get("step")) is not int or not isinstance(files, dict):
        raise UserError(f"{path} is damaged: it lacks a step, or the files that belong to it; export the model again")
    if step not in (None, values["step"]):
        raise UserError(f"{directory} has no checkpoint of step {step}: it was exported at step {values['step']}")
    with _describing_a_model(path):
        meta = Meta.from_dict(values)
        shapes = flax.traverse_util.flatten_dict(init_params(meta), sep="/")
    if WEIGHTS not in files:
        raise UserError(f"{directory} was exported without its parameters; export it again with --format all")
    arrays = _read_weights(directory / WEIGHTS, shapes, values)
    return flax.traverse_util.unflatten_dict(arrays, sep="/"), meta, values["step"]


def read_config(directory: str | os.PathLike) -> dict[str, Any]:
    """Returns the config.json of an exported model; raises UserError unless it is one of this format."""
    path = as_path(directory) / CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise UserError(f"{directory} has no {CONFIG} that can be read ({e.strerror or e}), so it is not a model that "
                        "python -m shapjax export has written") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged: it is not JSON ({str(e)[:100]}); export the model again") from e
    if not isinstance(values, dict) or FORMAT_KEY not in values:
        raise UserError(f"{path} is not of an exported model; give the --workdir of a training run, or a directory "
                        "that python -m shapjax export has written")
    found = values[FORMAT_KEY]
    if found != FORMAT:
        which = "an older" if found in range(1, FORMAT) else "another"
        raise UserError(f"{directory} is an export of {which} version of shapjax (format {str(found)[:20]}; this "
                        f"version reads {FORMAT}); use that version, or train and export the model again")
    try:
        return unsealed(values)
    except ValueError as e:
        raise UserError(f"{path} is damaged: {e}; export the model again") from e


@contextlib.contextmanager
def _describing_a_model(path: epath.Path) -> Iterator[None]:
    """Turns errors of the modules about impossible settings into one line."""
    try:
        yield
    except Exception as e:
        kind = "" if isinstance(e, ValueError) else f"{type(e).__name__}: "
        raise UserError(f"{path} does not describe a model: {kind}{' '.join(str(e).split())[:200]}; export the model "
                        "again") from e


def checksum(content: bytes) -> str:
    """Returns the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _read_weights(path: epath.Path, shapes: dict[str, jax.ShapeDtypeStruct], values: dict[str, Any]
                  ) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file, after a check of names, shapes and values by those of `CONFIG`."""
    try:
        content = path.read_bytes()  # whole, as buckets give it
        arrays = safetensors.numpy.load(content)
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror or e}); export the model again") from e
    except (safetensors.SafetensorError, KeyError) as e:  # KeyError: a type that numpy has not
        raise UserError(f"{path} is damaged or no safetensors file ({str(e)[:100]}); export the model again") from e
    _require_same(path, {name: f"{x.dtype} {list(x.shape)}" for name, x in arrays.items()},
                  {name: f"float32 {list(x.shape)}" for name, x in shapes.items()})
    if checksum(content) != values["files"][WEIGHTS]:
        noted, found = values.get("digests", {}), digests(arrays)  # older exports have none
        changed = [name for name in noted if noted[name] != found.get(name)]
        what = (f"at step {values['step']} other values were exported of {few(changed)}" if changed else
                "its checksum is not the one noted there")
        raise UserError(f"{path} is damaged, or of another export than the {CONFIG} beside it ({what}); export the "
                        "model again")
    return arrays


def _require_same(path: epath.Path, stored: dict[str, str], expected: dict[str, str]) -> None:
    """Raises UserError unless the stored tensors are those expected, each of the type and shape expected."""
    for names, what in ((expected.keys() - stored.keys(), "lacks"), (stored.keys() - expected.keys(), "also holds")):
        if names:
            raise UserError(f"{path} is of another model: it {what} {few(sorted(names))}; {CONFIG} beside it describes "
                            f"a model of {len(expected)} tensors")
    for name in stored:
        if stored[name] != expected[name]:
            raise UserError(f"{path} is of another model: {name} is {stored[name]}, expected {expected[name]}")
