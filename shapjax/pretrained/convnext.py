"""Weights of ConvNeXt, under the names of Hugging Face's transformers or of timm.

The published classifier reads LayerNorm(mean of the cells). With norm_place="pooled" its logits are exactly the mean of
our patch logits.
"""

from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from shapjax.pretrained import recipes
from shapjax.pretrained.architecture import (
    Architecture,
    Converted,
    activation,
    as_conv,
    normalization,
    require_no_more,
    require_shapes,
)
from shapjax.pretrained.recipes import Recipe, Recipes, torch_linear, torch_norm
from shapjax.pretrained.weights import Weights

_HUGGING_FACE_BLOCK = "encoder.stages.0.layers.0.dwconv.weight"


class _Names(NamedTuple):
    """The names of the tensors of a library; those inside a stage or a block are relative to it.

    Attributes:
      layout: as in `Architecture`.
      stem, stem_norm, last_norm, head: outside of the stages.
      stages: start of the names of stages, before their number.
      reduction: of a stage, the layers that change the size.
      blocks: of a stage, start of the names of its blocks, before their number.
      depthwise, norm, mlp_in, mlp_out, scale: of a block.
    """

    layout: str
    stem: str
    stem_norm: str
    last_norm: str
    head: str
    stages: str
    reduction: str
    blocks: str
    depthwise: str
    norm: str
    mlp_in: str
    mlp_out: str
    scale: str


class _Plan(NamedTuple):
    """Holds which tensor goes where.

    Attributes:
      names: of the tensors.
      settings, channels, num_classes: as in `Architecture`.
      top: recipes of all but the blocks.
      blocks: recipes of a block, for each stage.
      shapes: that some of the tensors must have.
    """

    names: _Names
    settings: dict[str, Any]
    channels: int
    num_classes: int | None
    top: Recipes
    blocks: tuple[Recipes, ...]
    shapes: dict[str, tuple[int, ...]]


def recognize(weights: Weights) -> Architecture | None:
    """Returns the architecture of a ConvNeXt's weights; None: their names are those of no ConvNeXt.

    Raises:
      UserError: if tensors are missing, have other shapes than they should, or belong to parts that our ConvNeXt lacks.
    """
    plan = _plan(weights)
    if plan is None:
        return None
    used, layout = _used(plan), plan.names.layout
    require_shapes(weights, dict.fromkeys(used) | plan.shapes, layout)
    require_no_more(weights, [name for name in weights if name.startswith(plan.names.stages)], used, layout)
    return Architecture(layout, plan.settings, None, plan.num_classes, *normalization(weights), plan.channels)


def convert(weights: Weights, architecture: Architecture, module: nn.Module) -> Converted:
    """Returns the parameters of a `models.convnext.ConvNeXt` with the settings that `recognize` gave."""
    plan = _plan(weights)
    flat = recipes.make(weights, plan.top)
    for stage, (block, count) in enumerate(zip(plan.blocks, plan.settings["stages"], strict=True)):
        made = recipes.make_stacked(weights, block, count, stacked=False)
        flat |= {(f"stage{stage}_blocks", *path): x for path, x in made.items()}
    return Converted(unflatten_dict(flat), _used(plan), frozenset(), head=recipes.head_names(plan.top))


def _names(weights: Weights) -> _Names | None:
    """Returns the names of the library that these follow; None: they are not those of a ConvNeXt."""
    for name in weights:
        if name.endswith(_HUGGING_FACE_BLOCK):
            p = name.removesuffix(_HUGGING_FACE_BLOCK)
            return _Names("Hugging Face ConvNeXt", f"{p}embeddings.patch_embeddings", f"{p}embeddings.layernorm",
                          f"{p}layernorm", "classifier", f"{p}encoder.stages.", "downsampling_layer", "layers",
                          "dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter")
    if "stages.0.blocks.0.conv_dw.weight" in weights and "stem.0.weight" in weights:
        return _Names("timm ConvNeXt", "stem.0", "stem.1", "head.norm", "head.fc", "stages.", "downsample", "blocks",
                      "conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma")
    return None


