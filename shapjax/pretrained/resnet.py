"""Weights of residual networks, under the names of Hugging Face's transformers or of timm, which torchvision shares.

Batch norms become a scale and a bias for each channel, with the running statistics folded in: exactly what they compute
in a trained classifier. The head acts on each cell, and the mean of these patch logits is the classifier's logits.
"""

from typing import NamedTuple

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.architecture import Plan, conv_sizes, describe
from shapjax.pretrained.recipes import Recipe, Recipes, as_conv, count_blocks, prefix_of, torch_linear
from shapjax.pretrained.weights import Weights

EPSILON = 1e-5  # of batch norms, in both libraries


class _Names(NamedTuple):
    """The names of a library; stem, layer and skip are those of a convolution and of the norm after it.

    Attributes:
      layout: as in `Architecture`.
      stem, head: outside of the stages.
      stages, stage: start of the names of all stages, and of a stage's blocks with {} for its number.
      layer: of a block, with {} for its number.
      skip: of a block whose input has other channels than its output.
      first: number of the first stage, and of the first layer of a block.
    """

    layout: str
    stem: tuple[str, str]
    head: str
    stages: str
    stage: str
    layer: tuple[str, str]
    skip: tuple[str, str]
    first: int


_HUGGING_FACE = _Names(
    "Hugging Face ResNet", ("embedder.embedder.convolution", "embedder.embedder.normalization"), "classifier.1",
    "encoder.stages.", "encoder.stages.{}.layers.", ("layer.{}.convolution", "layer.{}.normalization"),
    ("shortcut.convolution", "shortcut.normalization"), 0)
_TIMM = _Names("timm ResNet", ("conv1", "bn1"), "fc", "layer", "layer{}.", ("conv{}", "bn{}"),
               ("downsample.0", "downsample.1"), 1)


def plan(weights: Weights) -> Plan | None:
    """Returns the plan for a `models.resnet.ResNet`; None: the names follow another scheme.

    Raises:
      UserError: if the config.json says that it is a variant that our ResNet is not.
    """
    names, prefix = _HUGGING_FACE, prefix_of(weights, "encoder.stages.0.layers.0.layer.0.convolution.weight")
    if prefix is None and "layer1.0.conv1.weight" in weights:
        names, prefix = _TIMM, ""
    if prefix is None:
        return None
    config, stages = weights.config, []
    if config.get("downsample_in_first_stage") or config.get("hidden_act", "relu") != "relu":
        raise UserError(f"the config.json beside {weights.path} says downsample_in_first_stage, or a hidden_act other "
                        "than relu, which this ResNet lacks; use weights of a plain ResNet")
    while count := count_blocks(weights, prefix + names.stage.format(len(stages) + names.first)):
        stages.append(count)
    width, channels, _ = conv_sizes(weights, f"{prefix}{names.stem[0]}.weight")
    third_layer = prefix + f"{names.stage}0.{names.layer[0]}.weight".format(names.first, names.first + 2)
    settings = dict(
        backbone="resnet", patch_size=4 * 2 ** (len(stages) - 1), width=width, stages=tuple(stages),
        bottleneck=third_layer in weights, stride_in_1x1=bool(config.get("downsample_in_bottleneck", False)),
        batch_norm=True)
    table = _recipes(names, prefix, stages, bottleneck=settings["bottleneck"])
    if f"{names.head}.bias" in weights:
        table |= torch_linear("head", names.head)
    return Plan(describe(weights, names.layout, settings, table, channels=channels), table,
                blocks=prefix + names.stages, ignored=r".*\.num_batches_tracked$")


def _recipes(names: _Names, prefix: str, stages: list[int], *, bottleneck: bool) -> Recipes:
    """Returns the recipes of all parameters but the head's; prefix: of the names."""
    table = _layer("stem", "stem_norm", prefix, names.stem)
    for stage, count in enumerate(stages):
        for number in range(count):
            ours = f"stage{stage}_block{number}"
            theirs = f"{prefix}{names.stage.format(stage + names.first)}{number}."
            for i in range(3 if bottleneck else 2):
                table |= _layer(f"{ours}/conv{i + 1}", f"{ours}/norm{i + 1}", theirs,
                                [name.format(i + names.first) for name in names.layer])
            if not number and (stage or bottleneck):
                table |= _layer(f"{ours}/conv_skip", f"{ours}/norm_skip", theirs, names.skip)
    return table


def _layer(conv: str, norm: str, prefix: str, names: tuple[str, str]) -> Recipes:
    """Returns the recipes of a convolution and of the batch norm after it, at these paths."""
    weight, bias, mean, variance = (f"{prefix}{names[1]}.{part}"
                                    for part in ("weight", "bias", "running_mean", "running_var"))
    return {f"{conv}/kernel": Recipe((f"{prefix}{names[0]}.weight",), as_conv),
            f"{norm}/scale": Recipe((weight, variance), lambda weight, v: weight / np.sqrt(v + EPSILON)),
            f"{norm}/bias": Recipe((weight, bias, mean, variance),
                                   lambda weight, bias, m, v: bias - m * weight / np.sqrt(v + EPSILON))}
