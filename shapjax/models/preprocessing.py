"""From stored pixels to the model's input, on the device: the same function in training, evaluation and explanation."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp


def normalize(images: chex.Array, mean: Sequence[float], std: Sequence[float]) -> chex.Array:
    """Scales pixels to [0, 1] and standardizes each channel.

    Args:
      images: [..., H, W, C], uint8, or floats that are in [0, 1] already.
      mean: C floats, in units of [0, 1].
      std: C floats, in units of [0, 1].

    Returns:
      float32 [..., H, W, C].

    Raises:
      ValueError: on other integers, whose range cannot be known.
    """
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"the images are {images.dtype}, expected uint8, or floats in [0, 1]")
    scale = 1 / 255 if images.dtype == jnp.uint8 else 1.0
    return (images.astype(jnp.float32) * scale - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
