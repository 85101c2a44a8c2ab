"""Work on many rows, a bounded number of them at a time, in one compiled loop."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from shapjax.errors import UserError


def in_passes(fn: Callable, *arrays: chex.Array, batch_size: int) -> Any:
    """`fn` of at most `batch_size` rows of the arrays at a time.

    Args:
      fn: of arrays with R rows each, gives a pytree of arrays with R rows.
      arrays: B rows each, B of at least 1.
      batch_size: R, at least 1; bounds the memory.

    Returns:
      what fn gives of all B rows.

    Raises:
      UserError: if there are no rows, or none at a time.
    """
    b = arrays[0].shape[0]
    if b < 1 or batch_size < 1:
        raise UserError(f"{b} rows were given to work on, {batch_size} at a time: expected at least 1 of each")
    rows = min(batch_size, b)
    passes = -(-b // rows)
    index = jnp.minimum(jnp.arange(passes * rows), b - 1).reshape(passes, rows)  # the last pass repeats the last row
    out = jax.lax.map(lambda row: fn(*(x[row] for x in arrays)), index)
    return jax.tree.map(lambda x: x.reshape(passes * rows, *x.shape[2:])[:b], out)
