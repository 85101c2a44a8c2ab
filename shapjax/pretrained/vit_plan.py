"""What a scheme of names says of a ViT's weights: which tensor goes where."""

from typing import NamedTuple

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.recipes import Recipe, Recipes

READS_CLS = "its head read the CLS token and now reads the patches: fine-tune"


class Plan(NamedTuple):
    """Which tensor goes where.

    Attributes:
      layout, mean, std: of `Architecture`.
      patch_size, channels, width: p, C, D.
      top: recipes outside of the blocks, but for positions and prefix tokens; with "head" where the weights have a
        linear one that can act on tokens.
      block: recipes of a block.
      block_prefix: of the names of a block's tensors, with {} for its number.
      silent: tensors of the tokens that do not vote, in their order: CLS first if `class_token`.
      class_token: whether there is a CLS token.
      positions: the tensor; None: fixed ones, `positions.sincos`.
      grid: of the positions, as far as the config beside the weights tells it, or None.
      heads, activation, norm_epsilon, norm_place: of `config.model`; heads: None where nothing tells them.
      ignored: a pattern of names, from their start, that are known to be of no use.
      head_note: of `Converted`.
      stacked: a block's tensors are those of all blocks, [L, ...].
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
    silent: tuple[str, ...]
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
    """Our one product for queries, keys and values from torch's three Linear; bias: whether these have one."""
    q, k, v = queries_keys_values
    kernel = Recipe((f"{q}.weight", f"{k}.weight", f"{v}.weight"), lambda *x: np.concatenate(x).T)
    if bias:
        return {("attention", "qkv", "kernel"): kernel,
                ("attention", "qkv", "bias"): Recipe((f"{q}.bias", f"{k}.bias", f"{v}.bias"),
                                                     lambda *x: np.concatenate(x))}
    return {("attention", "qkv", "kernel"): kernel, ("attention", "qkv", "bias"): zeros(f"{q}.weight", times=3)}


def zeros(weight: str, *, times: int = 1) -> Recipe:
    """The bias that a torch layer of this weight [out, ...] goes without, so many times over."""
    return Recipe((weight,), lambda weight: np.zeros(times * len(weight), np.float32))


def torch_patches(name: str, *, bias: bool = True) -> Recipes:
    """The embedding of patches from torch's convolution [D, C, p, p]; bias: whether it has one."""
    return {("embedding", "kernel"): Recipe((f"{name}.weight",), lambda x: x.transpose(2, 3, 1, 0).reshape(-1, len(x))),
            ("embedding", "bias"): Recipe((f"{name}.bias",)) if bias else zeros(f"{name}.weight")}


def torch_patch_sizes(name: str, shape: tuple[int, ...]) -> dict[str, int]:
    """patch_size, channels and width of a `Plan` from the shape of that convolution's weight."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise UserError(f"tensor {name}.weight is {list(shape)}, expected [width, channels, p, p] for square patches")
    return dict(patch_size=shape[2], channels=shape[1], width=shape[0])
