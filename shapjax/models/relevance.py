"""Layer-wise relevance propagation: operations whose derivative is a relevance rule.

Each function computes what its name says, but hands relevance back where the gradient would go. `jax.vjp` of a network
written with them, given the relevance of its outputs, returns that of its inputs; relevances of a value that is used
twice add up, as gradients do. The rules are those of Chefer, Gur and Wolf, "Transformer Interpretability Beyond
Attention Visualization" (CVPR 2021), sections 3.1 and 3.2, as in the authors' modules/layers_ours.py with alpha = 1.
All of them conserve relevance: what the inputs receive sums to what the outputs had. Parameters receive none.
"""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

STABILIZER = 1e-9  # added to denominators, away from zero


def _divide(numerator: chex.Array, denominator: chex.Array) -> chex.Array:
    """Divides elementwise; returns 0 where the denominator is 0: there is no input to pass relevance to."""
    away = denominator + jnp.where(denominator < 0, -STABILIZER, STABILIZER)
    return jnp.where(denominator == 0, 0.0, numerator / away)


@jax.custom_vjp
def linear(x: chex.Array, kernel: chex.Array, bias: chex.Array) -> chex.Array:
    """Computes x @ kernel + bias, x [..., D], kernel [D, E]. Inputs get relevance in proportion to positive terms.

    R_d = Σ_e (x_d w_de)⁺ / Σ_d' (x_d' w_d'e)⁺ · R_e: section 3.1, the rule for layers whose inputs have both signs
    (the z⁺ rule, taking in the terms where both factors are negative). The bias takes no share.
    """
    return x @ kernel + bias


def _linear_forward(x: chex.Array, kernel: chex.Array, bias: chex.Array):
    return linear(x, kernel, bias), (x, kernel)


def _linear_backward(saved: tuple, relevance: chex.Array):
    x, kernel = saved
    x_up, x_down = jnp.maximum(x, 0), jnp.minimum(x, 0)
    kernel_up, kernel_down = jnp.maximum(kernel, 0), jnp.minimum(kernel, 0)
    share = _divide(relevance, x_up @ kernel_up + x_down @ kernel_down)
    return x_up * (share @ kernel_up.T) + x_down * (share @ kernel_down.T), None, None


linear.defvjp(_linear_forward, _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(spec: str, a: chex.Array, b: chex.Array) -> chex.Array:
    """Computes jnp.einsum(spec, a, b) of activations. Each gets half of the relevance, in proportion to its terms.

    R^a_j = ½ Σ_i a_j ∂z_i/∂a_j R_i / z_i, and so for b: section 3.2. Without the half each would receive all of it,
    and relevance would double.
    """
    return jnp.einsum(spec, a, b)


def _product_forward(spec: str, a: chex.Array, b: chex.Array):
    out = product(spec, a, b)
    return out, (a, b, out)


def _product_backward(spec: str, saved: tuple, relevance: chex.Array):
    a, b, out = saved
    _, pullback = jax.vjp(functools.partial(jnp.einsum, spec), a, b)
    to_a, to_b = pullback(_divide(relevance, out))
    return a * to_a / 2, b * to_b / 2


product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def add(a: chex.Array, b: chex.Array) -> chex.Array:
    """Computes a + b [B, ...], a residual connection. Splits relevance in proportion, then corrects each part's total.

    R^a = a / (a + b) · R and R^b likewise; where a and b have opposite signs these grow without bound, so each is
    scaled, image by image, to the total |ΣR^a| / (|ΣR^a| + |ΣR^b|) · ΣR: section 3.2.
    """
    return a + b


def _add_forward(a: chex.Array, b: chex.Array):
    return a + b, (a, b)


def _add_backward(saved: tuple, relevance: chex.Array):
    a, b = saved
    share = _divide(relevance, a + b)
    parts = (a * share, b * share)
    total = functools.partial(jnp.sum, axis=tuple(range(1, a.ndim)), keepdims=True)
    size_a, size_b = (jnp.abs(total(part)) for part in parts)
    return tuple(part * _divide(_divide(size, size_a + size_b) * total(relevance), total(part))
                 for part, size in zip(parts, (size_a, size_b), strict=True))


add.defvjp(_add_forward, _add_backward)


def elementwise(fn: Callable[[chex.Array], chex.Array], x: chex.Array) -> chex.Array:
    """Computes fn(x), of the shape of x: softmax, GELU, layer norm. Passes relevance unchanged, as their code does."""
    return _instead(x, jax.lax.stop_gradient(fn(x)))


@jax.custom_vjp
def _instead(x: chex.Array, y: chex.Array) -> chex.Array:
    """Returns y; its relevance goes to x."""
    return y


_instead.defvjp(lambda x, y: (y, None), lambda _, relevance: (relevance, None))
