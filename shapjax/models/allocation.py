"""A second head that turns votes into Shapley values, and changes no total.

By linearity the Shapley value of a patch has two parts. Its *own* part is its vote, averaged over the contexts that it
could be seen in; the rest is what its presence does to the votes of others:

    phi_n = own_n + spill_n,    own_n = E_S[votes(x_{S∪n})_n],
                                spill_n = E_S[Σ_{m∈S} (votes(x_{S∪n})_m - votes(x_S)_m)]

with S of every size alike, without n. The votes of the whole image, which make the prediction, are neither. This head
sees the features of all patches and says how the two differ from the votes,

    phi(x)_n = votes(x)_n + moves(x)_n,    Σ_n moves(x)_n = 0,

so that the prediction is the sum of phi, as before, and the game v, which is made of totals, does not know of it: the
passes of coalitions leave it out.

Why two parts: the Shapley task learns from one number a coalition and class, the own part from the vote of every patch
(`losses.own_loss`), which the passes of coalitions have made anyway.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.layers import TokenDense, VotingHead
from shapjax.models.transformer import transformer_blocks

REMAT = "dots"  # of `layers.REMAT_POLICIES`: in a loop over blocks, keeping everything takes a third longer on a CPU


class AllocationHead(nn.Module):
    """Features of all patches to what their votes gain or lose: a small transformer, which starts from nothing.

    Attributes:
      num_classes: K.
      depth: transformer blocks.
      heads, mlp_ratio, activation, norm_epsilon, dtype: of the blocks, as of `vit.ViT`.
      scale, center: as of `VotingHead`.
    """

    num_classes: int
    depth: int
    heads: int
    mlp_ratio: float
    activation: str
    norm_epsilon: float
    scale: str
    center: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, cells_BND: chex.Array) -> tuple[chex.Array, chex.Array]:
        """[B, N, D] -> float32 [B, N, K] twice: own - votes, and what phi has besides, up to its mean over patches."""
        n, d = cells_BND.shape[1:]
        positions_ND = self.param("positions", nn.initializers.normal(0.02), (n, d))
        x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm_in")(cells_BND)
        x = TokenDense(d, dtype=self.dtype, name="embedding")(x) + positions_ND.astype(self.dtype)
        x, _ = transformer_blocks(self.depth, self.heads, self.mlp_ratio, self.activation, self.norm_epsilon,
                                  dtype=self.dtype, remat=REMAT, name="blocks")(x, None, None)
        x = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm")(x)
        return tuple(
            VotingHead(self.num_classes, dtype=self.dtype, kernel_init=nn.initializers.zeros, scale=self.scale,
                       center=self.center, name=name)(x, n) for name in ("own", "moves"))
