"""Rankings of patches."""

import chex
import jax
import jax.numpy as jnp

from shapjax.games.classifier import row_keys

TIES = 0x7135  # folded into an image's key


def order(attributions: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Ranks patches from the most to the least important; ties are broken at random, never by patch order.

    Args:
      attributions: float [B, N], finite (`checks.require_finite`).
      key: one typed key or [B] of them (`classifier.row_keys`). A key folded from it draws the ties, so that they are
        independent of what else was drawn with it, such as random attributions.

    Returns:
      int32 [B, N], each row a permutation of the patches.
    """
    b, n = attributions.shape
    draw_BN = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, TIES), (n,), jnp.float32))(row_keys(key, b))
    return jnp.lexsort((draw_BN, -attributions), axis=-1)


def ranks(order: chex.Array) -> chex.Array:
    """Returns the place of each patch in its row's order, 0 = first: the inverse permutations, int [B, N]."""
    return jnp.argsort(order, axis=1)
