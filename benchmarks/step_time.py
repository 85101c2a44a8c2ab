"""Time of a joint training step on the CPU, by how the CPU is split into devices and what the backward pass recomputes.

  python -m benchmarks.step_time [--rounds 3] [--config configs/mnist5k.py]

Each measurement is a process of its own (devices are fixed when JAX starts); variants take turns, so that a drift
of the machine's speed hits all of them. Prints the median of each and its ratio to the first.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from shapjax.data import sources
from shapjax.training import loop, machine, sharding

VARIANTS = {
    "a device a core, recompute all": ["--config.model.remat=full"],
    "recompute all but matrix products": ["--config.model.remat=dots"],
    "recompute nothing": ["--config.model.remat=none"],
    "one device over all cores, recompute all": ["--config.model.remat=full", "--config.run.cpu_devices=1"],
    "one device, recompute nothing": ["--config.model.remat=none", "--config.run.cpu_devices=1"],
}

_CONFIG = config_flags.DEFINE_config_file("config", "configs/mnist5k.py", "Config file of the run.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes a variant.", lower_bound=1)
_STEPS = flags.DEFINE_integer("timed_steps", 60, "Steps timed a process.", lower_bound=1)
_MEASURE = flags.DEFINE_bool("measure", False, "Measure the config in this process and print seconds a step as JSON.")


def main(_: Sequence[str]) -> None:
    """Measures one variant, or starts the processes that do and prints the table."""
    if _MEASURE.value:
        print(json.dumps(seconds_a_step(loop.resolve(_CONFIG.value), _STEPS.value)))
        return
    times = {name: [] for name in VARIANTS}
    for _round in range(_ROUNDS.value):
        for name, overrides in VARIANTS.items():
            command = [sys.executable, "-m", "benchmarks.step_time", "--measure", *sys.argv[1:], *overrides]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times[name].append(json.loads(out))
    base = statistics.median(next(iter(times.values())))
    print("| variant | ms a step | ratio |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1e3 * statistics.median(seconds):.1f} | {statistics.median(seconds) / base:.2f} |")


def seconds_a_step(config, steps: int) -> float:
    """Returns the median over the steps of one process, after two steps to compile and warm up."""
    machine.split_cpu(config.run.cpu_devices)
    source = sources.load_source(config, "train")
    run = loop.setup(config, source, num_devices=jax.device_count())
    layout = sharding.make_layout(config.run.parallel, fsdp_devices=config.run.fsdp_devices)
    step_fn, state = layout.step(run.step), layout.init(run.init_state)
    rng = np.random.default_rng(0)
    seconds = []
    for step in range(steps + 2):
        indices = rng.integers(0, len(source), config.optim.batch_size)
        batch = layout.batch({**source.read(indices), "index": indices.astype(np.int32)})
        begun = time.perf_counter()
        state, _ = step_fn(state, batch)
        jax.block_until_ready(state)
        if step >= 2:
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


if __name__ == "__main__":
    app.run(main)
