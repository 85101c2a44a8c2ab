"""Layouts of a training run on devices: a copy of the state on each, or one state split over them.

Both layouts run the same step. Each process hands in its share of the batch. States go to checkpoints and come back in
one form, so that a run saved in one layout goes on in the other.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import chex
import jax
import numpy as np
from flax import jax_utils
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from shapjax.training.step import TrainState

AXIS = "devices"  # the name over which gradients and metrics are averaged under `jax.pmap`
MIN_SPLIT = 1024  # numbers; splitting a smaller array costs more messages than it saves bytes

Step = Callable[..., tuple[TrainState, dict[str, chex.Array]]]  # (state, batch, *, axis_name)
Sums = Callable[[chex.ArrayTree, chex.ArrayTree], chex.ArrayTree]  # (params, batch) -> sums over the batch's rows


class Layout(Protocol):
    """Places a run's arrays on devices and compiles its functions there.

    Attributes:
      num_devices: over which the global batch is split.
    """

    num_devices: int

    def init(self, init_fn: Callable[..., TrainState], *arrays: chex.ArrayTree) -> TrainState:
        """Returns, on the devices, the state that `init_fn` makes of arrays on the host, the same in each process."""
        ...

    def step(self, step: Step) -> Callable[..., tuple[TrainState, dict[str, chex.Array]]]:
        """Compiles a step: (state, batch) -> state, metrics for `fetch`. The memory of the old state is reused."""
        ...

    def shapes(self, state: chex.ArrayTree, batch: chex.ArrayTree) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        """Returns the shapes of a compiled step's arguments (`jax.ShapeDtypeStruct`), given a state's and a batch's."""
        ...

    def sums(self, fn: Sums) -> Callable[..., chex.ArrayTree]:
        """Compiles (params of the state, batch of `batch`) -> fn's sums over the global batch, for `fetch`."""
        ...

    def batch(self, arrays: chex.ArrayTree) -> chex.ArrayTree:
        """Returns this process's rows [b, ...] of a batch, on the devices."""
        ...

    def fetch(self, scalars: chex.ArrayTree) -> chex.ArrayTree:
        """Returns scalars that all devices agree on, on the host."""
        ...

    def template(self, shapes: chex.ArrayTree) -> chex.ArrayTree:
        """Returns `jax.ShapeDtypeStruct`s, with which a state of these shapes is read from a checkpoint."""
        ...

    def to_checkpoint(self, state: TrainState) -> TrainState:
        """Returns the state as a checkpoint takes it: one value an array, whatever the layout."""
        ...

    def from_checkpoint(self, state: TrainState) -> TrainState:
        """Inverts `to_checkpoint`."""
        ...


