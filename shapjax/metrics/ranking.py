"""Rankings of patches."""

import chex
import jax
import jax.numpy as jnp

from shapjax.games.classifier import row_keys


def order(attributions: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Patches from the most to the least important; ties are broken at random, never by patch order.

    Args:
      attributions: float [B, N], finite (`checks.require_finite`).
      key: one typed key or [B] of them (`classifier.row_keys`).

    Returns:
      int32 [B, N], each row a permutation of the patches.
    """
    draw_BN = jax.vmap(lambda k: jax.random.uniform(k, attributions.shape[1:]))(row_keys(key, attributions.shape[0]))
    return jnp.lexsort((draw_BN, -attributions), axis=-1)


def ranks(order: chex.Array) -> chex.Array:
    """Place of each patch in its row's order, 0 = first: int [B, N], the inverse permutations of `order` [B, N]."""
    places = jnp.arange(order.shape[1])
    return jax.vmap(lambda row: jnp.zeros_like(row).at[row].set(places, unique_indices=True))(order)
