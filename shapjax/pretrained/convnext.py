"""Weights of ConvNeXt, under the names of Hugging Face's transformers or of timm.

The published classifier reads LayerNorm(mean of the cells). With norm_place="pooled" its logits are exactly the mean of
our patch logits.
"""

from typing import NamedTuple

import numpy as np

from shapjax.pretrained.architecture import Plan, activation, conv_sizes, describe, size
from shapjax.pretrained.recipes import (
    Recipe,
    Recipes,
    count_blocks,
    of_blocks,
    prefix_of,
    torch_conv,
    torch_linear,
    torch_norm,
)
from shapjax.pretrained.weights import Weights


class _Names(NamedTuple):
    """The names of a library.

    Attributes:
      layout: as in `Architecture`.
      stem, stem_norm, last_norm, head: outside of the stages.
      stages: start of the names of stages, before their number.
      reduction: of a stage, the layers that change the size.
      blocks: of a stage, start of the names of its blocks, before their number.
      depthwise, norm, mlp_in, mlp_out, scale: of a block.
      norm_epsilon: where no config says it.
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
    norm_epsilon: float


_HUGGING_FACE = _Names(
    "Hugging Face ConvNeXt", "embeddings.patch_embeddings", "embeddings.layernorm", "layernorm", "classifier",
    "encoder.stages.", "downsampling_layer", "layers.", "dwconv", "layernorm", "pwconv1", "pwconv2",
    "layer_scale_parameter", 1e-12)
_TIMM = _Names("timm ConvNeXt", "stem.0", "stem.1", "head.norm", "head.fc", "stages.", "downsample", "blocks.",
               "conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma", 1e-6)


def plan(weights: Weights) -> Plan | None:
    """Returns the plan for a `models.convnext.ConvNeXt`; None: the names follow another scheme."""
    names, prefix = _HUGGING_FACE, prefix_of(weights, "encoder.stages.0.layers.0.dwconv.weight")
    if prefix is None and {"stages.0.blocks.0.conv_dw.weight", "stem.0.weight"} <= weights.keys():
        names, prefix = _TIMM, ""
    if prefix is None:
        return None
    start, depths = f"{prefix}{names.stages}", []
    while count := count_blocks(weights, f"{start}{len(depths)}.{names.blocks}"):
        depths.append(count)
    first = f"{start}0.{names.blocks}0."
    scaled = first + names.scale in weights
    table = torch_norm("norm", prefix + names.last_norm)
    for stage, depth in enumerate(depths):
        reduction, norm = prefix + names.stem, prefix + names.stem_norm
        if stage:
            norm, reduction = (f"{start}{stage}.{names.reduction}.{i}" for i in range(2))
        table |= torch_conv(f"stage{stage}_reduction", reduction) | torch_norm(f"stage{stage}_norm", norm)
        block = _block(names, f"{start}{stage}.{names.blocks}{{}}.", scaled=scaled)
        table |= of_blocks(block, f"stage{stage}_blocks", depth)
    if f"{names.head}.bias" in weights:
        table |= torch_linear("head", names.head)
    width, channels, side = conv_sizes(weights, f"{prefix}{names.stem}.weight")
    settings = dict(
        backbone="convnext", patch_size=side * 2 ** (len(depths) - 1), width=width, stages=tuple(depths),
        mlp_ratio=size(weights, f"{first}{names.mlp_in}.bias") / max(width, 1),
        activation=activation(weights.config, "gelu"), norm_place="pooled",
        norm_epsilon=weights.config.get("layer_norm_eps", names.norm_epsilon))
    return Plan(describe(weights, names.layout, settings, table, channels=channels), table, blocks=start)


def _block(names: _Names, block: str, *, scaled: bool) -> Recipes:
    """Returns the recipes of a block of a stage; its LayerScale is 1 if the weights have none (scaled)."""
    kernel, bias = (f"{block}{names.depthwise}.{part}" for part in ("weight", "bias"))
    return (torch_norm("norm", block + names.norm) | torch_linear("mlp_in", block + names.mlp_in)
            | torch_linear("mlp_out", block + names.mlp_out)
            | {"depthwise/kernel": Recipe((kernel,), lambda x: x[:, 0].transpose(1, 2, 0)),
               "depthwise/bias": Recipe((bias,)),
               "layer_scale": Recipe((block + names.scale,)) if scaled else Recipe((bias,), np.ones_like)})
