"""Tells what a step of a run takes of its devices: memory, operations, messages. Nothing is computed."""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import types
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies

from shapjax.errors import UserError
from shapjax.models import blocks
from shapjax.training import sharding
from shapjax.training.loop import Run

UTILIZATION = 0.4  # of the peak, a fair training speed of ViTs on accelerators


class Chip(NamedTuple):
    """Holds of an accelerator its name in JAX, operations a second (peak, dense, of bfloat16), and bytes of memory."""

    kind: str
    flops: float
    memory: float

    @property
    def platform(self) -> str:
        """Returns JAX's name of its platform."""
        return "tpu" if self.kind.startswith("TPU") else "gpu"


CHIPS = {"v5e": Chip("TPU v5 lite", 197e12, 16e9), "v5p": Chip("TPU v5", 459e12, 95e9),
         "v6e": Chip("TPU v6 lite", 918e12, 32e9), "A100": Chip("NVIDIA A100-SXM4-80GB", 312e12, 80e9),
         "H100": Chip("NVIDIA H100 80GB HBM3", 989e12, 80e9), "H200": Chip("NVIDIA H200", 989e12, 141e9)}


def chip_of(device: jax.Device) -> str | None:
    """Returns the name of a device in `CHIPS`, or None."""
    return next((name for name, chip in CHIPS.items() if chip.kind == device.device_kind), None)


class Plan(NamedTuple):
    """Holds what a step takes; bytes are a device's.

    Attributes:
      num_params: parameters of the model.
      num_devices: that share the batch.
      batch_size: images a step, over all devices.
      flops: operations a step, over all devices; with what is computed again for the gradient.
      state, batch: bytes that lie there from step to step, and of the step's images.
      temporary: bytes besides, as the compiler plans them.
      collectives: number a step of each operation between devices.
      refusal: the compiler's words, if it finds too little memory; then it plans nothing.
    """

    num_params: int
    num_devices: int
    batch_size: int
    flops: float
    state: int
    batch: int
    temporary: int = 0
    collectives: Mapping[str, int] = types.MappingProxyType({})
    refusal: str = ""


