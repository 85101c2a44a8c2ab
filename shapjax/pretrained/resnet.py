"""Weights of residual networks, under the names of Hugging Face's transformers or of timm, which torchvision shares.

Batch norms become a scale and a bias for each channel, with the running statistics folded in: exactly what they compute
in a trained classifier. The head acts on each cell, and the mean of these patch logits is the classifier's logits.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from shapjax.errors import UserError
from shapjax.models.resnet import EXPANSION
from shapjax.pretrained import recipes
from shapjax.pretrained.architecture import (
    Architecture,
    Converted,
    as_conv,
    normalization,
    require_no_more,
    require_shapes,
)
from shapjax.pretrained.recipes import Recipe, Recipes
from shapjax.pretrained.weights import Weights

EPSILON = 1e-5  # of batch norms, in both libraries
_HUGGING_FACE_STEM = "embedder.embedder.convolution.weight"


class _Layer(NamedTuple):
    """A convolution and the norm after it: our paths, their names, the shape of torch's kernel."""

    path: tuple[str, ...]
    norm_path: tuple[str, ...]
    name: str
    norm_name: str
    shape: tuple[int, int, int, int]


class _Plan(NamedTuple):
    """Holds which tensor goes where.

    Attributes:
      layout, settings, channels, num_classes: as in `Architecture`.
      layers: all but the head.
      block: pattern of the names of blocks' tensors.
      head: name of the classifier; None: there is none.
    """

    layout: str
    settings: dict[str, Any]
    channels: int
    num_classes: int | None
    layers: tuple[_Layer, ...]
    block: str
    head: str | None


def recognize(weights: Weights) -> Architecture | None:
    """Returns the architecture of a ResNet's weights; None: their names are those of no ResNet.

    Raises:
      UserError: if tensors are missing, have other shapes than they should, or belong to parts that our ResNet lacks.
    """
    plan, config = _plan(weights), weights.config
    if plan is None:
        return None
    if config.get("downsample_in_first_stage") or config.get("hidden_act", "relu") != "relu":
        raise UserError(f"the config.json beside {weights.path} says downsample_in_first_stage, or a hidden_act other "
                        "than relu, which this ResNet lacks; use weights of a plain ResNet")
    known = recipes.names(_recipes(plan))
    shapes = dict.fromkeys(known) | {layer.name: layer.shape for layer in plan.layers}
    if plan.head:
        shapes[f"{plan.head}.weight"] = (plan.num_classes, plan.layers[-1].shape[0])
    require_shapes(weights, shapes, plan.layout)
    require_no_more(weights, [name for name in weights if re.match(plan.block, name)], {*known, *_ignored(weights)},
                    plan.layout)
    return Architecture(plan.layout, plan.settings, None, plan.num_classes, *normalization(weights), plan.channels)


def convert(weights: Weights, architecture: Architecture, module: nn.Module) -> Converted:
    """Returns the parameters of a `models.resnet.ResNet` with the settings that `recognize` gave."""
    table = _recipes(_plan(weights))
    return Converted(unflatten_dict(recipes.make(weights, table)), frozenset(recipes.names(table)), _ignored(weights),
                     head=recipes.head_names(table))


