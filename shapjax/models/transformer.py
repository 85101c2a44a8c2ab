"""Transformer blocks: attention among all tokens, or among those that a mask allows (Vaswani et al. 2017; pre-norm)."""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.models.attention import attend
from shapjax.models.layers import ACTIVATIONS, TokenDense


class Attention(nn.Module):
    """Multi-head self-attention.

    Returns the result, and the attention maps after the softmax and delta_BHTT; without delta_BHTT, None for the maps.
    """

    heads: int
    dtype: jnp.dtype
    dot_general: Callable | None

    @nn.compact
    def __call__(self, x_BTD: chex.Array, attention_mask_BTT: chex.Array | None, delta_BHTT: chex.Array | None
                 ) -> tuple[chex.Array, chex.Array | None]:
        b, t, d = x_BTD.shape
        dense = functools.partial(TokenDense, dtype=self.dtype, dot_general=self.dot_general)
        qkv = dense(3 * d, name="qkv")(x_BTD)
        q, k, v = (part.reshape(b, t, self.heads, d // self.heads) for part in jnp.split(qkv, 3, axis=-1))
        if delta_BHTT is None:
            y, maps_BHTT = attend(q, k, v, attention_mask_BTT), None
        else:
            mask_B1TT = None if attention_mask_BTT is None else attention_mask_BTT[:, None]
            scores_BHTT = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
            maps_BHTT = jax.nn.softmax(scores_BHTT * q.shape[-1] ** -0.5, where=mask_B1TT) + delta_BHTT
            y = jnp.einsum("bhts,bshd->bthd", maps_BHTT.astype(v.dtype), v)
        return dense(d, name="out")(y.reshape(b, t, d)), maps_BHTT


class Block(nn.Module):
    """A pre-norm transformer block, in the form that `blocks.Blocks` takes.

    It takes tokens [B, T, D], an attention mask bool [B, T, T] (row t: the tokens that t attends to) or None, and a
    delta float32 [B, H, T, T] or None, which is added to the attention maps. It returns tokens, and the maps if there
    is a delta.

    Attributes:
      heads, mlp_ratio, activation, norm_epsilon, layer_scale: as of `vit.ViT`.
      dtype, dot_general: as of `backbone.Backbone`.
    """

    heads: int
    mlp_ratio: float
    activation: str
    norm_epsilon: float
    dtype: jnp.dtype
    dot_general: Callable | None
    layer_scale: bool = False

    @nn.compact
    def __call__(self, x_BTD: chex.Array, attention_mask_BTT: chex.Array | None, delta_BHTT: chex.Array | None
                 ) -> tuple[chex.Array, chex.Array | None]:
        dense = functools.partial(TokenDense, dtype=self.dtype, dot_general=self.dot_general)
        d = x_BTD.shape[-1]
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm1")(x_BTD)
        attention = Attention(self.heads, self.dtype, self.dot_general, name="attention")
        y, maps_BHTT = attention(y, attention_mask_BTT, delta_BHTT)
        x_BTD = x_BTD + self.scaled(y, "layer_scale1")
        y = nn.LayerNorm(self.norm_epsilon, dtype=self.dtype, name="norm2")(x_BTD)
        y = ACTIVATIONS[self.activation](dense(round(self.mlp_ratio * d), name="mlp_in")(y))
        return x_BTD + self.scaled(dense(d, name="mlp_out")(y), "layer_scale2"), maps_BHTT

    def scaled(self, y_BTD: chex.Array, name: str) -> chex.Array:
        """Multiplies each channel by a parameter, if there is a LayerScale (Touvron et al. 2021)."""
        if not self.layer_scale:
            return y_BTD
        return y_BTD * self.param(name, nn.initializers.ones, y_BTD.shape[-1:]).astype(self.dtype)
