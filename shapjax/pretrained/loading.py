"""Converts weights into the parameters of a model, and reports on it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from shapjax import models
from shapjax.errors import UserError, as_user_error, few
from shapjax.models import HEADS
from shapjax.pretrained import hub, own_run, recipes, recognition
from shapjax.pretrained.architecture import HEAD_SETTINGS, Architecture, Plan
from shapjax.pretrained.positions import interpolate, sincos
from shapjax.pretrained.weights import open_weights


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
    if own_run.is_run(path):
        return own_run.describe(path)
    return recognition.recognize(open_weights(path)).plan.architecture


def load(name: str, module: nn.Module, *, image_shape: tuple[int, int, int], class_names: Sequence[str], new_head: bool
         ) -> tuple[dict[str, Any], Report]:
    """Loads the parameters of a model from weights.

    Args:
      name: as in `describe`.
      module: the model, with the settings that `describe` returns; its image size may be another.
      image_shape: (H, W, C) of the images it is for. If they have one channel and the weights' three, the kernel that
        reads the channels is summed over them, as if the channel were repeated.
      class_names: of the K classes of the images. A head whose weights name their classes is put in this order.
      new_head: leave out the weights' head.

    Returns:
      parameters on the host, float32, nested as the module's, without those of `models.HEADS` that have to be
      initialized; and the report.

    Raises:
      UserError: if the weights are missing, damaged or of another model, or if they are for other classes and
        new_head is not set.
    """
    path, notes = hub.locate(name), ()
    if own_run.is_run(path):
        weights, plan = own_run.read_plan(path)
    else:
        weights, plan, notes = recognition.recognize(open_weights(path))
    architecture, table = plan.architecture, plan.recipes
    require_fit(name, architecture, _settings(module, architecture))
    order, order_note = None, ()
    if new_head:
        table = {key: recipe for key, recipe in table.items() if key.partition("/")[0] not in HEADS}
    elif architecture.num_classes is not None:
        order, order_note = _order_of_classes(name, architecture, class_names)
    params = unflatten_dict({key: recipes.make(weights, recipe) for key, recipe in table.items()}, sep="/")
    notes += ((plan.note,) if plan.note else ()) + _fit_positions(params, plan, module)
    if plan.head_note and not new_head:
        notes += (plan.head_note,)
    if order is not None:
        for head in (key for key in HEADS if key in params):
            params[head] = _reordered(params[head], order)
    notes += order_note
    expected = models.param_shapes(module, image_shape=image_shape)
    params, more = _fitted(name, params, expected, architecture.channels, image_shape[2])
    new = tuple(f"{key} ({sum(x.size for x in jax.tree.leaves(expected[key])):,} parameters)"
                for key in expected if key not in params)
    used = recipes.names(table)
    ignored = ({key for key in weights if re.match(plan.ignored, key)} | recipes.names(plan.recipes)) - used
    return params, Report(
        name=name, layout=architecture.layout, num_tensors=len(used),
        num_parameters=sum(x.size for x in jax.tree.leaves(params)), new=new, ignored=tuple(sorted(ignored)),
        skipped=tuple(sorted(set(weights) - used - ignored)), notes=notes + more)


def _order_of_classes(name: str, architecture: Architecture, class_names: Sequence[str]
                      ) -> tuple[list[int] | None, tuple[str, ...]]:
    """Returns where each of the images' classes stands in the weights' head (None: at its own place), and notes.

    Raises:
      UserError: if the head is for other classes; names the first that disagree.
    """
    advice = "set --config.new_head=True to make a new one"
    if architecture.num_classes != len(class_names):
        raise UserError(f"the head of {name} is for {architecture.num_classes} classes, the dataset has "
                        f"{len(class_names)}; {advice}")
    if architecture.class_names is None:
        return None, ("the weights do not name their classes: taken to be in the dataset's order",)
    theirs, ours = ([text.casefold().replace("_", " ") for text in names]
                    for names in (architecture.class_names, class_names))
    if theirs == ours:
        return None, ()
    if sorted(theirs) != sorted(ours) or len(set(theirs)) < len(theirs):
        only = [[original for original, text in zip(names, texts, strict=True) if text not in others]
                for names, texts, others in ((architecture.class_names, theirs, ours), (class_names, ours, theirs))]
        raise UserError(f"the head of {name} is for other classes (only there: {few(only[0])}; only in the dataset: "
                        f"{few(only[1])}); {advice}")
    return [theirs.index(text) for text in ours], ("the head's classes are put in the dataset's order",)


def _reordered(head: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """Returns the parameters of a head, or of an explainer head, whose last layer has its classes in another order."""
    if "head" in head:
        return head | {"head": _reordered(head["head"], order)}
    return {key: x[..., order] for key, x in head.items()}


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
        of_any_size = architecture._replace(image_size=None)
        with as_user_error(f"weights {name}: "):
            ours, wanted = (recognition.param_shapes(of_any_size, theirs | dict(changes)) for changes in (given, {}))
        tensors = [f"{path} is {list(wanted[path])} instead of {list(ours[path])}" if path in ours else f"{path} is new"
                   for path in wanted if wanted[path] != ours.get(path)]
    else:
        tensors = []
    what = few(tensors) if tensors else few([f"{key} is {theirs[key]} instead of {given[key]}" for key in differing])
    raise UserError(f"weights {name} ({architecture.layout}) are of another model: {what}; they are of "
                    f"{_likeliest(theirs)}: set that, or leave --config.model.variant empty")


def _settings(module: nn.Module, architecture: Architecture) -> dict[str, Any]:
    """Returns the settings that a module was built with, as far as weights decide them, without the head's."""
    backbone = next(key for key, value in models.BACKBONES.items() if isinstance(module, value))
    return {"backbone": backbone} | {key: getattr(module, key) for key in architecture.settings
                                     if hasattr(module, key) and key not in HEAD_SETTINGS}


def _fit_positions(params: dict[str, Any], plan: Plan, module: nn.Module) -> tuple[str, ...]:
    """Fits positions among the parameters to the module's grid, or adds the fixed ones; returns notes."""
    architecture, new = plan.architecture, module.grid
    if architecture.settings["backbone"] == "vit" and "positions" not in params:
        params["positions"] = sincos(new, module.width)
        return ()
    placed = [tree for tree in (params, params.get("explainer", {})) if "positions" in tree]
    if not placed:
        return ()
    old = tuple(side // module.patch_size for side in architecture.image_size)
    for tree in placed:
        tree["positions"] = interpolate(tree["positions"], old, new, antialias=plan.antialias)
    return (f"positions interpolated from {old[0]}x{old[1]} to {new[0]}x{new[1]}",) if old != new else ()


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
