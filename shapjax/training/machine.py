"""Settings that suit the machine where a run leaves them open: devices of a CPU, batches, recomputation, products.

`python -m benchmarks` measures what these rules rest on (docs/benchmarks.md).
"""

import os
import pathlib
from collections.abc import Callable

import jax
import ml_collections

from shapjax import models
from shapjax.errors import UserError
from shapjax.models import blocks

WIDE = 256  # D of a ViT from which one device over all cores is faster than a device a core
KEPT_SHARE = 0.25  # of the machine's memory, for what the forward pass of a step keeps for its backward pass


def split_cpu(num_devices: int, *, rows: int = 0) -> None:
    """Splits the CPU into JAX devices. Must run before JAX's first computation. Changes nothing on other backends.

    Args:
      num_devices: 0 = one a core that this process may use.
      rows: of a batch that the devices share: of the cores, as many are used as can share it alike; 0: all.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = num_cores()
        shared = max(n for n in range(1, cores + 1) if rows % n == 0)
        jax.config.update("jax_num_cpu_devices", num_devices or shared)


def rows_of(images: int, most: int) -> int:
    """Returns the images of a batch: `most`, or of fewer images as many as all cores can share, or all of them."""
    return most if images >= most else images // num_cores() * num_cores() or images


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_devices(config: ml_collections.ConfigDict) -> int:
    """Returns the number of JAX devices to split the CPU into for a model; 0: one a core.

    Narrow ViTs gain from a device a core, wide ones from products over all cores. Convolutions get one device: several
    can lock each other, as XLA's convolutions share threads with its collectives.
    """
    if config.run.cpu_devices:
        return config.run.cpu_devices
    return int(config.model.backbone != "vit" or config.model.width >= WIDE)


def fit(config: ml_collections.ConfigDict, begun: ml_collections.ConfigDict | None, *, images: int, fit_batch: bool,
        say: Callable[[str], None]) -> ml_collections.ConfigDict:
    """Returns a copy of a config whose batches fit the devices and the images. Starts JAX.

    Args:
      config: resolved.
      begun: that of a run that goes on: in the batches and the format that it began with, on any machine; or None.
      images: to train on.
      fit_batch: whether `optim.batch_size` may change: to the nearest that the devices can share and the images fill.
      say: takes a line for people.

    Raises:
      UserError: if there are fewer images than devices, or parts of a batch.
    """
    config, devices = config.copy_and_resolve_references(), jax.device_count()
    asked, unit = config.optim.batch_size, devices * config.optim.accumulate
    if begun and config.model.dtype == models.AUTO:
        config.model.dtype = begun.model.dtype
    if fit_batch and begun:
        config.optim.batch_size = begun.optim.batch_size
    elif fit_batch:
        if images < unit:
            raise UserError(f"{images} training images, without those held out, are too few for {devices} devices and "
                            f"{config.optim.accumulate} parts of a batch; add images, or use fewer, such as "
                            "--config.run.cpu_devices=1 on a CPU")
        config.optim.batch_size = min(max(1, round(asked / unit)), images // unit) * unit
    if config.optim.batch_size != asked:
        why = "as the run began" if begun else f"for {devices} device(s) and {images:,} images"
        say(f"batches of {config.optim.batch_size} images instead of {asked}, {why}")
    return config.lock()


def complete(config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]) -> ml_collections.ConfigDict:
    """Returns a copy of a config with `model.dtype` and `model.remat` chosen where they are "auto". Starts JAX.

    Args:
      config: resolved.
      image_shape: (H, W, C) of the images.
    """
    model, on_cpu = config.model, blocks.platform() == "cpu" and config.model.backbone == "vit"
    config = config.copy_and_resolve_references()
    if model.dtype == models.AUTO:
        config.model.dtype = "bfloat16_products" if on_cpu and bfloat16_units() else "float32"
    if model.remat == models.AUTO:
        fits = on_cpu and kept_bytes(config, image_shape) <= KEPT_SHARE * _memory_bytes()
        config.model.remat = "none" if fits else "full"
    return config.lock()


def bfloat16_units() -> set[str]:
    """Returns those instructions of this machine's CPU that multiply bfloat16 faster than float32 is multiplied."""
    try:
        return {"amx_bf16", "avx512_bf16"} & set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return set()


def kept_bytes(config: ml_collections.ConfigDict, image_shape: tuple[int, int, int]) -> int:
    """Returns about how many bytes all devices keep for the backward pass of a ViT's step with remat "none".

    A block keeps 36·D + 2·H·T float32 numbers of each of T tokens (`benchmarks.scaling` counts them).
    """
    m, o = config.model, config.optim
    tokens = (image_shape[0] // m.patch_size) * (image_shape[1] // m.patch_size)
    passes = (1 + config.shapley.num_pairs) * o.batch_size // o.accumulate
    return 4 * passes * tokens * m.depth * (36 * m.width + 2 * m.heads * tokens)


def require_memory(config: ml_collections.ConfigDict, num_params: int) -> None:
    """Raises UserError if a CPU's memory is too small for parameters, their gradient and the state of Adam."""
    need = 4 * num_params * (4 + (config.optim.ema_decay > 0))
    if blocks.platform() == "cpu" and need > (has := _memory_bytes()):
        raise UserError(f"a step of a model with {num_params:,} parameters needs {need / 2**30:.1f} GiB for them, "
                        f"their gradient and the optimizer, and this machine has {has / 2**30:.1f} GiB; use a smaller "
                        "model, or an accelerator")


def _memory_bytes() -> int:
    """Returns the machine's memory; half of what small machines have where it cannot be asked."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 4 * 2**30
