"""Layers that the backbones share: products and norms of tokens, the head."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

# Factor on the patch logits, by N. It decides how far a step of the head's weights moves the prediction: 1/√N learns
# fastest from scratch; with 1/N the sum of the patch logits is the usual mean-pooled classifier.
HEAD_SCALES = {"sqrt": lambda n: n**-0.5, "mean": lambda n: 1.0 / n}
# Activations of an MLP: GELU (Hendrycks and Gimpel 2016) by its tanh approximation, exact, or as x·σ(1.702 x).
ACTIVATIONS = {"gelu_tanh": nn.gelu, "gelu": lambda x: nn.gelu(x, approximate=False),
               "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x)}
NORM_PLACES = ("token", "pooled")  # of the last norm: on each token, or as if on the mean of the tokens


@jax.custom_vjp
def bfloat16_product(x_RD: chex.Array, kernel_DF: chex.Array) -> chex.Array:
    """Returns the product float32 [R, F] of float32 matrices, whose elements are multiplied as bfloat16.

    Sums are float32, and the gradients' products are formed likewise. Processors with AVX512_BF16 are twice as fast at
    it as in float32, those with AMX several times, where the left operand's rows lie contiguous. For the gradient of
    the kernel that operand is x transposed; it is copied so, and the layout keeps XLA from undoing the copy.
    """
    return _product(x_RD.astype(jnp.bfloat16), kernel_DF.astype(jnp.bfloat16))


def _product(left: chex.Array, right: chex.Array) -> chex.Array:
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _product_forward(x_RD: chex.Array, kernel_DF: chex.Array) -> tuple[chex.Array, tuple[chex.Array, chex.Array]]:
    operands = x_RD.astype(jnp.bfloat16), kernel_DF.astype(jnp.bfloat16)
    return _product(*operands), operands


def _product_gradients(operands: tuple[chex.Array, chex.Array], gradient_RF: chex.Array
                       ) -> tuple[chex.Array, chex.Array]:
    x_RD, kernel_DF = operands
    gradient_RF = gradient_RF.astype(jnp.bfloat16)
    x_DR = with_layout_constraint(x_RD.T, Layout(major_to_minor=(0, 1)))
    return _product(gradient_RF, kernel_DF.T), _product(x_DR, gradient_RF)


bfloat16_product.defvjp(_product_forward, _product_gradients)


def bfloat16_dot_general(x_RD: chex.Array, kernel_DF: chex.Array, *_: Any, **__: Any) -> chex.Array:
    """Is `bfloat16_product` in the form of `nn.Dense.dot_general`, for `TokenDense`."""
    return bfloat16_product(x_RD, kernel_DF)


class TokenDense(nn.Dense):
    """`nn.Dense` on [B, T, D] as one product of B·T rows.

    The gradient of the kernel then contracts one axis instead of two, which is half again as fast on a CPU.

    The logical axis "rows" says that rows stay on the devices that hold them, however the weights are split; it
    has no effect until a layout gives it a meaning (`nn.logical_axis_rules`).
    """

    def __call__(self, x_BTD: chex.Array) -> chex.Array:
        x = nn.with_logical_constraint(x_BTD.reshape(-1, x_BTD.shape[-1]), ("rows", None))
        y = nn.with_logical_constraint(super().__call__(x), ("rows", None))
        return y.reshape(*x_BTD.shape[:-1], -1)


class PatchHead(TokenDense):
    """The linear layer from a patch's token to its logits. It starts at zero: the game v = 0.

    It computes in float32 whatever the backbone does, and without the shortened products that are an accelerator's
    default (bfloat16 on a TPU, TF32 on a GPU): sums of patch logits have to equal the prediction.

    Attributes:
      features: K.
      scale: a key of `HEAD_SCALES`.
      center: make each patch's logits sum to zero over the classes. Probabilities do not change; without it the game
        has a part common to all classes that no label ever fixes.
    """

    kernel_init: Any = nn.initializers.zeros
    dtype: Any = jnp.float32
    precision: Any = jax.lax.Precision.HIGHEST
    scale: str = "sqrt"
    center: bool = True

    def __call__(self, x_BTD: chex.Array, num_patches: int) -> chex.Array:
        """Returns patch logits float32 [B, T, K] of tokens [B, T, D], all or some of an image's N = num_patches."""
        return self.follow(super().__call__(x_BTD), num_patches)

    def follow(self, x: chex.Array, num_patches: int) -> chex.Array:
        """Applies scale and centering, both linear, to the product with the kernel, [..., K]."""
        x = x * HEAD_SCALES[self.scale](num_patches)
        return x - jnp.mean(x, axis=-1, keepdims=True) if self.center else x


class PooledNorm(nn.Module):
    """Layer norm of the tokens' mean, split over the tokens: the mean of the results is LayerNorm(mean of tokens).

    A classifier that pools, then normalizes, then multiplies by its head has no patch logits as it stands. But
    LayerNorm(m) = γ (m - mean(m)) / σ(m) + β is linear in m once σ(m) is known, so each token is divided by the spread
    of the mean of the tokens in its segment. Computes in float32, sums in full precision.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x_BTD: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        """Returns float32 [B, T, D]; segment_ids are bool [B, T], or None for one segment."""
        d = x_BTD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones, (d,))
        bias_D = self.param("bias", nn.initializers.zeros, (d,))
        x = x_BTD.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)

        def factor_B11(member_BT1: chex.Array) -> chex.Array:
            count_B1 = jnp.maximum(jnp.sum(member_BT1, axis=1), 1)
            pooled_BD = jnp.sum(jnp.where(member_BT1, x, 0), axis=1) / count_B1
            return jax.lax.rsqrt(jnp.mean(jnp.square(pooled_BD), axis=-1) + self.epsilon)[:, None, None]

        if segment_ids is None:
            factor = factor_B11(jnp.ones((*x.shape[:2], 1), bool))
        else:
            factor = jnp.where(segment_ids[..., None], factor_B11(segment_ids[..., None]),
                               factor_B11(~segment_ids[..., None]))
        return x * factor * scale_D + bias_D


class TokenNorm(nn.LayerNorm):
    """`nn.LayerNorm` with the arguments of `PooledNorm`. It normalizes each token by itself and ignores segments."""

    def __call__(self, x_BTD: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        return super().__call__(x_BTD)


def final_norm(place: str, *, epsilon: float) -> nn.Module:
    """Returns the norm before the head, (tokens [B, T, D], segment_ids) -> float32 [B, T, D].

    Args:
      place: one of `NORM_PLACES`.
      epsilon: added to the variance.
    """
    return PooledNorm(epsilon=epsilon) if place == "pooled" else TokenNorm(epsilon=epsilon, dtype=jnp.float32)
