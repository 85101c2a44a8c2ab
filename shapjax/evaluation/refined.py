"""Explains any number of images, each with as many coalition pairs as it takes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np

from shapjax.games import classifier, outputs
from shapjax.games.classifier import Classifier
from shapjax.models import inference

IMAGES_AT_ONCE = 16  # whose pairs are on a device

_explain = jax.jit(inference.explanation)


def explanations(model: Classifier, images: np.ndarray, keys: chex.PRNGKey, numbers: Sequence[int], *,
                 tolerance: float | None, batch_size: int) -> dict[str, np.ndarray]:
    """Explains images, each with the first of some numbers of pairs that is enough.

    Args:
      model: from `inference.classifier_of`; with an error law, if there are pairs.
      images: uint8 [B, H, W, C], or floats in [0, 1].
      keys: [B], of the coalitions.
      numbers: of pairs, increasing; a larger number contains the smaller ones.
      tolerance: enough is a `largest_error` of at most that; None: the first number is.
      batch_size: images, or pairs, a forward pass.

    Returns:
      the arrays of `inference.explanation`, on the host, and pairs int [B].
    """
    rows = min(len(images), batch_size)
    parts = [_some(model, images[i : i + rows], keys[i : i + rows], numbers, tolerance, rows, batch_size)
             for i in range(0, len(images), rows)]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def largest_error(shapley: np.ndarray, standard_error: np.ndarray) -> np.ndarray:
    """Returns the largest standard error of each image over the spread (max − min) of its values: [B, ...] -> [B]."""
    axes = tuple(range(1, shapley.ndim))
    spread = shapley.max(axes) - shapley.min(axes)
    return standard_error.max(axes) / np.maximum(spread, np.finfo(np.float32).tiny)


def _some(model: Classifier, images: np.ndarray, keys: chex.PRNGKey, numbers: Sequence[int], tolerance: float | None,
          rows: int, batch_size: int) -> dict[str, np.ndarray]:
    """Explains at most `rows` images."""
    pairs_rows, known, done, out = min(rows, IMAGES_AT_ONCE), (), 0, {}
    unfinished = np.arange(len(images))
    for pairs in numbers:
        if new := pairs - done:
            ask = functools.partial(_ask, model, done=done, pairs=new, batch_size=batch_size)
            parts = _in_blocks(ask, pairs_rows, images[unfinished], keys[unfinished])
            known = tuple(np.concatenate(x, axis=1) for x in zip(known, parts, strict=True)) if known else parts
        found = _in_blocks(functools.partial(_explain, model), pairs_rows if pairs else rows, images[unfinished],
                           *known)
        found["pairs"] = np.full(len(unfinished), pairs)
        for name, values in found.items():
            out.setdefault(name, np.empty((len(images), *values.shape[1:]), values.dtype))[unfinished] = values
        if tolerance is None:
            break
        late = largest_error(found["shapley"], found["standard_error"]) > tolerance
        unfinished, known, done = unfinished[late], tuple(x[late] for x in known), pairs
        if not len(unfinished):
            break
    return out


@functools.partial(jax.jit, static_argnames=("done", "pairs", "batch_size"))
def _ask(model: Classifier, images: chex.Array, keys: chex.PRNGKey, *, done: int, pairs: int, batch_size: int
         ) -> tuple[chex.Array, chex.Array]:
    """Draws coalitions, beyond the first `done`, and evaluates them: masks [B, M, N], v(S) − v(S^c) [B, M, K]."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, done))(keys)
    return classifier.sampled_differences(model, images, keys, num_pairs=pairs, read=outputs.all_classes(),
                                          batch_size=batch_size)


def _in_blocks(fn: Callable[..., Any], rows: int, *arrays: Any) -> Any:
    """Applies fn to all rows of the arrays, so many at a time; the last ones are filled up with copies of the last row.

    Every call has one shape, so that fn is compiled once.
    """
    n = len(arrays[0])
    index = np.minimum(np.arange(-(-n // rows) * rows), n - 1).reshape(-1, rows)
    parts = [jax.device_get(fn(*(x[i] for x in arrays))) for i in index]
    return jax.tree.map(lambda *x: np.concatenate(x)[:n], *parts)
