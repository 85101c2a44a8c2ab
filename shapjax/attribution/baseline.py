"""The two ends of every comparison: attributions that know nothing, and those that the model gives itself."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution.arguments import check_arguments
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.passes import in_passes


@functools.partial(jax.jit, static_argnames="batch_size")
def random(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256
           ) -> chex.Array:
    """Independent uniform numbers: the floor of every metric.

    Args:
      model: only its grid is used.
      images: [B, H, W, C].
      targets: ignored, as is batch_size.
      key: one, or [B].

    Returns:
      float32 [B, N], in [0, 1).

    Raises:
      UserError: if an argument does not fit.
    """
    check_arguments(images, targets, key=key, batch_size=batch_size)
    draw = functools.partial(jax.random.uniform, shape=(model.num_players,))
    return jax.vmap(draw)(row_keys(key, images.shape[0]))


@functools.partial(jax.jit, static_argnames="batch_size")
def phi(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
        batch_size: int = 256) -> chex.Array:
    """The votes of a self-explaining model for the target class, in logits: one forward pass an image.

    Args:
      model: with `phi_fn`.
      images: [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward pass.

    Returns:
      float32 [B, N].

    Raises:
      UserError: if the model does not explain itself, or an argument does not fit.
    """
    check_arguments(images, targets, batch_size=batch_size)

    def votes(images: chex.Array, targets: chex.Array) -> chex.Array:
        return jnp.take_along_axis(model.phi(images), targets[:, None, None], axis=2)[..., 0]

    return in_passes(votes, images, targets, batch_size=batch_size)