def make(run: Run, layout: sharding.Layout) -> Plan:
    """Compiles the joint step of a run by shapes alone, and reads off what it takes.

    Args:
      run: made for as many devices as the layout has.
      layout: its devices need not be there.
    """
    state, batch = jax.eval_shape(run.init_state), batch_shapes(run)
    lowered = layout.step(run.step).lower(*layout.shapes(state, batch))
    plan = Plan(run.num_params, layout.num_devices, run.meta.config.optim.batch_size, step_flops(run),
                _bytes(layout.template(state)), _bytes(batch) // layout.num_devices)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return plan._replace(refusal=str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0].rstrip("."))
    m = compiled.memory_analysis()
    total = (m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
             + m.generated_code_size_in_bytes)
    return plan._replace(temporary=total - plan.state - plan.batch, collectives=collectives(compiled.as_text()))


def _bytes(tree: chex.ArrayTree) -> int:
    """Returns the bytes of arrays; of placed ones, those of a device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape) if x.sharding else x.shape) * x.dtype.itemsize
               for x in jax.tree.leaves(tree))


def batch_shapes(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a step's global batch."""
    rows = (run.meta.config.optim.batch_size,)
    return {"image": jax.ShapeDtypeStruct(rows + run.meta.image_shape, jnp.uint8),
            "label": jax.ShapeDtypeStruct(rows, jnp.int32), "index": jax.ShapeDtypeStruct(rows, jnp.int32)}


def step_flops(run: Run, **kind: bool) -> float:
    """Counts the floating-point operations of a step over all devices (XLA's count), what is computed again included.

    XLA counts the body of a loop once; so here, and only here, there is no loop over blocks or parts of a batch.

    Args:
      run: of the step.
      kind: arguments of `Run.step`, as in `loop.phases`.
    """
    run = dataclasses.replace(run, settings=run.settings._replace(accumulate=1))
    with blocks.traced_for("cpu"):
        lowered = jax.jit(functools.partial(run.step, **kind)).lower(jax.eval_shape(run.init_state), batch_shapes(run))
    return lowered.cost_analysis()["flops"]


_COMPUTATION = re.compile(r"(?:ENTRY )?%([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_LOOP = re.compile(r" while\(.* condition=%([\w.-]+), body=%([\w.-]+)")
_CALLED = re.compile(r"(?:calls|branch_computations|true_computation|false_computation)=(\{.*?\}|%[\w.-]+)")
_LIMIT = re.compile(r"%([\w.-]+) = s32\[\]\S* constant\((\d+)\)")


def collectives(program: str) -> dict[str, int]:
    """Counts the operations between devices of one run of a compiled program, by their names.

    A TPU's compiler may cut one into parts that share a channel, each in a fusion with what is computed meanwhile.

    Args:
      program: HLO, as `jax.stages.Compiled.as_text` gives it.

    Returns:
      {name: number}. Those in a loop count as often as it runs; once, if that depends on data. Of branches, one runs.
    """
    lines, name = {}, ""
    for line in program.splitlines():
        if begin := _COMPUTATION.match(line):
            name = "" if line.startswith("ENTRY") else begin[1]
        lines.setdefault(name, []).append(line)

    def runs(condition: str) -> int:
        (root,) = (set(re.findall(r"%([\w.-]+)", line)) for line in lines[condition] if "ROOT" in line)
        return next((int(n) for constant, n in _LIMIT.findall("\n".join(lines[condition])) if constant in root), 1)

    @functools.cache
    def count(name: str) -> Counter:
        found = Counter()
        for number, line in enumerate(lines[name]):
            if operation := _COLLECTIVE.search(line):
                channel = _CHANNEL.search(line)
                found[operation[1], channel and channel[1], f"{name} {number}"] = 1
            if loop := _LOOP.search(line):
                found.update({key: runs(loop[1]) * n for key, n in count(loop[2]).items()})
            for callee in re.findall(r"%([\w.-]+)", " ".join(_CALLED.findall(line))):
                found |= Counter({(operation, channel, "parts" if channel else place): n
                                  for (operation, channel, place), n in count(callee).items()})
        return found

    total = Counter()
    for (operation, *_), number in count("").items():
        total[operation] += number
    return dict(sorted(total.items()))


def topology(chip: str, count: int) -> list[jax.Device]:
    """Returns the devices of a TPU slice, for which libtpu compiles on any machine; [] where it is not installed.

    Args:
      chip: a key of `CHIPS`; of a GPU: [].
      count: of the devices.

    Raises:
      ValueError: if there is no slice of so many.
    """
    if CHIPS[chip].platform != "tpu" or importlib.util.find_spec("libtpu") is None:
        return []
    if count & (count - 1):
        raise ValueError(f"devices={count}: slices of {chip} have 1, 2, 4, 8, … chips")
    for name, value in {"TPU_ACCELERATOR_TYPE": f"{chip}-{count}", "TPU_WORKER_HOSTNAMES": "localhost",
                        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}.items():
        os.environ.setdefault(name, value)  # else libtpu complains that it finds no TPU, or that another uses it
    sides = slice_sides(chip, count)
    host = {} if count >= 4 else {"chips_per_host_bounds": [*sides, 1][:3]}  # by default 4 chips
    try:
        return topologies.get_topology_desc(f"{chip}:{'x'.join(map(str, sides))}", platform="tpu", **host).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"devices={count}: {str(error).splitlines()[0]}") from error


def slice_sides(chip: str, count: int) -> list[int]:
    """Returns how many chips a slice of a power of two of them has along each axis of its torus: 2, of a v5p 3."""
    axes, exponent = 3 if chip == "v5p" else 2, count.bit_length() - 1
    sides = [2 ** ((exponent + i) // axes) for i in range(axes)]
    return sorted(sides, key=lambda side: (side == 1, side))


def describe(plan: Plan, config: ml_collections.ConfigDict, chip: str | None) -> str:
    """Returns lines for people; with the name of a chip, its memory, and the speed at `UTILIZATION` of its peak."""
    besides = "too many temporary arrays" if plan.refusal else f"{plan.temporary / 1e9:.2f} GB of temporary arrays"
    lines = [f"model       {plan.num_params:,} parameters",
             f"a step      {plan.batch_size:,} images, {plan.flops / 1e12:,.1f} TFLOP, "
             f"{plan.flops / plan.batch_size / 1e9:,.1f} GFLOP an image",
             f"a device    {plan.state / 1e9:.2f} GB of state, {plan.batch / 1e9:.2f} GB of images, {besides}"]
    if not plan.refusal:
        messages = ", ".join(f"{n:,} {name}" for name, n in plan.collectives.items()) or "nothing"
        lines.append(f"sent        {messages}, a step, between {plan.num_devices} devices")
    if chip:
        steps = UTILIZATION * CHIPS[chip].flops * plan.num_devices / plan.flops
        lines.append(f"speed       {steps * plan.batch_size:,.0f} images/s, {steps:.2f} steps/s, "
                     f"{config.optim.steps / steps / 3600:,.1f} hours for {config.optim.steps:,} steps, at "
                     f"{UTILIZATION:.0%} of the peak of {chip} ({CHIPS[chip].flops / 1e12:.0f} TFLOP/s)")
    return "\n".join(lines)


def require_fit(plan: Plan, config: ml_collections.ConfigDict, chip: str) -> None:
    """Raises UserError if a chip's memory is too small for a step; says what would make it smaller."""
    total, memory, c = plan.state + plan.batch + plan.temporary, CHIPS[chip].memory, config
    if not plan.refusal and total <= memory:
        return
    what = plan.refusal or f"it takes {total / 1e9:.1f} GB a device, and {chip} has {memory / 1e9:.0f} GB"
    parts, split = 2 * c.optim.accumulate, c.run.fsdp_devices or plan.num_devices
    large, fsdp = plan.state > memory / 8, c.run.parallel == "fsdp"
    helps = {"--config.run.parallel=fsdp": large and not fsdp and plan.num_devices > 1,
             f"--config.run.fsdp_devices={2 * split}": large and fsdp and split < plan.num_devices,
             "--config.model.remat=full": c.model.remat != "full",
             f"--config.optim.accumulate={parts}": plan.batch_size % (parts * plan.num_devices) == 0,
             "more devices": True}
    raise UserError(f"a step does not fit: {what}; try {', '.join(text for text, does in helps.items() if does)}")
