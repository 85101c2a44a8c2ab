"""ConvNeXt (Liu et al. 2022) whose last feature map casts the votes: one cell a patch, the patches being the players.

The game is that of `shapjax.models.painted`. Its classifier as published normalizes the mean of the cells; `PooledNorm`
shares that out to the cells, of a coalition to the visible ones, as if these were the whole map. No training code here.
"""

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.depthwise import DepthwiseConv
from shapjax.models.layers import ACTIVATIONS, REMAT_POLICIES, TokenDense, final_norm
from shapjax.models.masked_conv import LayerMask, PaintedBackbone

EPSILON = 1e-6  # of all norms but the last
LAYER_SCALE = 1e-6  # that blocks start from: hardly there

_PUBLISHED = {"T": (96, 9), "S": (96, 27), "B": (128, 27), "L": (192, 27)}  # width, blocks of the third stage
VARIANTS = {f"ConvNeXt-{name}": dict(width=width, stages=(3, 3, blocks, 3), mlp_ratio=4.0, patch_size=32)
            for name, (width, blocks) in _PUBLISHED.items()}


class Block(nn.Module):
    """A 7x7 convolution of each channel alone, then an MLP of each cell; in the form that `nn.scan` wants."""

    mlp_ratio: float
    activation: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: chex.Array, shown: LayerMask) -> tuple[chex.Array, None]:
        d = x.shape[-1]
        y = DepthwiseConv(7, self.dtype, name="depthwise")(x)
        y = nn.LayerNorm(EPSILON, dtype=self.dtype, name="norm")(y)
        y = ACTIVATIONS[self.activation](TokenDense(int(self.mlp_ratio * d), dtype=self.dtype, name="mlp_in")(y))
        y = TokenDense(d, dtype=self.dtype, name="mlp_out")(y)
        scale = self.param("layer_scale", nn.initializers.constant(LAYER_SCALE), (d,))
        return shown(x + y * scale.astype(self.dtype)), None


class ConvNeXt(PaintedBackbone):
    """ConvNeXt as a `PaintedBackbone`.

    Attributes:
      width: channels of the first stage; each further stage doubles them and halves the map.
      stages: blocks of each stage. What patch_size leaves of 2^(stages - 1) is the side and stride of the stem: 4 as
        published.
      mlp_ratio: hidden width of a block's MLP over its channels.
      activation: of the MLPs, a key of `layers.ACTIVATIONS`.
      norm_epsilon: of the last norm; the others' is `EPSILON`.
      norm_place: of the last norm, one of `layers.NORM_PLACES`; "pooled" as published.
      the others as of `PaintedBackbone`.
    """

    width: int = 96
    stages: tuple[int, ...] = (3, 3, 9, 3)
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    norm_place: str = "pooled"

    variants = VARIANTS

    @staticmethod
    def fault(sizes: Any) -> str | None:
        stages = tuple(sizes.stages)
        if not stages or min(stages) < 1 or sizes.patch_size % 2 ** (len(stages) - 1):
            return (f"model.stages={stages} with model.patch_size={sizes.patch_size}: expected at least one block a "
                    "stage, and patches of a multiple of 2^(stages - 1) pixels")
        return PaintedBackbone.heads_fault(sizes, sizes.width * 2 ** (len(stages) - 1))

    def setup(self):
        self.head, self.allocation = self.patch_head(), self.allocation_head()
        self.norm = final_norm(self.norm_place, epsilon=self.norm_epsilon, dtype=self.dtype)
        policy = REMAT_POLICIES[self.remat]
        block = nn.remat(Block, policy=policy, prevent_cse=False) if policy else Block
        stem, before, reductions, stages = self.patch_size // 2 ** (len(self.stages) - 1), [], [], []
        for stage, count in enumerate(self.stages):
            size, width = 2 if stage else stem, self.width * 2**stage
            reductions.append(nn.Conv(width, (size, size), (size, size), "VALID", dtype=self.dtype,
                                      name=f"stage{stage}_reduction"))
            before.append(nn.LayerNorm(EPSILON, dtype=self.dtype, name=f"stage{stage}_norm"))
            # One compiled block a stage: up to 27 are alike.
            scanned = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
                              length=count)
            stages.append(scanned(self.mlp_ratio, self.activation, self.dtype, name=f"stage{stage}_blocks"))
        self.norms, self.reductions, self.blocks = before, reductions, stages

    def feature_maps(self, images: chex.Array, shown: LayerMask) -> list[chex.Array]:
        # The stem reduces, then normalizes; between stages it is the reverse.
        stem = x = shown(self.norms[0](self.reductions[0](images)))
        x, _ = self.blocks[0](x, shown)
        for norm, reduction, blocks in zip(self.norms[1:], self.reductions[1:], self.blocks[1:], strict=True):
            x, _ = blocks(shown(reduction(norm(x))), shown)
        return [stem, x]

    def last_norm(self, cells_BND: chex.Array, mask_BN: chex.Array | None) -> chex.Array:
        return self.norm(cells_BND, mask_BN)