class Replicated:
    """Keeps a copy of the state on each device, by `jax.pmap`; gradients are averaged over `AXIS`."""

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        """Takes the devices, others than all of this run's only to lower a step for them."""
        self._devices, self.num_devices = devices, len(devices or jax.devices())
        self._local = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        self._copies = NamedSharding(Mesh(np.array(_devices()), (AXIS,)), PartitionSpec())

    def init(self, init_fn: Callable[..., TrainState], *arrays: chex.ArrayTree) -> TrainState:
        return _replicate(jax.jit(init_fn)(*arrays))

    def step(self, step: Step) -> Callable[..., Any]:
        return jax.pmap(functools.partial(step, axis_name=AXIS), axis_name=AXIS, devices=self._devices,
                        donate_argnums=0)

    def shapes(self, state: chex.ArrayTree, batch: chex.ArrayTree) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        n = self.num_devices
        return (jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape), x.dtype), state),
                jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, x.shape[0] // n, *x.shape[1:]), x.dtype), batch))

    def sums(self, fn: Sums) -> Callable[..., Any]:
        return jax.pmap(lambda params, batch: jax.lax.psum(fn(params, batch), AXIS), axis_name=AXIS)

    def batch(self, arrays: chex.ArrayTree) -> chex.ArrayTree:
        n = jax.local_device_count()
        return jax.device_put(jax.tree.map(lambda x: x.reshape(n, len(x) // n, *x.shape[1:]), arrays), self._local)

    def fetch(self, scalars: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_get(jax.tree.map(_own, scalars))

    def template(self, shapes: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._copies), shapes)

    def to_checkpoint(self, state: TrainState) -> TrainState:
        # The devices' copies under one name: each process writes a part of them.
        return jax.tree.map(lambda x: jax.make_array_from_single_device_arrays(
            x.shape[1:], self._copies, [shard.data[0] for shard in x.addressable_shards]), state)

    def from_checkpoint(self, state: TrainState) -> TrainState:
        return _replicate(jax.tree.map(lambda x: x.addressable_data(0), state))


class FullyShared:
    """Splits one state over devices, by `jax.jit` on a mesh: fully sharded data parallelism (Rajbhandari et al. 2020).

    Every array of at least `MIN_SPLIT` numbers is cut along its longest axis that can be; XLA gathers a block's weights
    when it is their turn. With fewer devices a copy than there are devices, the copies share the batch.
    """

    def __init__(self, devices_a_copy: int = 0, devices: Sequence[jax.Device] | None = None):
        """Takes the number of devices that share one copy of the state, a divisor of all; 0: all. Else ValueError."""
        devices = _devices(devices)
        self.num_devices, self._split = len(devices), devices_a_copy or len(devices)
        if self.num_devices % self._split:
            fitting = [n for n in range(1, self.num_devices + 1) if self.num_devices % n == 0]
            raise ValueError(f"fsdp_devices={self._split} does not divide the {self.num_devices} devices; use one of "
                             f"{', '.join(map(str, fitting))}, or 0 for all")
        self._mesh = Mesh(np.array(devices).reshape(-1, self._split), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
        self._rows = NamedSharding(self._mesh, PartitionSpec(("data", "fsdp")))
        self._whole = NamedSharding(self._mesh, PartitionSpec())

    def sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """Returns where the parts of an array lie."""
        axes = [i for i, size in enumerate(shape) if size % self._split == 0]
        if not axes or np.prod(shape) < MIN_SPLIT:
            return self._whole
        longest = max(axes, key=lambda i: (shape[i], i))
        return NamedSharding(self._mesh, PartitionSpec(*[None] * longest, "fsdp"))

    def _shardings(self, tree: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda x: self.sharding(x.shape), tree)

    def init(self, init_fn: Callable[..., TrainState], *arrays: chex.ArrayTree) -> TrainState:
        # Each device is sent its own part of the arrays only.
        parts = jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, self.sharding(x.shape), x.__getitem__),
                             arrays)
        return jax.jit(init_fn, out_shardings=self._shardings(jax.eval_shape(init_fn, *arrays)))(*parts)

    def step(self, step: Step) -> Callable[..., Any]:
        def constrained(state: TrainState, batch: chex.ArrayTree) -> tuple[TrainState, dict[str, chex.Array]]:
            with self._rows_stay():
                state, metrics = step(state, batch, axis_name=None)
            return jax.lax.with_sharding_constraint(state, self._shardings(state)), metrics

        return jax.jit(constrained, donate_argnums=0)

    def shapes(self, state: chex.ArrayTree, batch: chex.ArrayTree) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        return self.template(state), jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._rows), batch)

    def sums(self, fn: Sums) -> Callable[..., Any]:
        def constrained(params: chex.ArrayTree, batch: chex.ArrayTree) -> chex.ArrayTree:
            with self._rows_stay():
                return fn(params, batch)

        return jax.jit(constrained, out_shardings=self._whole)

    @contextmanager
    def _rows_stay(self) -> Iterator[None]:
        """Keeps activations split as the batch is, while a model is traced; weights come to them. Left to itself, XLA
        splits activations as the weights are, and sends them around in every block."""
        with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
            with nn.logical_axis_rules((("rows", ("data", "fsdp")),)):
                yield

    def batch(self, arrays: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, self._rows), arrays)

    def fetch(self, scalars: chex.ArrayTree) -> chex.ArrayTree:
        return jax.device_get(scalars)

    def template(self, shapes: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding(x.shape)), shapes)

    def to_checkpoint(self, state: TrainState) -> TrainState:
        return state

    def from_checkpoint(self, state: TrainState) -> TrainState:
        return state


def make_layout(parallel: str, *, fsdp_devices: int = 0, devices: Sequence[jax.Device] | None = None) -> Layout:
    """Returns the layout of a name: "pmap" (`Replicated`) or "fsdp" (`FullyShared`, fsdp_devices a copy; 0: all).

    With other devices than all of this run's, its steps can only be lowered.

    Raises:
      ValueError: on another name, or devices that cannot be dealt out so; "key=value: …".
    """
    if parallel == "pmap":
        return Replicated(devices)
    if parallel == "fsdp":
        return FullyShared(fsdp_devices, devices)
    raise ValueError(f"parallel={parallel}: expected one of pmap, fsdp")


def _devices(devices: Sequence[jax.Device] | None = None) -> list[jax.Device]:
    """Returns all devices, those of a process together: a process's rows of the batch are then its devices'."""
    return sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))


def _replicate(tree: chex.ArrayTree) -> chex.ArrayTree:
    # The layout is that of the step's result: any other would compile the step a second time.
    return jax_utils.replicate(tree, axis_name=AXIS)


def _own(x: chex.Array) -> chex.Array:
    """Returns the first of a replicated array's copies that this process holds."""
    return x.addressable_data(0)[0]