def _plan(weights: Weights) -> _Plan | None:
    """Returns the plan; None: the names are those of no ConvNeXt."""
    names, shapes = _names(weights), {}
    if names is None:
        return None
    stages = []
    while (count := _count(weights, f"{names.stages}{len(stages)}.{names.blocks}.")):
        stages.append(count)
    width, channels, side = (*weights.shapes.get(f"{names.stem}.weight", ()), 0, 0, 0)[:3]
    shapes[f"{names.stem}.weight"] = (width, channels, side, side)
    top = _convolution(("stage0_reduction",), names.stem) | torch_norm(("stage0_norm",), names.stem_norm)
    top |= torch_norm(("norm",), names.last_norm)
    for stage in range(1, len(stages)):
        norm, reduction = (f"{names.stages}{stage}.{names.reduction}.{i}" for i in range(2))
        top |= torch_norm((f"stage{stage}_norm",), norm) | _convolution((f"stage{stage}_reduction",), reduction)
        shapes[f"{reduction}.weight"] = (width * 2**stage, width * 2 ** (stage - 1), 2, 2)
    first = f"{names.stages}0.{names.blocks}.0."
    hidden, = weights.shapes.get(f"{first}{names.mlp_in}.bias", (0,))
    blocks = []
    for stage, count in enumerate(stages):
        block, factor = f"{names.stages}{stage}.{names.blocks}.{{}}.", 2**stage
        scaled = f"{first}{names.scale}" in weights
        blocks.append(_block(names, block, scaled))
        for number in range(count):
            shapes |= {f"{block}{part}".format(number): shape for part, shape in (
                (f"{names.depthwise}.weight", (width * factor, 1, 7, 7)), (f"{names.mlp_in}.bias", (hidden * factor,)),
                (f"{names.mlp_out}.bias", (width * factor,)))}
    classes = weights.shapes.get(f"{names.head}.bias", (None,))[0]
    settings = dict(
        backbone="convnext", patch_size=side * 2 ** (len(stages) - 1), width=width, stages=tuple(stages),
        mlp_ratio=hidden / max(width, 1), activation=activation(weights.config, "gelu"), norm_place="pooled",
        norm_epsilon=weights.config.get("layer_norm_eps", 1e-12 if names.head == "classifier" else 1e-6))
    if classes:
        top |= torch_linear(("head",), names.head)
        shapes[f"{names.head}.weight"] = (classes, width * 2 ** (len(stages) - 1))
        settings |= dict(head_scale="mean", center=False)
    return _Plan(names, settings, channels, classes, top, tuple(blocks), shapes)


def _block(names: _Names, block: str, scaled: bool) -> Recipes:
    """Returns the recipes of a block; its LayerScale is 1 if the weights have none (scaled)."""
    norm, mlp_in, mlp_out, depthwise = (f"{block}{part}" for part in (names.norm, names.mlp_in, names.mlp_out,
                                                                     names.depthwise))
    return (torch_norm(("norm",), norm) | _linear(("mlp_in",), mlp_in) | _linear(("mlp_out",), mlp_out)
            | {("depthwise", "kernel"): Recipe((f"{depthwise}.weight",), lambda x: x[:, 0].transpose(1, 2, 0)),
               ("depthwise", "bias"): Recipe((f"{depthwise}.bias",)),
               ("layer_scale",): Recipe((f"{block}{names.scale}",)) if scaled else Recipe(
                   (f"{depthwise}.bias",), np.ones_like)})


def _convolution(path: tuple[str, ...], name: str) -> Recipes:
    """Returns the recipes of torch's Conv2d."""
    return {(*path, "kernel"): Recipe((f"{name}.weight",), as_conv), (*path, "bias"): Recipe((f"{name}.bias",))}


def _linear(path: tuple[str, ...], name: str) -> Recipes:
    """Returns the recipes of a Linear, or of the 1x1 convolution that small models of timm have in its place."""
    return {(*path, "kernel"): Recipe((f"{name}.weight",), lambda x: x.reshape(x.shape[:2]).T),
            (*path, "bias"): Recipe((f"{name}.bias",))}


def _count(weights: Weights, start: str) -> int:
    """Returns the number of blocks of a stage, by the highest number after the start of their names."""
    numbers = [name.removeprefix(start).partition(".")[0] for name in weights if name.startswith(start)]
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def _used(plan: _Plan) -> frozenset[str]:
    """Returns the names of all tensors that are read."""
    blocks = zip(plan.blocks, plan.settings["stages"], strict=True)
    return frozenset(recipes.names(plan.top)).union(
        *(recipes.names(block, number) for block, count in blocks for number in range(count)))
