"""The dry run of a training: what a step takes of devices, printed before anything is computed."""

import jax
import ml_collections
from absl import flags

from shapjax.data import calibration_split, sources
from shapjax.errors import UserError, as_user_error
from shapjax.models import blocks
from shapjax.training import loop, machine, plan, sharding

flags.disclaim_key_flags()  # --help of train.py shows them as its own
_FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines --dry_run, --devices and --chip."""
    flags.DEFINE_bool("dry_run", False, "Compile a step, without images or weights, say what it takes of memory, "
                      "operations and messages between devices, and end; with status 1 if it does not fit.")
    flags.DEFINE_integer("devices", None, "With --dry_run, the number of devices, which need not be there; if not "
                         "given, those of this machine.", lower_bound=1)
    flags.DEFINE_enum("chip", None, list(plan.CHIPS), "With --dry_run, what the devices are; if not given, what this "
                      "machine has or, with --devices, v5e. Where libtpu is installed, it compiles for a TPU.")


def is_asked() -> bool:
    """Returns whether the flags ask for a dry run; raises UserError on flags of one without it."""
    if not _FLAGS.dry_run and (_FLAGS.devices or _FLAGS.chip):
        raise UserError("--devices and --chip belong to a dry run; add --dry_run")
    return _FLAGS.dry_run


def report(config: ml_collections.ConfigDict, *, fit_batch: bool) -> None:
    """Prints what a step of a run takes. Must run before JAX starts.

    Args:
      config: resolved.
      fit_batch: as of `loop.train`.

    Raises:
      UserError: if the step cannot work, or does not fit into the chip's memory.
    """
    count = _FLAGS.devices
    if count:  # the CPU stands in for them
        jax.config.update("jax_platforms", "cpu")
    machine.split_cpu(count or machine.cpu_devices(config), rows=config.optim.batch_size // config.optim.accumulate)
    if count and jax.device_count() != count:
        raise UserError(f"--devices={count}: XLA_FLAGS splits the CPU into {jax.device_count()}; unset it")
    chip = _FLAGS.chip or ("v5e" if count else plan.chip_of(jax.devices()[0]))
    with as_user_error("--"):
        devices = plan.topology(chip, count) if count else []
    jax.config.update("jax_disable_most_optimizations", bool(count) and not devices)  # those for a CPU's speed
    source = sources.undecoded(config)
    if not len(source) and config.optim.epochs:
        raise UserError(f"--config.optim.epochs={config.optim.epochs}: {config.dataset} is not prepared, and how many "
                        "images it has is not known; set --config.optim.epochs=0 and --config.optim.steps")
    held_out = range(calibration_split.size(len(source)))
    images = len(source) - len(held_out) or 2**31  # enough, if not known
    with blocks.traced_for(plan.CHIPS[chip].platform if count else jax.default_backend()):
        config = machine.fit(config, None, images=images, fit_batch=fit_batch, say=print)
        run = loop.setup(config, source, held_out=held_out, num_devices=jax.device_count())
        config = run.meta.config
        with as_user_error("--config.run."):
            layout = sharding.make_layout(config.run.parallel, fsdp_devices=config.run.fsdp_devices,
                                          devices=devices or None)
        made = plan.make(run, layout)
    print(plan.describe(made, config, chip))
    if count:
        print("compiled    " + (f"by libtpu for {chip}" if devices else f"for a CPU in place of {chip}"))
    if chip:
        plan.require_fit(made, config, chip)
