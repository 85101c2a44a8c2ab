"""Sparseness of attributions."""

import chex
import jax.numpy as jnp


def gini(attributions: chex.Array) -> chex.Array:
    """Computes the Gini index of absolute attributions: 0 if all are equal, (N-1)/N if all but one are 0.

    Chalasani et al. 2020.

    Args:
      attributions: float [B, N].

    Returns:
      float [B]; 0 for attributions that are all 0.
    """
    n = attributions.shape[1]
    size_BN = jnp.sort(jnp.abs(jnp.asarray(attributions, jnp.float32)), axis=1)
    size_BN = size_BN / jnp.maximum(size_BN[:, -1:], jnp.finfo(jnp.float32).tiny)
    total = jnp.sum(size_BN, axis=1)
    return jnp.sum((2 * jnp.arange(1, n + 1) - n - 1) * size_BN, axis=1) / (n * jnp.where(total > 0, total, 1))
