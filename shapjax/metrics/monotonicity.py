"""Monotonicity: does every patch help, from the least to the most important?"""

import chex
import jax.numpy as jnp

from shapjax.metrics.perturbation import Curves, target_log_probability


def monotonicity(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """1 if p_target never falls as patches are revealed, least important first (Arya et al. 2019), else 0.

    As there, the first value is with one patch visible, not with none.

    Args:
      curves: of an order, most important first.
      targets: int [B]; ŷ by default.

    Returns:
      float32 [B].
    """
    p = jnp.exp(target_log_probability(curves, targets).deleted)
    revealed = p[:, -2::-1]  # without the first N-1 of the order (the least important alone) … without none
    return jnp.all(jnp.diff(revealed, axis=1) >= 0, axis=1).astype(jnp.float32)
