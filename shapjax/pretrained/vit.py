"""Weights of vision transformers: what the plans by the names of Hugging Face, timm and Google share.

The features are exactly the same: CLS, distillation and register tokens become prefix tokens with their positions
added; queries, keys and values become one product. The logits of a classifier that was trained on the CLS token are
not: here its head acts on each patch token, and their mean is taken. It has to be fine-tuned.
"""

import math
from typing import Any

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.architecture import Plan, describe, size
from shapjax.pretrained.positions import grid_of
from shapjax.pretrained.recipes import Recipe, Recipes, count_blocks, of_blocks, torch_linear, torch_norm
from shapjax.pretrained.weights import Weights

READS_CLS = "the head was trained on the CLS token and now acts on the patches: fine-tune the model"
# Attention heads by width, where a head is not 64 wide: SoViT-400M, H, g, "giantopt", G.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}


def make_plan(weights: Weights, table: Recipes, *, sizes: tuple[int, int, int], layout: str, blocks: str,
              prefix_tokens: list[str], positions: str | None, grid: tuple[int, int] | None, heads: int | None,
              activation: str, norm_epsilon: float, ignored: str, norm_place: str = "token", head_note: str = "",
              antialias: bool = True) -> Plan:
    """Returns the plan for a `models.vit.ViT`.

    Args:
      weights: whose shapes and config are looked at.
      table: recipes of all parameters but positions and prefix tokens.
      sizes: width D, channels C, patch size p.
      layout: as in `Architecture`.
      blocks, ignored, head_note, antialias: as in `Plan`.
      prefix_tokens: names of their tensors, in their order; that of a CLS token ends with "cls" or "cls_token".
      positions: name of the tensor; None: fixed ones.
      grid: (gh, gw) of the positions according to the config beside the weights; None: unknown.
      heads: attention heads; None: as many as known models of this width have.
      activation, norm_epsilon, norm_place: settings of the model.

    Raises:
      UserError: if the number of heads cannot be known, or positions are no grid.
    """
    width, channels, patch_size = sizes
    shapes, image_size, table, note = weights.shapes, None, dict(table), ""
    num_tokens, first = sum(math.prod(shapes.get(name, ())[:-1]) for name in prefix_tokens), 0
    if positions:
        rows = math.prod(shapes.get(positions, ())[:-1])
        found = grid_of(rows, prefix_tokens=num_tokens, grid=grid)
        if found is None:
            raise UserError(f"weights {weights.path}: {positions} has {rows} rows, which are not a square of patches "
                            "and the tokens before them; put the config.json with the image size beside the weights")
        first, (gh, gw) = found
        if grid != (gh, gw):
            note = f"no config.json says so: taken for {first} positions of prefix tokens and a grid of {gh}x{gw}"
        image_size = gh * patch_size, gw * patch_size
        table["positions"] = Recipe((positions,), lambda x: x.reshape(-1, width)[first:])
    if prefix_tokens:
        # Only the first have positions.
        table["prefix_tokens"] = Recipe((*prefix_tokens, *([positions] if first else [])),
                                        lambda *x: _prefix_tokens(x, width, len(prefix_tokens), first))
    if not heads and width not in _HEADS and width % 64:
        raise UserError(f"weights {weights.path} do not tell how many attention heads they have, and no model of width "
                        f"{width} is known; put the model's config.json beside them")
    norm, mlp = table["blocks/norm1/scale"], table["blocks/mlp_in/bias"].tensors()[0][0]
    class_token = any(name.endswith(("cls", "cls_token")) for name in prefix_tokens)
    settings = dict(
        backbone="vit", patch_size=patch_size, width=width, depth=norm.depth or shapes.get(norm.names[0], (0,))[0],
        heads=heads or _HEADS.get(width, width // 64), mlp_ratio=size(weights, mlp) / max(width, 1),
        class_token=class_token, registers=num_tokens - class_token, activation=activation, norm_epsilon=norm_epsilon,
        input_norm="norm_in/scale" in table, norm_place=norm_place, layer_scale="blocks/layer_scale1" in table)
    return Plan(describe(weights, layout, settings, table, channels=channels, image_size=image_size), table, blocks,
                ignored, head_note, note, antialias)


def _prefix_tokens(tensors: tuple[np.ndarray, ...], width: int, count: int, first: int) -> np.ndarray:
    """Returns prefix tokens [P, D] from `count` tensors, with positions added to the first ones."""
    rows = [x.reshape(-1, width) for x in tensors]
    tokens = np.concatenate(rows[:count])
    if first:
        tokens[:first] += rows[count][:first]
    return tokens


def torch_patches(name: str, *, bias: bool = True) -> Recipes:
    """Returns the recipes of the patch embedding, from torch's convolution [D, C, p, p]; bias: it has one."""
    return {"embedding/kernel": Recipe((f"{name}.weight",), lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x))),
            "embedding/bias": Recipe((f"{name}.bias",)) if bias else _zeros((f"{name}.weight",))}


def torch_blocks(weights: Weights, start: str, *, norms: tuple[str, str], qkv: tuple[str, ...], out: str,
                 mlp: tuple[str, str], scales: tuple[str, str] = ("", "")) -> Recipes:
    """Returns the recipes of all blocks, by the names of torch's layers in a block.

    Args:
      weights: whose names are looked at.
      start: of the names of blocks, before their number.
      norms, out, mlp: two LayerNorm, the Linear after the attention, two Linear.
      qkv: the Linear of queries, keys and values, three or one; zero biases if they have none.
      scales: the LayerScale after the attention and after the MLP, which weights may lack.
    """
    block, first = f"{start}{{}}.", f"{start}0."
    layer_scale = {f"layer_scale{i}": Recipe((block + name,)) for i, name in enumerate(scales, 1)
                   if first + name in weights}
    kernels, biases = (tuple(f"{block}{name}.{part}" for name in qkv) for part in ("weight", "bias"))
    qkv_bias = Recipe(biases, lambda *x: np.concatenate(x)) if f"{first}{qkv[0]}.bias" in weights else _zeros(kernels)
    return of_blocks(
        torch_norm("norm1", block + norms[0]) | torch_norm("norm2", block + norms[1])
        | {"attention/qkv/kernel": Recipe(kernels, lambda *x: np.concatenate(x).T), "attention/qkv/bias": qkv_bias}
        | torch_linear("attention/out", block + out) | torch_linear("mlp_in", block + mlp[0])
        | torch_linear("mlp_out", block + mlp[1]) | layer_scale, "blocks", count_blocks(weights, start))


def _zeros(kernels: tuple[str, ...]) -> Recipe:
    """Returns the recipe of a zero bias for torch layers of these kernels [out, ...]."""
    return Recipe(kernels, lambda *x: np.zeros(sum(map(len, x)), np.float32))


def grid_from(image_size: Any, patch_size: int) -> tuple[int, int] | None:
    """Returns the grid (gh, gw) for a config's size, a number of pixels or [.., height, width]; None: it is neither."""
    height, width = image_size[-2:] if isinstance(image_size, list) and len(image_size) > 1 else (image_size,) * 2
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    return height // patch_size, width // patch_size
