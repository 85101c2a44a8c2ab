"""Finds, recognizes and converts weights into a model's parameters, and reports on it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from flax import linen as nn

from shapjax import models
from shapjax.config import default_config, model_settings, set_model
from shapjax.errors import UserError, as_user_error, few
from shapjax.pretrained import convnext, hub, own_run, resnet, vit
from shapjax.pretrained.architecture import HEADS, Architecture
from shapjax.pretrained.weights import Weights, open_weights

# A module for each family of weights, see `architecture`; the first that recognizes the names converts them.
FAMILIES = (vit, resnet, convnext)
HEAD_SETTINGS = ("head_scale", "center")  # set by the weights only if their head is kept


class Report(NamedTuple):
    """A report on loaded weights; `str()` of it is for people.

    Attributes:
      name: given by the user.
      layout: of `Architecture`.
      num_tensors: that went into parameters.
      num_parameters: loaded.
      new: parameters that have to be initialized, by path.
      ignored, skipped: names of the tensors that are known to be of no use, and of those that are unknown.
      notes: remarks, a few words each.
    """

    name: str
    layout: str
    num_tensors: int
    num_parameters: int
    new: tuple[str, ...]
    ignored: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        rest = [f"{what}: {few(list(names))}" for what, names in (
            ("new", self.new), ("not used", self.ignored), ("skipped, unknown", self.skipped)) if names]
        return "\n              ".join([f"pretrained    {self.name}: {self.layout}, {self.num_tensors} tensors, "
                                        f"{self.num_parameters:,} parameters", *rest, *self.notes])


def describe(name: str) -> Architecture:
    """Returns the architecture of weights, from names, shapes and config alone. Does not start JAX.

    Args:
      name: a path to weights or to the workdir of a run, or a name on the Hugging Face hub.

    Raises:
      UserError: if they are missing, damaged, or of no known model.
    """
    path = hub.locate(name)
    return own_run.describe(path) if own_run.is_run(path) else _recognized(open_weights(path))[1]


def load(name: str, module: nn.Module, *, image_shape: tuple[int, int, int], num_classes: int, new_head: bool
         ) -> tuple[dict[str, Any], Report]:
    """Loads the parameters of a model from weights.

    Args:
      name: as in `describe`.
      module: the model, with the settings that `describe` returns; its image size may be another.
      image_shape: (H, W, C) of the images it is for. If they have one channel and the weights' three, the kernel that
        reads the channels is summed over them, as if the channel were repeated.
      num_classes: K.
      new_head: leave out the weights' head.

    Returns:
      parameters on the host, float32, nested as the module's, without those of `architecture.HEADS` that have to be
      initialized; and the report.

    Raises:
      UserError: if the weights are missing, damaged or of another model, or if they have another number of classes and
        new_head is not set.
    """
    path, weights = hub.locate(name), {}
    if own_run.is_run(path):
        architecture = own_run.describe(path)
    else:
        weights = open_weights(path)
        family, architecture = _recognized(weights)
    require_fit(name, architecture, _settings(module, architecture))
    if architecture.num_classes not in (None, num_classes) and not new_head:
        raise UserError(f"the head of {name} is for {architecture.num_classes} classes, the dataset has {num_classes}; "
                        "set --config.new_head=True to make a new one")
    converted = family.convert(weights, architecture, module) if weights else own_run.convert(path, module)
    params, notes, used, ignored = dict(converted.params), converted.notes, converted.used, converted.ignored
    if new_head:
        params = {key: value for key, value in params.items() if key not in HEADS}
        used, ignored = used - converted.head, ignored | converted.head
    elif converted.head_note:
        notes += (converted.head_note,)
    expected = models.param_shapes(module, image_shape=image_shape)
    params, more = _fitted(name, params, expected, architecture.channels, image_shape[2])
    new = tuple(f"{key} ({sum(x.size for x in jax.tree.leaves(expected[key])):,} parameters)"
                for key in expected if key not in params)
    return params, Report(
        name=name, layout=architecture.layout, num_tensors=len(used),
        num_parameters=sum(x.size for x in jax.tree.leaves(params)), new=new, ignored=tuple(sorted(ignored)),
        skipped=tuple(sorted(set(weights) - used - ignored)),
        notes=notes + more)


def require_fit(name: str, architecture: Architecture, given: Mapping[str, Any]) -> None:
    """Raises UserError, naming the tensors that disagree, if model settings are not those of the weights.

    Args:
      name: of the weights.
      architecture: of the weights.
      given: some settings, by name.
    """
    theirs = architecture.settings
    differing = [key for key in given if key in theirs and given[key] != theirs[key]]
    if not differing:
        return
    if given.get("backbone", theirs["backbone"]) == theirs["backbone"]:
        with as_user_error(f"weights {name}: "):
            ours, wanted = (_shapes(architecture, theirs | dict(changes)) for changes in (given, {}))
        tensors = [f"{path} is {list(wanted[path])} instead of {list(ours[path])}" if path in ours else f"{path} is new"
                   for path in wanted if wanted[path] != ours.get(path)]
    else:
        tensors = []
    what = few(tensors) if tensors else few([f"{key} is {theirs[key]} instead of {given[key]}" for key in differing])
    raise UserError(f"weights {name} ({architecture.layout}) are of another model: {what}; they are of "
                    f"{_likeliest(theirs)}: set that, or leave --config.model.variant empty")


def _recognized(weights: Weights) -> tuple[Any, Architecture]:
    """Returns the family of weights, and their architecture."""
    for family in FAMILIES:
        if (architecture := family.recognize(weights)) is not None:
            return family, architecture
    raise UserError(f"weights {weights.path} are of no known model (their tensors: {few(sorted(weights))}); "
                    "docs/models.md lists what can be loaded")


def _settings(module: nn.Module, architecture: Architecture) -> dict[str, Any]:
    """Returns the settings that a module was built with, as far as weights decide them, without the head's."""
    backbone = next(key for key, value in models.BACKBONES.items() if isinstance(module, value))
    return {"backbone": backbone} | {key: getattr(module, key) for key in architecture.settings
                                     if hasattr(module, key) and key not in HEAD_SETTINGS}


