"""Trains a self-explaining model, evaluates it on the way and keeps checkpoints.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k [--config.shapley.weight=8 ...]
  shapjax train --config mnist5k --workdir runs/mnist5k      # a recipe of shapjax's by its name, from anywhere

Run again with the same workdir, it goes on from the newest whole checkpoint. SIGTERM makes it save after the step and
exit with status 75; Ctrl-C too, of a run of one process, with 130 (a second one does not wait).

--dry_run compiles a step and tells its memory, operations and messages, with --devices=32 --chip=v5e for such devices,
which need not be there.

On several hosts, start the same command on each, with --multihost (TPU pod, SLURM) or with --coordinator=HOST:PORT
--num_processes=P --process_id=0, 1, ...; see docs/scaling.md.
"""

import time
from collections.abc import Sequence

import chex
import jax
from absl import flags
from flax import linen as nn
from ml_collections import config_flags

from shapjax import paths
from shapjax.cli import calibration, dry_run, keep_compiled, processes, run_command
from shapjax.data import calibration_split, sources
from shapjax.errors import as_user_error
from shapjax.pretrained import loading, settings
from shapjax.training import loop, machine, plan, profiling
from shapjax.training.meta import Meta

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python train.py` and `shapjax train`."""
    config_flags.DEFINE_config_file("config", None, "Config file of the run, such as configs/mnist5k.py, or the name "
                                    "of a recipe, such as mnist5k.")
    flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://BUCKET/PATH: checkpoints, metrics; "
                        "resumed if it has any. Of several hosts, one that all can reach.")
    processes.define_flags()
    flags.DEFINE_bool("calibrate", True, "Calibrate the errors of explanations at the end, by coalitions of images "
                      "that were not trained on; if not, python -m shapjax eval does it.")
    flags.DEFINE_string("profile", None, "START:STEPS. Trace so many steps from step START on, for TensorBoard and "
                        "Perfetto, and say what share of the devices' rate they use.")
    dry_run.define_flags()
    flags.mark_flags_as_required(["config", "workdir"])
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, trains, prints where things are."""
    begun, workdir = time.monotonic(), paths.as_path(_FLAGS.workdir)
    given = config_flags.get_override_values(_FLAGS["config"])
    config, is_given = loop.resolve(settings.complete(_FLAGS.config, workdir, given)), "optim.batch_size" in given
    if dry_run.is_asked():
        dry_run.report(config, fit_batch=not is_given)
        return
    rows = config.optim.batch_size // config.optim.accumulate // (_FLAGS.num_processes or 1)
    devices = machine.cpu_devices(config)
    if not devices and not is_given:  # as many as share a batch, and fewer images make a smaller one
        images = sources.count(config)
        rows = machine.rows_of(images - calibration_split.size(images), rows)
    machine.split_cpu(devices, rows=rows)
    processes.start()
    keep_compiled()

    def load_pretrained(module: nn.Module, meta: Meta) -> chex.ArrayTree:
        params, report = loading.load(config.pretrained, module, image_shape=meta.image_shape,
                                      class_names=meta.class_names, new_head=config.new_head)
        _say(str(report))
        return params

    result = loop.train(config, workdir, load_pretrained=load_pretrained if config.pretrained else None,
                        fit_batch=not is_given, profile=_profile if _FLAGS.profile else None, say=_say)
    if _FLAGS.calibrate:
        calibration.after_training(workdir)
    among = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    _say(f"""
{result['steps']} steps in {time.monotonic() - begun:.0f} s, start-up and evaluation included, on \
{jax.device_count()} {jax.default_backend()} device(s){among}, which waited {result['stalled']:.0f} s for images; \
{result['parameters']:,} parameters
test accuracy {result['accuracy']:.4f}, cross-entropy {result['cross_entropy']:.4f}

checkpoints   {workdir / 'checkpoints'}
metrics       {workdir / 'metrics.jsonl'}; tensorboard --logdir {workdir / 'tensorboard'}
next          python -m shapjax eval --checkpoint {workdir}""")


def _profile(run: loop.Run, done: int) -> profiling.Profile | None:
    """Returns what traces the steps of --profile, None if a run with so many steps done is past the first of them."""
    config, chip = run.meta.config, plan.chip_of(jax.devices()[0])
    with as_user_error(f"--profile={_FLAGS.profile}: "):
        steps = profiling.parse(_FLAGS.profile, steps=config.optim.steps, eval_every=config.run.eval_every)
        kind, last_kind = (next(kind for end, kind, _ in loop.phases(config) if step <= end) for step in
                           (steps[0], steps[-1]))
        if kind != last_kind:
            raise ValueError("these steps are of two kinds (probe, whole images, coalitions); choose some of one")
    if steps[0] < done + 2:
        _say(f"--profile={_FLAGS.profile}: {done} steps have been taken before; nothing is traced")
        return None
    return profiling.Profile(_FLAGS.workdir, steps=steps, batch_size=config.optim.batch_size, say=_say,
                             flops=plan.step_flops(run, **kind), peak=plan.CHIPS[chip].flops if chip else None)


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text)
