"""Infidelity: do attributions, summed over removed patches, equal what their removal costs?"""

import chex
import jax.numpy as jnp

from shapjax.games.checks import require_shape
from shapjax.metrics.correlation import attribution_sums


def infidelity(attributions: chex.Array, masks: chex.Array, full: chex.Array, without: chex.Array, *,
               normalize: bool = False) -> chex.Array:
    """Mean over S of (Σ_{n∈S} a_n - (p_ŷ(x) - p_ŷ(x without S)))² (Yeh et al. 2019, definition 2.1); lower is better.

    The perturbation is the removal of S, and a_n the worth of patch n itself: Yeh's product of a gradient with a
    difference of pixels is already inside it. The same masks and values serve `correlation.faithfulness_correlation`.

    Args:
      attributions: float [B, N].
      masks: bool [B, M, N] or [M, N], the *removed* patches.
      full: float [B], p_ŷ(x), or any other output.
      without: float [B, M], the same output without S.
      normalize: scale each image's attributions by the factor that makes its infidelity smallest (section 4 there), so
        that methods whose units are not those of the output can be compared. Attributions of 0 stay as they are.

    Returns:
      float [B], squared units of the output.

    Raises:
      UserError: if the shapes do not fit.
    """
    sums = attribution_sums(attributions, masks)
    require_shape("values without S", without, sums.shape, "images, coalitions")
    require_shape("values of whole images", full, sums.shape[:1], "images")
    drop = full[:, None] - without
    if normalize:
        square = jnp.sum(sums**2, axis=1, keepdims=True)
        sums = sums * jnp.sum(sums * drop, axis=1, keepdims=True) / jnp.where(square > 0, square, 1)
    return jnp.mean((sums - drop) ** 2, axis=1)