def _shapes(architecture: Architecture, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, by path, of the parameters of a model with these settings, for images of 2x2 patches."""
    config = default_config()
    set_model(config, settings)
    image_shape = (2 * config.model.patch_size, 2 * config.model.patch_size, architecture.channels)
    module = models.build(model_settings(config), image_shape=image_shape, num_classes=2)
    leaves = jax.tree_util.tree_leaves_with_path(models.param_shapes(module, image_shape=image_shape))
    return {_text(path): x.shape for path, x in leaves}


def _likeliest(settings: Mapping[str, Any]) -> str:
    """Returns a name of a model with these settings: its variant, or else its sizes."""
    name = models.variant_of(settings)
    sizes = ("depth", "heads") if settings["backbone"] == "vit" else ("stages",)
    return f"variant {name}" if name else ", ".join(
        f"{key} {settings[key]}" for key in ("backbone", "patch_size", "width", *sizes) if key in settings)


def _fitted(name: str, params: dict[str, Any], expected: chex.ArrayTree, channels: int, image_channels: int
            ) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fits the kernel that reads the weights' channels to the images' channels, and checks all parameters.

    Args:
      name: of the weights.
      params: converted.
      expected: shapes of the module's parameters.
      channels, image_channels: of the weights, of the images.

    Returns:
      the parameters, and notes for the report.

    Raises:
      UserError: if some are missing, have other shapes, or are not finite.
    """
    wanted = {key: value for key, value in expected.items() if key in params or key not in HEADS}
    shapes = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(wanted)}
    given, notes = dict(jax.tree_util.tree_leaves_with_path(params)), []
    for path, x in given.items():
        if image_channels == 1 < channels and x.shape != shapes.get(path) == (
                *x.shape[:-2], x.shape[-2] // channels, x.shape[-1]):
            given[path] = x.reshape(*x.shape[:-2], -1, channels, x.shape[-1]).sum(-2)
            notes.append(f"the images are gray: kernel summed over its {channels} channels")
        if not np.isfinite(x.sum()):
            raise UserError(f"weights {name} hold values that are not finite, for {_text(path)}; download or copy "
                            "them again")
    differing = [f"{_text(path)} is {list(given[path].shape) if path in given else 'missing'} instead of {list(shape)}"
                 for path, shape in shapes.items() if path not in given or given[path].shape != shape]
    if differing:
        raise UserError(f"weights {name} do not fit images of {image_channels} channels: {few(differing)}")
    return jax.tree.unflatten(jax.tree.structure(wanted), [given[path] for path in shapes]), tuple(notes)


def _text(path: tuple) -> str:
    """Returns a path in a tree as "blocks/mlp_in/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
