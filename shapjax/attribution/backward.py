"""What the methods that differentiate a model differentiate."""

import chex
import jax.numpy as jnp


def target_sum(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """The target classes' logits, summed over the images.

    Images do not influence one another, so the sum's gradient with respect to one image is that of its own logit.

    Args:
      logits: [B, K].
      targets: int [B].
    """
    return jnp.sum(jnp.take_along_axis(logits, targets[:, None], axis=1))
