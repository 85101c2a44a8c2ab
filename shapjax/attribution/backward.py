"""What the methods that differentiate a model share: the scalar that they differentiate, and passes of a few rows."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp


def target_sum(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """The target classes' logits, summed over the images.

    Images do not influence one another, so the sum's gradient with respect to one image is that of its own logit.

    Args:
      logits: [B, K].
      targets: int [B].
    """
    return jnp.sum(jnp.take_along_axis(logits, targets[:, None], axis=1))


def in_passes(fn: Callable, *arrays: chex.Array, batch_size: int) -> Any:
    """fn of at most `batch_size` rows of the arrays at a time, in a compiled loop.

    Args:
      fn: of arrays with R rows, gives arrays with R rows.
      arrays: B rows each.
      batch_size: R; bounds the memory.

    Returns:
      what fn gives of all B rows.
    """
    b = arrays[0].shape[0]
    rows = min(batch_size, b)
    passes = -(-b // rows)
    index = jnp.minimum(jnp.arange(passes * rows), b - 1).reshape(passes, rows)  # the last pass repeats the last row
    out = jax.lax.map(lambda row: fn(*(x[row] for x in arrays)), index)
    return jax.tree.map(lambda x: x.reshape(passes * rows, *x.shape[2:])[:b], out)
