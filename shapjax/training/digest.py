"""Digests of arrays that may be split over devices and processes: each process digests what it holds, and parts add up.

The digest of an array is the sum of its numbers' bits, as unsigned integers, each times a weight, modulo 2^64. The
weight is odd and fixed by the number's place: the product of one weight a coordinate. One changed number always
changes the digest; any other change does but for a chance of about 2^-60. How the array is split changes nothing.
"""

import concurrent.futures
from collections.abc import Sequence

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils


def digests(tree: chex.ArrayTree) -> dict[str, str]:
    """Returns a digest of each array by its place, "params/head/bias"; in every process the same.

    Args:
      tree: arrays on the host, or on devices. If those of other processes are among them, all processes call this.
    """
    places, arrays = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # numpy computes without Python's lock
        found = np.array(list(pool.map(_own_part, arrays)), np.uint64)
    if not all(getattr(x, "is_fully_addressable", True) for x in arrays):  # JAX knows no 64 bits by default
        parts = multihost_utils.process_allgather(found.view(np.uint32))
        found = np.ascontiguousarray(parts).view(np.uint64).sum(axis=0)
    names = [jax.tree_util.keystr(place, simple=True, separator="/") for place in places]
    return {name: f"{x:016x}" for name, x in zip(names, found.tolist(), strict=True)}


def _own_part(x: chex.Array) -> int:
    """Returns the part of an array's digest that this process's shards give, the first copy of each."""
    shards = [(x, (slice(None),) * np.ndim(x))]
    if isinstance(x, jax.Array):
        shards = [(shard.data, shard.index) for shard in x.addressable_shards if shard.replica_id == 0]
    return sum(_part(np.asarray(data), index, np.shape(x)) for data, index in shards) % 2**64


def _part(x: np.ndarray, index: Sequence[slice], shape: Sequence[int]) -> int:
    """Returns the sum over the part `x` that lies at `index` of an array of this shape."""
    total = x.view(f"u{x.itemsize}")
    for axis in reversed(range(x.ndim)):
        total = np.einsum("...i,i->...", total, _weights(axis, shape[axis])[index[axis]])
    return int(total)


def _weights(axis: int, size: int) -> np.ndarray:
    """Returns odd uint64 [size], as good as random (Steele, Lea, Flood 2014: SplitMix)."""
    x = (np.arange(size, dtype=np.uint64) + np.uint64((axis + 1) << 48)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
