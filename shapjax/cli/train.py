"""Trains a self-explaining model, evaluates it on the way and keeps checkpoints.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k [--config.shapley.weight=8 ...]
  shapjax train --config mnist5k --workdir runs/mnist5k      # a recipe of shapjax's by its name, from anywhere

Run again with the same workdir, it goes on from the newest checkpoint. SIGTERM makes it save and exit with status 75.

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
from shapjax.cli import calibration, keep_compiled, run_command
from shapjax.pretrained import loading, settings
from shapjax.training import distributed, loop, machine
from shapjax.training.meta import Meta

_FLAGS = flags.FLAGS


def run() -> None:
    """Runs `python train.py` and `shapjax train`."""
    config_flags.DEFINE_config_file("config", None, "Config file of the run, such as configs/mnist5k.py, or the name "
                                    "of a recipe, such as mnist5k.")
    flags.DEFINE_string("workdir", None, "Directory of the run, local or gs://BUCKET/PATH: checkpoints, metrics; "
                        "resumed if it has any. Of several hosts, one that all can reach.")
    flags.DEFINE_bool("multihost", False, "One of several processes, which find each other: TPU pod, SLURM, Open MPI.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where --multihost cannot find it.")
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run, with --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.", lower_bound=0)
    flags.DEFINE_bool("calibrate", True, "Calibrate the errors of explanations at the end, by coalitions of images "
                      "that were not trained on; if not, eval.py does it.")
    flags.mark_flags_as_required(["config", "workdir"])
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags, trains, prints where things are."""
    begun, workdir = time.monotonic(), paths.as_path(_FLAGS.workdir)
    config = loop.resolve(settings.complete(_FLAGS.config, workdir))
    rows = config.optim.batch_size // config.optim.accumulate // (_FLAGS.num_processes or 1)
    machine.split_cpu(machine.cpu_devices(config), rows=rows)
    distributed.start(multihost=_FLAGS.multihost, coordinator=_FLAGS.coordinator, num_processes=_FLAGS.num_processes,
                      process_id=_FLAGS.process_id)
    keep_compiled()

    def load_pretrained(module: nn.Module, meta: Meta) -> chex.ArrayTree:
        params, report = loading.load(config.pretrained, module, image_shape=meta.image_shape,
                                      class_names=meta.class_names, new_head=config.new_head)
        _say(str(report))
        return params

    is_given = "optim.batch_size" in config_flags.get_override_values(_FLAGS["config"])
    result = loop.train(config, workdir, load_pretrained=load_pretrained if config.pretrained else None,
                        fit_batch=not is_given, say=_say)
    if _FLAGS.calibrate:
        calibration.after_training(workdir)
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    _say(f"""
{result['steps']} steps in {time.monotonic() - begun:.0f} s, start-up and evaluation included, on \
{jax.device_count()} {jax.default_backend()} device(s){processes}, which waited {result['stalled']:.0f} s for images; \
{result['parameters']:,} parameters
test accuracy {result['accuracy']:.4f}, cross-entropy {result['cross_entropy']:.4f}

checkpoints   {workdir / 'checkpoints'}
metrics       {workdir / 'metrics.jsonl'}; tensorboard --logdir {workdir / 'tensorboard'}
next          python eval.py --checkpoint {workdir}""")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text)
