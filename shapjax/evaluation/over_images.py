"""The devices of this process: splitting a CPU into several, and evaluation over blocks of images on all of them.

How a training run lies on devices, of many processes perhaps, is in `shapjax.layouts`.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

_AXIS = "devices"


def split_cpu(num_devices: int) -> None:
    """Splits the CPU into JAX devices. Must run before JAX's first computation; no effect on other backends.

    Small models gain: XLA runs one device a core more than twice as fast as one device over all cores.

    Args:
      num_devices: 0 = one a core that this process may use.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", num_devices or len(os.sched_getaffinity(0)))


class OverImages:
    """A function of a model and of arrays with one row an image, compiled once and run block by block on all devices.

    Attributes:
      block: images a block; the last one is filled up with copies of its last image, which are dropped again.
    """

    def __init__(self, fn: Callable[..., Any], *, block: int):
        """fn: (model, *arrays [rows, ...]) -> a pytree of arrays [rows, ...], each row depending on its own row alone;
        block: images a block, rounded up to a multiple of the devices."""
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), (_AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
        rows = PartitionSpec(_AXIS)

        def over_rows(model, arrays):
            return fn(model, *arrays)

        self._jitted = jax.jit(jax.shard_map(
            over_rows, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows, check_vma=False))
        self.block, self._compiled = -(-block // len(devices)) * len(devices), None

    def __call__(self, model: Any, *arrays: Any, done: Callable[[int], Any] = lambda images: None) -> Any:
        """The function of all images.

        Args:
          model: any pytree.
          arrays: pytrees, one row an image, all of one length n, 0 included; numpy, or jax arrays such as keys.
          done: called after each block with its number of images.

        Returns:
          the function's pytree as numpy arrays [n, ...].
        """
        n, blocks = jax.tree.leaves(arrays)[0].shape[0], []
        if n == 0:  # no row to fill a block with, but the result has its type
            shapes = jax.eval_shape(self._jitted, model, jax.tree.map(_block_shape(self.block), arrays))
            return jax.tree.map(lambda x: np.zeros((0, *x.shape[1:]), x.dtype), shapes)
        for start in range(0, n, self.block):
            index = np.minimum(np.arange(start, start + self.block), n - 1)
            share = jax.tree.map(lambda array, index=index: array[index], arrays)
            if self._compiled is None:
                self._compiled = self._jitted.lower(model, share).compile()
            blocks.append(jax.device_get(self._compiled(model, share)))
            done(min(self.block, n - start))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *blocks)

    @property
    def peak_bytes(self) -> float:
        """Bytes that a block takes on a device besides its input, as the compiler plans; NaN if unknown."""
        memory = self._compiled.memory_analysis() if self._compiled else None
        return float("nan") if memory is None else float(memory.temp_size_in_bytes + memory.output_size_in_bytes)


def _block_shape(block: int) -> Callable[[Any], jax.ShapeDtypeStruct]:
    return lambda array: jax.ShapeDtypeStruct((block, *array.shape[1:]), array.dtype)
