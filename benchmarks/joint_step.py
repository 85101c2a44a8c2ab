"""One process's measurement of a training step: ours, or PyTorch's; `python -m benchmarks` starts it and compares.

A step is that of `shapjax.training.step`, with AdamW; PyTorch's is that of `benchmarks.torch_joint`.
"""

import json
import subprocess
import sys
import time

import jax
import numpy as np

from shapjax import models
from shapjax.models import vit
from shapjax.training import machine, sharding
from shapjax.training.loss import LossSettings
from shapjax.training.optimizer import make_optimizer
from shapjax.training.step import StepSettings, init_state, train_step

SMALL, VIT_S = dict(width=64, depth=3, heads=4), dict(width=384, depth=12, heads=6)
# name -> (sizes, pixels of a side, pixels of a patch, images a step)
CASES = {"small-16": (SMALL, 28, 7, 48), "small-64": (SMALL, 56, 7, 48), "small-196": (SMALL, 98, 7, 16),
         "vit-s-16": (VIT_S, 56, 14, 32), "vit-s-64": (VIT_S, 112, 14, 16), "vit-s-196": (VIT_S, 224, 16, 4)}
MIN_SECONDS, MIN_STEPS = 5.0, 4  # of the timed steps of a process


def make_module(case: str, *, remat: str, dtype: str) -> vit.ViT:
    """Returns the ViT of a case."""
    sizes, pixels, patch, _ = CASES[case]
    dtype, dot_general = models.DTYPES[dtype]
    return vit.ViT(num_classes=10, image_size=(pixels, pixels), patch_size=patch, remat=remat, dtype=dtype,
                   dot_general=dot_general, **sizes)


def shapjax_step(case: str, *, coalitions: bool, devices: int, remat: str, dtype: str):
    """Returns a function that takes a step and waits for it, on random images."""
    machine.split_cpu(devices)
    module, batch = make_module(case, remat=remat, dtype=dtype), CASES[case][3]
    shape = (*module.image_size, 3)
    optimizer, _ = make_optimizer(learning_rate=1e-4, steps=10**6)
    loss = LossSettings(num_pairs=int(coalitions), weight=16.0, masked_weight=1.0)
    settings = StepSettings(loss=loss, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    layout, params = sharding.make_layout("pmap"), models.init_params(module, jax.random.key(0), image_shape=shape)

    def step(state, arrays, *, axis_name=None):
        return train_step(state, arrays, apply_fn=lambda params, *x: module.apply({"params": params}, *x),
                          optimizer=optimizer, settings=settings, axis_name=axis_name)

    step_fn = layout.step(step)
    state = layout.init(lambda: init_state(params, optimizer, ema=False))
    rng = np.random.default_rng(0)
    arrays = layout.batch({"image": rng.integers(0, 256, (batch, *shape), np.uint8),
                           "label": np.arange(batch, dtype=np.int32) % 10, "index": np.arange(batch, dtype=np.int32)})

    def take() -> None:
        nonlocal state
        state, metrics = step_fn(state, arrays)
        jax.block_until_ready((state, metrics))

    return take


def torch_step(case: str, *, coalitions: bool, dtype: str, compiled: bool):
    """Returns a function that takes a step in PyTorch, on random images."""
    from benchmarks.torch_joint import JointStep  # JAX's processes need no PyTorch

    module, batch = make_module(case, remat="none", dtype="float32"), CASES[case][3]
    params = models.init_params(module, jax.random.key(0), image_shape=(*module.image_size, 3))
    images = np.random.default_rng(0).normal(size=(batch, *module.image_size, 3)).astype(np.float32)
    return JointStep(module, params, images, np.arange(batch) % 10, coalitions=coalitions, dtype=dtype,
                     compiled=compiled)


def measure(framework: str, case: str, **settings) -> dict[str, float]:
    """Times steps in this process: seconds of the first, and the median of those after the second."""
    begun = time.perf_counter()
    step = (torch_step if framework == "torch" else shapjax_step)(case, **settings)
    step()
    first, seconds = time.perf_counter() - begun, []
    step()
    while len(seconds) < MIN_STEPS or sum(seconds) < MIN_SECONDS:
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return {"first": first, "seconds": float(np.median(seconds))}


def in_own_process(**arguments) -> dict[str, float]:
    """Returns `measure` of a new process: JAX's devices are fixed when it starts."""
    command = [sys.executable, "-m", "benchmarks.joint_step", json.dumps(arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
