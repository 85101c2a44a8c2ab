"""How accuracy falls as patches go missing at random."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.games.classifier import Classifier
from shapjax.metrics import perturbation, ranking


@functools.partial(jax.jit, static_argnames="batch_size")
def random_removal(model: Classifier, images: chex.Array, labels: chex.Array, key: chex.PRNGKey, *,
                   batch_size: int = 256) -> chex.Array:
    """Whether the label is predicted without a random 0, 10 … 90 % of the patches, removed by the model's own removal.

    Args:
      model: the game.
      images: [B, H, W, C].
      labels: int [B].
      key: one typed key or [B] of them. An image's removed sets are nested, uniform at each fraction.
      batch_size: images a forward pass; bounds the memory.

    Returns:
      float32 [B, 10] of 0 and 1; column i is without `perturbation.removed_counts`[i] patches.
    """
    order = ranking.order(jnp.zeros((images.shape[0], model.num_players)), key)  # all tied: a random order
    logits = perturbation.removed_logits(model, images, order, batch_size=batch_size)
    return perturbation.correct(logits, labels).astype(jnp.float32)
