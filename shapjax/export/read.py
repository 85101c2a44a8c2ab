"""An exported model: a directory of plain files, for other programs and for `shapjax.load`.

    model.safetensors   the parameters that inference uses, float32, named by their places: "blocks/mlp_in/kernel"
    config.json         all else: settings, class names, image shape, normalization, step, checksums of the others
    explain.stablehlo   the whole explanation as a program, from pixels to Shapley values
    README.md           how to load them

`shapjax.export` writes it; here it is read.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import chex
import flax.traverse_util
import jax
import numpy as np
import safetensors

from shapjax.errors import UserError, few
from shapjax.training.checkpoint import Meta

WEIGHTS, CONFIG, PROGRAM, README = "model.safetensors", "config.json", "explain.stablehlo", "README.md"
FORMAT_KEY = "shapjax_export"  # of config.json: the mark of such a directory
FORMAT = 1  # its value; a reader refuses what it does not know


def is_exported(directory: str | pathlib.Path) -> bool:
    """Whether a directory holds an exported model, good or bad, rather than a training run."""
    directory = pathlib.Path(directory)
    return not (directory / "checkpoints").exists() and any(
        (directory / name).exists() for name in (CONFIG, WEIGHTS, PROGRAM))


def is_marked(path: pathlib.Path) -> bool:
    """Whether a path is a directory whose config.json says that it holds an exported model of ours."""
    try:
        return FORMAT_KEY in json.loads((path / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, TypeError):  # none, not JSON, or JSON of another kind
        return False


def read_meta(directory: pathlib.Path) -> Meta:
    """The meta data of an exported model; raises UserError if it is damaged or foreign."""
    values = read_config(directory)
    with _describing_a_model(directory / CONFIG):
        return Meta.from_dict(values)


def read(directory: str | pathlib.Path, init_params: Callable[[Meta], chex.ArrayTree], *, step: int | None = None
         ) -> tuple[chex.ArrayTree, Meta, int]:
    """The parameters of an exported model, with what belongs to them; as `checkpoint.load_params` of a run.

    Args:
      directory: of the exported model.
      init_params: gives the shapes to expect (concrete or abstract) from the meta data.
      step: that it has to be of; None = any.

    Returns:
      parameters (host arrays), meta data, step.

    Raises:
      UserError: if it is of another step, lacks a file, or is damaged or foreign.
    """
    directory = pathlib.Path(directory)
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
    arrays = _read_weights(directory / WEIGHTS, shapes, files[WEIGHTS])
    return flax.traverse_util.unflatten_dict(arrays, sep="/"), meta, values["step"]


def read_config(directory: pathlib.Path) -> dict[str, Any]:
    """The config.json of an exported model; raises UserError unless it is one of this format."""
    path = directory / CONFIG
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as e:
        raise UserError(f"{directory} has no {CONFIG} that can be read ({e.strerror}), so it is not a model that "
                        "python -m shapjax.export has written") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged: it is not JSON ({str(e)[:100]}); export the model again") from e
    if not isinstance(values, dict) or FORMAT_KEY not in values:
        raise UserError(f"{path} is not of an exported model; give the --workdir of a training run, or a directory "
                        "that python -m shapjax.export has written")
    if values[FORMAT_KEY] != FORMAT:
        raise UserError(f"{directory} is of format {str(values[FORMAT_KEY])[:20]}, this version of shapjax reads "
                        f"{FORMAT}; export the model again, or use shapjax {str(values.get('shapjax'))[:20]}")
    return values


@contextlib.contextmanager
def _describing_a_model(path: pathlib.Path) -> Iterator[None]:
    """Whatever the modules make of settings that no run had becomes one line."""
    try:
        yield
    except Exception as e:
        kind = "" if isinstance(e, UserError) else f"{type(e).__name__}: "
        raise UserError(f"{path} does not describe a model: {kind}{' '.join(str(e).split())[:200]}; export the model "
                        "again") from e


def checksum(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_weights(path: pathlib.Path, shapes: dict[str, jax.ShapeDtypeStruct], expected: str) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, once their names and shapes and the checksum have been found right."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            stored = {name: f"{x.get_dtype()} {x.get_shape()}" for name, x in slices.items()}
            _require_same(path, stored, {name: f"F32 {list(x.shape)}" for name, x in shapes.items()})
            if checksum(path) != expected:
                raise UserError(f"{path} is damaged, or of another export than the {CONFIG} beside it (its checksum is "
                                "not the one noted there); export the model again")
            return {name: file.get_tensor(name) for name in shapes}
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e}); export the model again") from e
    except safetensors.SafetensorError as e:
        raise UserError(f"{path} is damaged or no safetensors file ({str(e)[:100]}); export the model again") from e


def _require_same(path: pathlib.Path, stored: dict[str, str], expected: dict[str, str]) -> None:
    """UserError unless there are the tensors expected, each of the type and shape expected."""
    for names, what in ((expected.keys() - stored.keys(), "lacks"), (stored.keys() - expected.keys(), "also holds")):
        if names:
            raise UserError(f"{path} is of another model: it {what} {few(sorted(names))}; {CONFIG} beside it describes "
                            f"a model of {len(expected)} tensors")
    for name in stored:
        if stored[name] != expected[name]:
            raise UserError(f"{path} is of another model: {name} is {stored[name]}, expected {expected[name]}")
