"""ConvNeXt (Liu et al. 2022) with a head on each cell of its last feature map, one cell a patch.

Its game is that of `shapjax.models.masked_conv`. The published classifier normalizes the mean of the cells;
`PooledNorm` splits that over the cells, in a coalition over the visible ones, as if these were the whole map. No
training code here.
"""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.blocks import Blocks
from shapjax.models.depthwise import DepthwiseConv
from shapjax.models.layers import ACTIVATIONS, TokenDense, final_norm
from shapjax.models.masked_conv import LayerMask, MaskedConvBackbone

EPSILON = 1e-6  # of all norms but the last
LAYER_SCALE = 1e-6  # initial scale of a block's output: nearly zero

_PUBLISHED = {"T": (96, 9), "S": (96, 27), "B": (128, 27), "L": (192, 27)}  # width, blocks of the third stage
VARIANTS = {f"ConvNeXt-{name}": dict(width=width, stages=(3, 3, blocks, 3), mlp_ratio=4.0, patch_size=32)
            for name, (width, blocks) in _PUBLISHED.items()}


class Block(nn.Module):
    """A 7x7 convolution of each channel alone, then an MLP of each cell; in the form that `blocks.Blocks` takes."""

    mlp_ratio: float
    activation: str
    dtype: jnp.dtype
    dot_general: Callable | None

    @nn.compact
    def __call__(self, x: chex.Array, layer_mask: LayerMask, _: None) -> tuple[chex.Array, None]:
        dense = functools.partial(TokenDense, dtype=self.dtype, dot_general=self.dot_general)
        d = x.shape[-1]
        y = DepthwiseConv(7, self.dtype, name="depthwise")(x)
        y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(y)
        y = ACTIVATIONS[self.activation](dense(int(self.mlp_ratio * d), name="mlp_in")(y))
        y = dense(d, name="mlp_out")(y)
        scale = self.param("layer_scale", nn.initializers.constant(LAYER_SCALE), (d,))
        return layer_mask(x + y * scale.astype(self.dtype)), None


class ConvNeXt(MaskedConvBackbone):
    """ConvNeXt as a `MaskedConvBackbone`.

    Attributes:
      width: channels of the first stage; each further stage doubles them and halves the map.
      stages: blocks of each stage. The stem has side and stride patch_size / 2^(stages - 1): 4 as published.
      mlp_ratio: hidden width of a block's MLP over its channels.
      activation: of the MLPs, a key of `layers.ACTIVATIONS`.
      norm_epsilon: of the last norm; the others' is `EPSILON`.
      norm_place: of the last norm, one of `layers.NORM_PLACES`; "pooled" as published.
      the others as of `Backbone`.
    """

    width: int = 96
    stages: tuple[int, ...] = (3, 3, 9, 3)
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    norm_place: str = "pooled"

    def check(self) -> None:
        super().check()
        stages = tuple(self.stages)
        if not stages or min(stages) < 1:
            raise ValueError(f"stages={stages}: expected at least one block a stage")
        if self.patch_size % (unit := 2 ** (len(stages) - 1)):
            raise ValueError(f"patch_size={self.patch_size} with stages={stages}: expected a multiple of "
                             f"2^(stages - 1) = {unit} pixels")

    def setup(self):
        self.setup_heads()
        self.norm = final_norm(self.norm_place, epsilon=self.norm_epsilon)
        stem, norms, reductions, stages = self.patch_size // 2 ** (len(self.stages) - 1), [], [], []
        for stage, count in enumerate(self.stages):
            size, width = 2 if stage else stem, self.width * 2**stage
            reductions.append(nn.Conv(width, (size, size), (size, size), "VALID", dtype=self.dtype,
                                      name=f"stage{stage}_reduction"))
            norms.append(nn.LayerNorm(EPSILON, dtype=self.dtype, name=f"stage{stage}_norm"))
            settings = dict(mlp_ratio=self.mlp_ratio, activation=self.activation, dtype=self.dtype,
                            dot_general=self.dot_general)
            stages.append(Blocks(Block, settings, count, self.remat, name=f"stage{stage}_blocks"))
        self.norms, self.reductions, self.blocks = norms, reductions, stages

    def feature_map(self, images: chex.Array, layer_mask: LayerMask) -> chex.Array:
        # The stem reduces, then normalizes; between stages it is the reverse.
        x, _ = self.blocks[0](layer_mask(self.norms[0](self.reductions[0](images))), layer_mask)
        for norm, reduction, blocks in zip(self.norms[1:], self.reductions[1:], self.blocks[1:], strict=True):
            x, _ = blocks(layer_mask(reduction(norm(x))), layer_mask)
        return x
