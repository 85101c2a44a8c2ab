"""Transformer blocks: attention among all tokens, or among those that a mask allows (Vaswani et al. 2017; pre-norm)."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.models.layers import ACTIVATIONS, REMAT_POLICIES, TokenDense


class Attention(nn.Module):
    """Multi-head self-attention.

    Without delta_BHTT it is the fused attention, which never writes the attention maps; None is returned for them.
    """

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: chex.Array, attention_mask_BTT: chex.Array | None, delta_BHTT: chex.Array | None
                 ) -> tuple[chex.Array, chex.Array | None]:
        b, t, d = x_BTD.shape
        qkv = TokenDense(3 * d, dtype=self.dtype, name="qkv")(x_BTD)
        q, k, v = jnp.moveaxis(qkv.reshape(b, t, 3, self.heads, d // self.heads), 2, 0)
        mask_B1TT = None if attention_mask_BTT is None else attention_mask_BTT[:, None]
        if delta_BHTT is None:
            y, maps_BHTT = jax.nn.dot_product_attention(q, k, v, mask=mask_B1TT), None
        else:
            scores_BHTT = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
            maps_BHTT = jax.nn.softmax(scores_BHTT * q.shape[-1] ** -0.5, where=mask_B1TT) + delta_BHTT
            y = jnp.einsum("bhts,bshd->bthd", maps_BHTT.astype(v.dtype), v)
        return TokenDense(d, dtype=self.dtype, name="out")(y.reshape(b, t, d)), maps_BHTT


class Block(nn.Module):
    """A pre-norm transformer block in the form of `nn.scan`: (carry, broadcast, layer's) -> (carry, layer's)."""

    heads: int
    mlp_ratio: float
    activation: str
    norm_epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: chex.Array, attention_mask_BTT: chex.Array | None, delta_BHTT: chex.Array | None
                 ) -> tuple[chex.Array, chex.Array | None]:
        d = x_BTD.shape[-1]
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm1")(x_BTD)
        y, maps_BHTT = Attention(self.heads, self.dtype, name="attention")(y, attention_mask_BTT, delta_BHTT)
        x_BTD = x_BTD + y
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm2")(x_BTD)
        y = ACTIVATIONS[self.activation](TokenDense(round(self.mlp_ratio * d), dtype=self.dtype, name="mlp_in")(y))
        return x_BTD + TokenDense(d, dtype=self.dtype, name="mlp_out")(y), maps_BHTT


def transformer_blocks(depth: int, heads: int, mlp_ratio: float, activation: str, norm_epsilon: float, *,
                       dtype: jnp.dtype, remat: str, name: str | None = None) -> nn.Module:
    """Returns a sequence of blocks as one module.

    It takes tokens [B, T, D], an attention mask bool [B, T, T] (row t: the tokens that t attends to) or None, and
    deltas float32 [L, B, H, T, T] or None, which are added to the attention maps. It returns tokens, and the maps if
    there are deltas.

    One compiled block serves all layers: it compiles in constant time, and keeps XLA from fusing the residual stream of
    all layers into each gradient, which on CPU more than halves the time of a step.

    Args:
      depth, heads, mlp_ratio, activation, norm_epsilon: as of `vit.ViT`.
      dtype, remat: as of `backbone.Backbone`.
      name: of the parameters.
    """
    policy = REMAT_POLICIES[remat]
    block = nn.remat(Block, policy=policy, prevent_cse=False) if policy else Block
    return nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=(nn.broadcast, 0),
                   length=depth)(heads, mlp_ratio, activation, norm_epsilon, dtype, name=name)
