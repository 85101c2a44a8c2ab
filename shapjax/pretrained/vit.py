"""Weights of vision transformers, under the names of Hugging Face, timm or Google.

A module for each scheme of names makes a plan, which tensor goes where; this module makes the parameters. The features
are exactly the same: CLS, distillation and register tokens become prefix tokens with their positions added, LayerScale
is multiplied into the weights before it, queries, keys and values become one product. The logits of a classifier that
was trained on the CLS token are not: here its head acts on each patch token, and their mean is taken. It has to be
fine-tuned.
"""

import math
import re

import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from shapjax.errors import UserError, few
from shapjax.pretrained import recipes, vit_google, vit_hugging_face, vit_timm
from shapjax.pretrained.architecture import Architecture, Converted, require, require_no_more
from shapjax.pretrained.positions import grid_of, interpolate, sincos
from shapjax.pretrained.vit_plan import Plan
from shapjax.pretrained.weights import Weights

# Attention heads by width, where a head is not 64 wide: SoViT-400M, H, g, "giantopt", G.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}


def recognize(weights: Weights) -> Architecture | None:
    """Returns the architecture of a ViT's weights; None: their names are those of no ViT.

    Raises:
      UserError: if tensors are missing, have other shapes than they should, or belong to parts that our ViT lacks.
    """
    plan = _plan(weights)
    if plan is None:
        return None
    depth, shapes = _depth(weights, plan), weights.shapes
    blocks = {name for i in range(depth) for name in recipes.names(plan.block, i)}
    positions = [plan.positions] if plan.positions else []
    require(weights, [*recipes.names(plan.top), *plan.prefix_tokens, *positions, *sorted(blocks)], plan.layout)
    require_no_more(weights, (name for name in weights if _in_blocks(plan).match(name)), blocks, plan.layout)
    head, hidden = plan.top.get(("head", "bias")), shapes[plan.block["mlp_in", "bias"].names[0].format(0)][-1]
    num_classes = shapes[head.names[0]][0] if head else None
    _require_shapes(weights, plan, depth=depth, hidden=hidden, num_classes=num_classes)
    prefix_tokens = sum(math.prod(shapes[name]) // plan.width for name in plan.prefix_tokens)
    settings = dict(
        backbone="vit", patch_size=plan.patch_size, width=plan.width, depth=depth,
        heads=plan.heads or _usual_heads(weights, plan.width), mlp_ratio=hidden / plan.width,
        class_token=plan.class_token, registers=prefix_tokens - plan.class_token, activation=plan.activation,
        norm_epsilon=plan.norm_epsilon, input_norm=("norm_in", "scale") in plan.top, norm_place=plan.norm_place)
    if head:
        settings |= dict(head_scale="mean", center=False)
    image_size = None
    if plan.positions:
        rows = math.prod(shapes[plan.positions]) // plan.width
        found = grid_of(rows, prefix_tokens=prefix_tokens, grid=plan.grid)
        if found is None:
            raise UserError(f"weights {weights.path}: {plan.positions} has {rows} rows, which are not a square of "
                            "patches and the tokens before them; put the config.json with the image size beside the "
                            "weights")
        image_size = found[1][0] * plan.patch_size, found[1][1] * plan.patch_size
    return Architecture(plan.layout, settings, image_size, num_classes, plan.mean, plan.std, plan.channels)


def convert(weights: Weights, architecture: Architecture, module: nn.Module) -> Converted:
    """Returns the parameters of a `models.vit.ViT`.

    Args:
      weights: of a ViT.
      architecture: from `recognize`.
      module: with the architecture's settings; the positions are interpolated to its grid.
    """
    plan, depth = _plan(weights), architecture.settings["depth"]
    flat, notes, used = recipes.make(weights, plan.top), (), {*recipes.names(plan.top), *plan.prefix_tokens}
    blocks = recipes.make_stacked(weights, plan.block, depth, stacked=plan.stacked)
    flat |= {("blocks", *path): x for path, x in blocks.items()}
    used |= {name for i in range(depth) for name in recipes.names(plan.block, i)}
    prefix_tokens = np.concatenate([np.zeros((0, plan.width), np.float32),
                                    *(weights[name].reshape(-1, plan.width) for name in plan.prefix_tokens)])
    new = tuple(module.grid)
    if plan.positions:
        positions = weights[plan.positions].reshape(-1, plan.width)
        old = tuple(side // plan.patch_size for side in architecture.image_size)
        first = len(positions) - math.prod(old)  # row of the first patch
        prefix_tokens[:first] += positions[:first]
        flat["positions",] = interpolate(positions[first:], old, new)
        used.add(plan.positions)
        if old != new:
            notes += (f"positions interpolated from {old[0]}x{old[1]} to {new[0]}x{new[1]}",)
    else:
        flat["positions",] = sincos(new, plan.width)
    if len(prefix_tokens):
        flat["prefix_tokens",] = prefix_tokens
    ignored = {name for name in weights if re.match(plan.ignored, name)} - used
    return Converted(unflatten_dict(flat), frozenset(used), frozenset(ignored), notes, plan.head_note,
                     recipes.head_names(plan.top))


def _plan(weights: Weights) -> Plan | None:
    """Returns the plan by the scheme that the names follow."""
    return vit_hugging_face.plan(weights) or vit_timm.plan(weights) or vit_google.plan(weights)


def _in_blocks(plan: Plan) -> re.Pattern:
    """Returns a pattern that matches the names of blocks' tensors; its group, if any, is the block's number."""
    return re.compile(re.escape(plan.block_prefix).replace(r"\{\}", r"(\d+)"))


def _depth(weights: Weights, plan: Plan) -> int:
    """Returns the number of blocks."""
    if plan.stacked:
        return weights.shapes[plan.block["norm1", "scale"].names[0]][0]
    return 1 + max(int(match[1]) for name in weights if (match := _in_blocks(plan).match(name)))


def _require_shapes(weights: Weights, plan: Plan, *, depth: int, hidden: int, num_classes: int | None) -> None:
    """Raises UserError unless the tensors' shapes follow from the width D, the hidden width M and the classes K."""
    d, m, norm = plan.width, hidden, {"scale": (plan.width,), "bias": (plan.width,)}
    layers = {("norm_in",): norm, ("norm",): norm, ("norm1",): norm, ("norm2",): norm}
    for path, rows, columns in ((("embedding",), plan.patch_size**2 * plan.channels, d), (("head",), d, num_classes),
                                (("attention", "qkv"), d, 3 * d), (("attention", "out"), d, d), (("mlp_in",), d, m),
                                (("mlp_out",), m, d)):
        layers[path] = {"kernel": (rows, columns), "bias": (columns,)}
    expected = {(*path, name): shape for path, shapes in layers.items() for name, shape in shapes.items()}
    recipes.require_fit(weights, plan.top, expected, plan.layout)
    recipes.require_fit(weights, plan.block, expected, plan.layout, depth=depth, stacked=plan.stacked)
    tokens = {name: weights.shapes[name] for name in (*plan.prefix_tokens, plan.positions) if name}
    if wrong := [f"{name} is {list(shape)}" for name, shape in tokens.items() if shape[-1:] != (d,)]:
        raise UserError(f"weights {weights.path} look like {plan.layout} of width {d}, but {few(wrong)}; is the file "
                        "damaged, or of a variant of that model?")


def _usual_heads(weights: Weights, width: int) -> int:
    """Returns the number of heads that the known models of a width have, since no shape tells it."""
    if width not in _HEADS and width % 64:
        raise UserError(f"weights {weights.path} do not tell how many attention heads they have, and no model of width "
                        f"{width} is known; put the model's config.json beside them")
    return _HEADS.get(width, width // 64)
