"""Runs a function of a model and images block by block on all devices, of all processes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

_AXIS = "devices"


class OverImages:
    """A function of a model and of arrays with one row an image, compiled once and run block by block on all devices.

    Attributes:
      block: images a block of this process; the last one is filled up with copies of its last image, which are
        dropped again.
    """

    def __init__(self, fn: Callable[..., Any], *, block: int):
        """Args:
          fn: (model, *arrays [rows, ...]) -> a pytree of arrays [rows, ...], each row depending on its own row alone.
          block: images a block, rounded up to a multiple of this process's devices.
        """
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
        rows = PartitionSpec(_AXIS)
        self._jitted = jax.jit(jax.shard_map(
            lambda model, arrays: fn(model, *arrays), mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows,
            check_vma=False))
        self.block, self._compiled = -(-block // len(devices)) * len(devices), None

    def __call__(self, model: Any, *arrays: Any, done: Callable[[int], Any] = lambda images: None) -> Any:
        """Returns the function's value for all images. Several processes share the work, and all get the whole.

        Args:
          model: any pytree.
          arrays: pytrees, one row an image, all of one length n, 0 included; numpy, or jax arrays such as keys; the
            same in all processes.
          done: called after each block with its number of images, in all processes.

        Returns:
          the function's pytree as numpy arrays [n, ...].
        """
        n, count = jax.tree.leaves(arrays)[0].shape[0], jax.process_count()
        if n == 0 or count == 1:
            return self.local(model, *arrays, done=done)
        first, share = jax.process_index() * self._share(n), self._share(n)
        index = np.minimum(np.arange(first, first + share), n - 1)
        own = self.local(model, *jax.tree.map(lambda array: array[index], arrays), done=lambda m: done(m * count))
        whole = multihost_utils.process_allgather(own)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], whole)

    def local(self, model: Any, *arrays: Any, done: Callable[[int], Any] = lambda images: None) -> Any:
        """Does as `__call__`, in this process alone."""
        n, blocks = jax.tree.leaves(arrays)[0].shape[0], []
        if n == 0:  # no row to fill a block with, but the result has its type
            shapes = jax.eval_shape(self._jitted, model, jax.tree.map(self._shape, arrays))
            return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)
        self.compile(model, *arrays)
        for start in range(0, n, self.block):
            index = np.minimum(np.arange(start, start + self.block), n - 1)
            share = jax.tree.map(lambda array, index=index: array[index], arrays)
            blocks.append(jax.device_get(self._compiled(model, share)))
            done(min(self.block, n - start))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *blocks)

    def rows(self, n: int) -> int:
        """Returns how many rows this process computes for n images; parts and last blocks are filled up."""
        return -(-self._share(n) // self.block) * self.block

    def _share(self, n: int) -> int:
        return -(-n // jax.process_count())

    def compile(self, model: Any, *arrays: Any) -> None:
        """Compiles the function for a model and arrays of these shapes, unless it is; later calls can be timed."""
        if self._compiled is None:
            self._compiled = self._jitted.lower(model, jax.tree.map(self._shape, arrays)).compile()

    @property
    def peak_bytes(self) -> float:
        """Returns the bytes that a block takes on a device besides its input, as the compiler plans; NaN if unknown."""
        memory = self._compiled.memory_analysis() if self._compiled else None
        return float("nan") if memory is None else float(memory.temp_size_in_bytes + memory.output_size_in_bytes)

    def _shape(self, array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.block, *array.shape[1:]), array.dtype)


def default_batch_size() -> int:
    """Returns images, or coalition pairs, a forward pass on a device: 64 on a CPU, 512 on an accelerator."""
    return 64 if jax.default_backend() == "cpu" else 512
