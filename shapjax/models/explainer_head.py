"""A second head that turns votes into Shapley values, and changes no total.

By linearity the Shapley value of a patch has two parts. Its *own* part is its vote, averaged over the contexts that it
could be seen in; the rest is what its presence does to the votes of others:

    phi_n = own_n + spill_n,    own_n = E_S[votes(x_{S∪n})_n],
                                spill_n = E_S[Σ_{m∈S} (votes(x_{S∪n})_m - votes(x_S)_m)]

with S of every size alike, without n. The votes of the whole image, which make the prediction, are neither. This head
sees the feature maps of the whole image and says how the two differ from the votes,

    phi(x)_n = votes(x)_n + moves(x)_n,    Σ_n moves(x)_n = 0,

so that the prediction is the sum of phi, as before, and the game v, which is made of totals, does not know of it: the
passes of coalitions leave it out.

Why two parts: the Shapley task learns from one number a coalition and class, the own part from the vote of every patch
(`losses.own_loss`), which the passes of coalitions have made anyway. The same votes also say whose presence moved them:
the head predicts the `effects` t[m, n] of near patches on each other's votes, and as a patch m is in half of all
contexts, spill_n = ½ Σ_m t[m, n], exactly if votes are linear in who is seen. What they are not is learned by the
Shapley task alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.layers import PatchHead, TokenDense
from shapjax.models.transformer import transformer_blocks

REMAT = "dots"  # of `layers.REMAT_POLICIES`: in a loop over blocks, keeping everything takes a third longer on a CPU
MAX_CELLS = 2  # a side, of a feature map in a patch; finer maps are averaged to this


class Allocation(NamedTuple):
    """What an `AllocationHead` says.

    Attributes:
      own: float32 [B, N, K], the own parts less the votes.
      rest: float32 [B, N, K], what phi has besides own parts and effects, up to its mean over patches.
      effects: float32 [B, gh, gw, 2r+1, 2r+1, K], see `shapjax.effects`; None where the head's reach is 0.
    """

    own: chex.Array
    rest: chex.Array
    effects: chex.Array | None


class AllocationHead(nn.Module):
    """Feature maps to what votes gain or lose: a small transformer over the patches, which starts from nothing.

    The last map alone knows what a patch votes, less of why: what it would vote in other contexts is easier to say for
    those who also see the earlier maps.

    Attributes:
      num_classes: K.
      grid: patches down and across.
      depth: transformer blocks, of the width of the last map.
      reach: of effects, in patches down and across; 0: none are predicted.
      heads, mlp_ratio, activation, norm_epsilon, dtype: of the blocks, as of `vit.ViT`.
      scale, center: as of `PatchHead`.
    """

    num_classes: int
    grid: tuple[int, int]
    depth: int
    reach: int
    heads: int
    mlp_ratio: float
    activation: str
    norm_epsilon: float
    scale: str
    center: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, maps: Sequence[chex.Array]) -> Allocation:
        """Maps [B, h, w, D], each of one or more cells a patch, the last of one."""
        (gh, gw), d, n = self.grid, maps[-1].shape[-1], self.grid[0] * self.grid[1]
        positions_ND = self.param("positions", nn.initializers.normal(0.02), (n, d))
        cells = [nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name=f"norm_in{number}")(_by_patch(x, self.grid))
                 for number, x in enumerate(maps)]
        x = TokenDense(d, dtype=self.dtype, name="embedding")(jnp.concatenate(cells, axis=-1))
        x, _ = transformer_blocks(self.depth, self.heads, self.mlp_ratio, self.activation, self.norm_epsilon,
                                  dtype=self.dtype, remat=REMAT, name="blocks")(
                                      x + positions_ND.astype(self.dtype), None, None)
        x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(x)
        own, rest = (PatchHead(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros,
                                scale=self.scale, center=self.center, name=name) for name in ("own", "moves"))
        effects = None
        if self.reach:
            side = 2 * self.reach + 1
            effects = TokenDense(side**2 * self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros,
                                 name="effects")(x).astype(jnp.float32)
            effects = own.follow(effects.reshape(-1, gh, gw, side, side, self.num_classes), n)
        return Allocation(own(x, n), rest(x, n), effects)


def _by_patch(x: chex.Array, grid: tuple[int, int]) -> chex.Array:
    """A map [B, h, w, D] as what lies in each patch, [B, N, D·cells]."""
    (gh, gw), (h, w, d) = grid, x.shape[1:]
    side = min(h // gh, MAX_CELLS)
    if h // gh > side:
        pool = (h // gh // side, w // gw // side)
        x = nn.avg_pool(x, pool, strides=pool)
    return x.reshape(-1, gh, side, gw, side, d).swapaxes(2, 3).reshape(-1, gh * gw, side * side * d)
