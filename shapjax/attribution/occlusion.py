"""Occlusion (Zeiler & Fergus 2014) on patches: one patch hidden, or one patch shown."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution.arguments import check_arguments
from shapjax.games.classifier import Classifier, target_class, values


@functools.partial(jax.jit, static_argnames=("batch_size", "output"))
def leave_one_out(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                  batch_size: int = 256, output: str = "logit") -> chex.Array:
    """What the target class loses when a patch is hidden: v(all) - v(all without n).

    Args:
      model: the game; it costs N+1 coalitions an image.
      images: [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: coalitions a forward pass.
      output: a key of `classifier.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      UserError: if an argument does not fit.
    """
    check_arguments(images, targets, batch_size=batch_size, output=output)
    # Row 0 is the whole image, row 1+n lacks patch n.
    masks = ~jnp.eye(model.num_players + 1, model.num_players, k=-1, dtype=bool)
    v_BM = values(model, images, masks, read=target_class(targets, output), batch_size=batch_size)
    return v_BM[:, :1] - v_BM[:, 1:]


@functools.partial(jax.jit, static_argnames=("batch_size", "output"))
def include_one(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                batch_size: int = 256, output: str = "logit") -> chex.Array:
    """What the target class gains when a patch is shown alone: v({n}) - v(∅).

    Arguments, cost, result and errors as those of `leave_one_out`.
    """
    check_arguments(images, targets, batch_size=batch_size, output=output)
    # Row 0 is the empty coalition, row 1+n has patch n alone.
    masks = jnp.eye(model.num_players + 1, model.num_players, k=-1, dtype=bool)
    v_BM = values(model, images, masks, read=target_class(targets, output), batch_size=batch_size)
    return v_BM[:, 1:] - v_BM[:, :1]
