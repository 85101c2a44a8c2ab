"""The plan of a ViT's weights, which tensor goes where, as each scheme of names makes one."""

from typing import NamedTuple

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.recipes import Recipe, Recipes

READS_CLS = "the head was trained on the CLS token and now acts on the patches: fine-tune the model"


class Plan(NamedTuple):
    """Holds which tensor goes where.

    Attributes:
      layout, mean, std: as in `Architecture`.
      patch_size, channels, width: p, C, D.
      top: recipes outside of the blocks, without positions and prefix tokens; with "head" if the weights have a linear
        one that can act on tokens.
      block: recipes of a block.
      block_prefix: of the names of a block's tensors, with {} for its number.
      prefix_tokens: names of the tensors of the prefix tokens, in their order: CLS first if `class_token`.
      class_token: there is a CLS token.
      positions: name of the tensor; None: fixed ones, `positions.sincos`.
      grid: (gh, gw) of the positions according to the config beside the weights; None: unknown.
      heads: attention heads; None: unknown.
      activation, norm_epsilon, norm_place: settings of the model.
      ignored: pattern that matches, from the start, the names of tensors known to be of no use.
      head_note: as in `Converted`.
      stacked: the tensors of a block are [L, ...], those of all blocks.
    """

    layout: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    patch_size: int
    channels: int
    width: int
    top: Recipes
    block: Recipes
    block_prefix: str
    prefix_tokens: tuple[str, ...]
    class_token: bool
    positions: str | None
    grid: tuple[int, int] | None
    heads: int | None
    activation: str
    norm_epsilon: float
    ignored: str
    norm_place: str = "token"
    head_note: str = ""
    stacked: bool = False


def torch_qkv(queries_keys_values: tuple[str, str, str], *, bias: bool) -> Recipes:
    """Returns the recipes of our one product for queries, keys and values, from torch's three Linear.

    Args:
      queries_keys_values: names of the Linear.
      bias: they have biases; else ours are zero.
    """
    q, k, v = queries_keys_values
    kernel = Recipe((f"{q}.weight", f"{k}.weight", f"{v}.weight"), lambda *x: np.concatenate(x).T)
    if bias:
        return {("attention", "qkv", "kernel"): kernel,
                ("attention", "qkv", "bias"): Recipe((f"{q}.bias", f"{k}.bias", f"{v}.bias"),
                                                     lambda *x: np.concatenate(x))}
    return {("attention", "qkv", "kernel"): kernel, ("attention", "qkv", "bias"): zeros(f"{q}.weight", times=3)}


def zeros(weight: str, *, times: int = 1) -> Recipe:
    """Returns the recipe of a zero bias for a torch layer of this weight [out, ...], repeated `times` times."""
    return Recipe((weight,), lambda weight: np.zeros(times * len(weight), np.float32))


def torch_patches(name: str, *, bias: bool = True) -> Recipes:
    """Returns the recipes of the patch embedding, from torch's convolution [D, C, p, p]; bias: it has one."""
    return {("embedding", "kernel"): Recipe((f"{name}.weight",), lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x))),
            ("embedding", "bias"): Recipe((f"{name}.bias",)) if bias else zeros(f"{name}.weight")}


def torch_patch_sizes(name: str, shape: tuple[int, ...]) -> dict[str, int]:
    """Returns patch_size, channels and width of a `Plan`, from the shape of that convolution's weight."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise UserError(f"tensor {name}.weight is {list(shape)}, expected [width, channels, p, p] for square patches")
    return dict(patch_size=shape[2], channels=shape[1], width=shape[0])