def _plan(weights: Weights) -> _Plan | None:
    """Returns the plan; None: the names are those of no ResNet."""
    hugging_face = next((name for name in weights if name.endswith(_HUGGING_FACE_STEM)), None)
    if hugging_face:
        layout, stem, head, prefix = ("Hugging Face ResNet", hugging_face, "classifier.1",
                                      hugging_face.removesuffix(_HUGGING_FACE_STEM))
        block, third = rf"{re.escape(prefix)}encoder\.stages\.(\d+)\.layers\.(\d+)\.", "layer.2.convolution"
    elif "layer1.0.conv1.weight" in weights:
        layout, stem, head, prefix = "timm ResNet", "conv1.weight", "fc", ""
        block, third = r"layer(\d+)\.(\d+)\.", "conv3"
    else:
        return None
    found = [tuple(map(int, match.groups())) for name in weights if (match := re.match(block, name))]
    first, last = min(found, default=(0,))[0], max(found, default=(0,))[0]  # timm counts stages from 1
    stages = tuple(max((number + 1 for stage, number in found if stage == one), default=0)
                   for one in range(first, last + 1))
    width, channels = (*weights.shapes.get(stem, ()), 0, 0)[:2]
    classes = weights.shapes.get(f"{head}.bias", (None,))[0]
    settings = dict(
        backbone="resnet", patch_size=4 * 2 ** (len(stages) - 1), width=width, stages=stages,
        bottleneck=any(re.match(rf"{block}{re.escape(third)}\.", name) for name in weights),
        stride_in_1x1=bool(weights.config.get("downsample_in_bottleneck", False)), batch_norm=True)
    settings |= dict(head_scale="mean", center=False) if classes else {}
    layers = tuple(_layers(settings, channels, prefix, timm=not hugging_face))
    return _Plan(layout, settings, channels, classes, layers, block, head if classes else None)


def _layers(settings: dict[str, Any], channels: int, prefix: str, *, timm: bool) -> Iterator[_Layer]:
    """Yields all layers with a kernel but the head, in the order of computation."""
    width, bottleneck = settings["width"], settings["bottleneck"]

    def layer(path: tuple[str, ...], names: tuple[str, str] | str, shape: tuple[int, int, int, int]) -> _Layer:
        name, norm_name = names if timm else (f"{prefix}{names}.convolution", f"{prefix}{names}.normalization")
        norm_path = (*path[:-1], path[-1].replace("conv", "norm") if len(path) > 1 else f"{path[-1]}_norm")
        return _Layer(path, norm_path, f"{name}.weight", norm_name, shape)

    yield layer(("stem",), ("conv1", "bn1") if timm else "embedder.embedder", (width, channels, 7, 7))
    before = width
    for stage, count in enumerate(settings["stages"]):
        w = width * 2**stage
        after = EXPANSION * w if bottleneck else w
        for number in range(count):
            ours = f"stage{stage}_block{number}"
            theirs = f"layer{stage + 1}.{number}." if timm else f"encoder.stages.{stage}.layers.{number}."
            shapes = [(w, before, 3, 3), (w, w, 3, 3)]
            if bottleneck:
                shapes = [(w, before, 1, 1), (w, w, 3, 3), (after, w, 1, 1)]
            for i, shape in enumerate(shapes, start=1):
                names = (f"{theirs}conv{i}", f"{theirs}bn{i}") if timm else f"{theirs}layer.{i - 1}"
                yield layer((ours, f"conv{i}"), names, shape)
            if before != after:
                names = (f"{theirs}downsample.0", f"{theirs}downsample.1") if timm else f"{theirs}shortcut"
                yield layer((ours, "conv_skip"), names, (after, before, 1, 1))
            before = after


def _recipes(plan: _Plan) -> Recipes:
    """Returns the recipes of all parameters."""
    table = recipes.torch_linear(("head",), plan.head) if plan.head else {}
    for layer in plan.layers:
        table[*layer.path, "kernel"] = Recipe((layer.name,), as_conv)
        weight, bias, mean, variance = (f"{layer.norm_name}.{name}"
                                        for name in ("weight", "bias", "running_mean", "running_var"))
        table[*layer.norm_path, "scale"] = Recipe((weight, variance), lambda weight, v: weight / np.sqrt(v + EPSILON))
        table[*layer.norm_path, "bias"] = Recipe(
            (weight, bias, mean, variance), lambda weight, bias, m, v: bias - m * weight / np.sqrt(v + EPSILON))
    return table


def _ignored(weights: Weights) -> frozenset[str]:
    """Returns the names of the tensors that are of no use."""
    return frozenset(name for name in weights if name.endswith(".num_batches_tracked"))
