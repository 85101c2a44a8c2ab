"""Work on many rows, a bounded number of them at a time, in one compiled loop."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from shapjax.games.checks import require_positive


def in_passes(fn: Callable, *arrays: chex.Array, batch_size: int, count: chex.Array | None = None) -> Any:
    """Applies `fn` to all rows of the arrays, at most `batch_size` of them at a time.

    (`lax.map(batch_size=…)` compiles `fn` a second time for the rows that are left over.)

    Args:
      fn: takes arrays with R rows each and returns a pytree of arrays with R rows.
      arrays: B rows each, B of at least 1.
      batch_size: R is no larger; at least 1; bounds the memory.
      count: int, how many of the rows count, known when the program runs. Passes wholly beyond them are not run, and
        the results of the other rows mean nothing. None: all.

    Returns:
      what `fn` returns, of all B rows.

    Raises:
      ValueError: if there are no rows, or batch_size is below 1.
    """
    arrays = [jnp.asarray(x) for x in arrays]
    b = arrays[0].shape[0]
    require_positive(**{"the number of rows": b}, batch_size=batch_size)
    passes = -(-b // batch_size)
    rows = -(-b // passes)  # alike in all passes, so that few are left over
    index = jnp.minimum(jnp.arange(passes * rows), b - 1).reshape(passes, rows)  # the last pass repeats the last row

    def one_pass(row: chex.Array) -> Any:
        return fn(*(x[row] for x in arrays))

    def one_if_there(row: chex.Array) -> Any:
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_pass, row))
        return jax.lax.cond(row[0] < count, one_pass, lambda row: nothing, row)

    out = jax.lax.map(one_pass if count is None else one_if_there, index)
    return jax.tree.map(lambda x: x.reshape(passes * rows, *x.shape[2:])[:b], out)


def distinct(image_R: chex.Array, masks_RN: chex.Array) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Finds the rows that differ, so that rows that are the same can be evaluated once.

    Args:
      image_R: int [R].
      masks_RN: bool [R, N]; rows of the same image and mask are the same.

    Returns:
      which rows to evaluate, int32 [R], of which the first `count` count; the place of each row's value among these,
      int32 [R]; count, int32.
    """
    rows, n = masks_RN.shape
    bits = jnp.pad(masks_RN, ((0, 0), (0, -n % 32))).reshape(rows, -1, 32).astype(jnp.uint32)
    words = jnp.sum(bits << jnp.arange(32, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)
    codes = jnp.concatenate([words, image_R[:, None].astype(jnp.uint32)], axis=1)
    order_R = jnp.lexsort(codes.T).astype(jnp.int32)
    differs = jnp.any(jnp.diff(codes[order_R].astype(jnp.int32), axis=0) != 0, axis=1)
    sorted_R = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), differs]), dtype=jnp.int32)
    place_R = jnp.zeros(rows, jnp.int32).at[order_R].set(sorted_R)
    return jnp.zeros(rows, jnp.int32).at[sorted_R].set(order_R), place_R, sorted_R[-1] + 1
