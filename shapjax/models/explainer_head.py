"""The explainer head: from a model's last features to its Shapley values, without changing a prediction.

The patch logits of the whole image make the prediction, which need not leave them free to be Shapley values. This head
sees the features of all patches and says what each patch gains or loses,

    phi(x)_n = patch_logits(x)_n + h(x)_n - mean_m h(x)_m,

so that Σ_n phi_n is the prediction, as before. The game v is made of totals of patch logits and does not know of this
head: passes of coalitions leave it out. Only the Shapley task reaches it.
"""

import math
from collections.abc import Callable

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models.blocks import Blocks
from shapjax.models.layers import PatchHead, TokenDense
from shapjax.models.transformer import Block

# Of its blocks. With two of them a ResNet-50 of 1000 classes grows from 25.6 to 27.9 million parameters.
MAX_WIDTH = 256
MAX_HEADS = 4
MLP_RATIO = 4.0
NORM_EPSILON = 1e-6


class ExplainerHead(nn.Module):
    """A few transformer blocks of a bottleneck width over the patches, and a linear head that starts at zero.

    Attributes:
      num_classes: K.
      depth: transformer blocks, of width min(D, MAX_WIDTH).
      scale, center: as of `PatchHead`.
      dtype: of the computation but for the linear head.
      dot_general, remat: as of `backbone.Backbone`.
    """

    num_classes: int
    depth: int
    scale: str
    center: bool
    dtype: jnp.dtype
    dot_general: Callable | None
    remat: str

    @nn.compact
    def __call__(self, features_BND: chex.Array) -> chex.Array:
        """Returns the part of phi beside the patch logits, float32 [B, N, K]; it sums to 0 over the patches."""
        _, n, d = features_BND.shape
        width = min(d, MAX_WIDTH)
        positions_NW = self.param("positions", nn.initializers.normal(0.02), (n, width))
        x = nn.LayerNorm(NORM_EPSILON, dtype=self.dtype, name="norm_in")(features_BND)
        x = TokenDense(width, dtype=self.dtype, dot_general=self.dot_general, name="embedding")(x)
        x = x + positions_NW.astype(self.dtype)
        settings = dict(heads=math.gcd(width, MAX_HEADS), mlp_ratio=MLP_RATIO, activation="gelu_tanh",
                        norm_epsilon=NORM_EPSILON, dtype=self.dtype, dot_general=self.dot_general)
        x, _ = Blocks(Block, settings, self.depth, self.remat, name="blocks")(x)
        # No biases from here on: subtracting the mean over the patches would remove them.
        x = nn.LayerNorm(NORM_EPSILON, use_bias=False, dtype=jnp.float32, name="norm")(x)
        h_BNK = PatchHead(self.num_classes, use_bias=False, scale=self.scale, center=self.center, name="head")(x, n)
        return h_BNK - jnp.mean(h_BNK, axis=1, keepdims=True)
