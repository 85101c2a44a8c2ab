"""ROAD, remove and debias (Rong et al. 2022): accuracy when removed patches are imputed from their surroundings."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.games import classifier
from shapjax.games.classifier import Classifier
from shapjax.games.removal import NoisyLinear
from shapjax.metrics import perturbation


@functools.partial(jax.jit, static_argnames=("batch_size", "imputation"))
def road(model: Classifier, images: chex.Array, order: chex.Array, targets: chex.Array, *, batch_size: int = 256,
         imputation: NoisyLinear = NoisyLinear()) -> chex.Array:  # noqa: B008 (frozen)
    """Whether the target class is still predicted without the first 0, 10 … 90 % of an order.

    Whatever the model's own removal is, removed patches are imputed here: filled in so that their outline says little
    about what was removed.

    Args:
      model: only its `logits` are used.
      images: [B, H, W, C].
      order: int [B, N], most important first (MoRF, lower is better); reversed, `order[:, ::-1]`, least important first
        (LeRF, higher is better).
      targets: int [B].
      batch_size: images a forward pass; bounds the memory.
      imputation: and its noise, in the units of the images.

    Returns:
      float32 [B, 10] of 0 and 1; ROAD is the mean over images, and over the columns from the second on.
    """
    imputed = classifier.painted(model, imputation)
    logits = perturbation.removed_logits(imputed, images, order, batch_size=batch_size)
    return perturbation.correct(logits, targets).astype(jnp.float32)
