"""References of every comparison: random attributions, and phi, the model's own."""

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution import deterministic
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.contract import of_images


@of_images("batch_size")
def random(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256
           ) -> chex.Array:
    """Draws independent uniform numbers: the floor of every metric.

    Args:
      model: only its grid is used.
      images: [B, H, W, C].
      targets: int [B]; ignored.
      key: one, or [B].
      batch_size: ignored.

    Returns:
      float32 [B, N], in [0, 1).

    Raises:
      ValueError: if an argument does not fit.
    """
    keys = row_keys(key, images.shape[0])
    return jax.vmap(lambda key: jax.random.uniform(key, (model.num_players,), jnp.float32))(keys)


@deterministic.method
def phi(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Returns phi of a self-explaining model for the target class, in logits: one forward pass an image.

    Args:
      model: with `phi_fn`.
      images: [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward pass.

    Returns:
      float32 [B, N].

    Raises:
      ValueError: if the model does not explain itself, or an argument does not fit.
    """
    return jnp.take_along_axis(model.phi(images), targets[:, None, None], axis=2)[..., 0]
