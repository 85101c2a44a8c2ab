"""Trains a self-explaining model, evaluates it on the way and keeps checkpoints.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k [--config.shapley_weight=0.5 ...]

Run again with the same workdir, it goes on from the newest checkpoint. SIGTERM makes it save and exit with status 75.

On several hosts, start the same command on each, with --multihost (TPU pod, SLURM) or with --coordinator=HOST:PORT
--num_processes=P --process_id=0, 1, ...; see docs/scaling.md.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence

import chex
import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

import shapjax.config
from shapjax import paths as files
from shapjax.cli import keep_compiled, run_command
from shapjax.data import pipeline, sources
from shapjax.errors import Stopped, UserError
from shapjax.evaluation import over_images as parallel
from shapjax.pretrained import loading, settings
from shapjax.training import checkpoint
from shapjax.training import distributed as processes
from shapjax.training import loop as experiment
from shapjax.training import sharding as layouts
from shapjax.training import step as training
from shapjax.training.logging import RunLog

_FLAGS = flags.FLAGS


def run() -> None:
    """Entry point of `python train.py` and `shapjax-train`."""
    config_flags.DEFINE_config_file("config", None, "Config file of the run, such as configs/mnist5k.py.")
    flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics; resumed if it has any. Of "
                        "several hosts, one that all can reach.")
    flags.DEFINE_bool("multihost", False, "One of several processes, which find each other: TPU pod, SLURM, Open MPI.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where --multihost cannot find it.")
    flags.DEFINE_integer("num_processes", None, "Of the run, with --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Of this process, from 0, with --coordinator.", lower_bound=0)
    flags.mark_flags_as_required(["config", "workdir"])
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags and trains."""
    workdir = pathlib.Path(_FLAGS.workdir)
    config = shapjax.config.resolve(settings.complete(_FLAGS.config, workdir))
    parallel.split_cpu(config.cpu_devices)
    processes.start(multihost=_FLAGS.multihost, coordinator=_FLAGS.coordinator, num_processes=_FLAGS.num_processes,
                    process_id=_FLAGS.process_id)
    keep_compiled()
    train(config, workdir)


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains as the resolved config says; returns the test metrics of the last step: accuracy, cross_entropy.

    Raises:
      UserError: on a setting that cannot work, a workdir of another run, or a loss that is not finite.
      Stopped: after SIGTERM, with everything saved.
    """
    begun = time.monotonic()
    source, test_source = (sources.load_source(config, split) for split in ("train", "test"))
    shapjax.config.validate(config, image_shape=source.image_shape, num_devices=jax.device_count())
    run = experiment.setup(config, source, num_devices=jax.device_count())
    layout = layouts.LAYOUTS[config.parallel](config.fsdp_devices)
    batches = pipeline.to_device(pipeline.train_iterator(
        source, batch_size=config.batch_size // jax.process_count(), seed=config.seed,
        crop_area=config.augment.crop_area, threads=config.data.threads, workers=config.data.workers,
        process_index=jax.process_index(), process_count=jax.process_count()), layout.batch)
    plain_step_fn, step_fn = layout.step(run.plain_step), layout.step(run.step)
    plain_steps, evaluate = int(config.coalitions_from * config.steps), _evaluation(run, layout, test_source)

    files.require_writable(workdir / "config.json")
    with checkpoint.open_manager(workdir, keep=config.keep_checkpoints) as manager, processes.stop_request() as stop:
        newest = manager.latest_step()
        if newest is None:
            state = layout.init(run.init_state, _pretrained(run))
        else:
            _require_same_run(checkpoint.read_meta(manager, newest), run.meta, workdir)
            state, data_state = checkpoint.restore(manager, layout.template(jax.eval_shape(run.init_state)))
            state = layout.from_checkpoint(state)
            batches.set_state(data_state)
            _say(f"resuming {workdir} at step {newest}")
        if processes.is_first():
            with files.replacing(workdir / "config.json") as part:
                part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")

        def save(metrics: dict[str, float] | None) -> None:
            checkpoint.save(manager, layout.to_checkpoint(state), data_state=batches.get_state(), meta=run.meta,
                            metrics=metrics)

        start = newest or 0
        with RunLog(workdir, start=start, steps=config.steps, batch_size=config.batch_size, every=config.log_every,
                    fetch=layout.fetch, writes=processes.is_first()) as log:
            for step in range(start + 1, config.steps + 1):
                batch = next(batches)
                with jax.transfer_guard("disallow"):  # a step that waits for the host is a mistake
                    state, metrics = (plain_step_fn if step <= plain_steps else step_fn)(state, batch)
                log.step(step, metrics)
                stopping = stop.now()
                if stopping or step % config.eval_every == 0 or step == config.steps:
                    log.catch_up()  # no state whose loss is not finite gets saved
                if step % config.eval_every == 0 or step == config.steps:
                    test = evaluate(training.inference_params(state))
                    log.test(step, **test)
                    save({"accuracy": test["accuracy"]})
                elif stopping:
                    save(None)
                if stopping and step < config.steps:
                    checkpoint.wait(manager)
                    raise Stopped(f"stopped on request at step {step}, saved; run the same command to go on")
        checkpoint.wait(manager)
        if start >= config.steps:
            _say(f"{workdir} has all its {config.steps} steps already")
            test = evaluate(training.inference_params(state))
    batches.close()
    num_params = sum(x.size for x in jax.tree.leaves(jax.eval_shape(run.init_state).params))
    _say(f"""
{max(0, config.steps - start)} steps in {time.monotonic() - begun:.0f} s, start-up and evaluation included, on \
{jax.device_count()} {jax.default_backend()} device(s){_of_processes()}; {num_params:,} parameters
test accuracy {test['accuracy']:.4f}, cross-entropy {test['cross_entropy']:.4f}

checkpoints   {workdir / 'checkpoints'}
metrics       {workdir / 'metrics.jsonl'}; tensorboard --logdir {workdir / 'tensorboard'}
next          python eval.py --checkpoint {workdir}""")
    return test


def _pretrained(run: experiment.Experiment) -> chex.ArrayTree | None:
    """The parameters that the run starts with instead of fresh ones; says what became of the weights."""
    if not run.config.pretrained:
        return None
    params, report = loading.load(run.config.pretrained, run.module, image_shape=run.meta.image_shape,
                                  num_classes=len(run.meta.class_names), new_head=run.config.new_head)
    _say(str(report))
    return params


def _evaluation(run: experiment.Experiment, layout: layouts.Layout, source: sources.Source
                ) -> Callable[..., dict[str, float]]:
    """A function of the state's parameters: accuracy and cross-entropy (nats) on all images of a source."""
    sums_fn, devices = layout.sums(run.test_sums), layout.num_devices
    batch_size = -(-run.config.eval_batch_size // devices) * devices // jax.process_count()

    def evaluate(params) -> dict[str, float]:
        totals = []
        for batch in pipeline.evaluation_batches(source, batch_size=batch_size, threads=run.config.data.threads,
                                                 process_index=jax.process_index(), process_count=jax.process_count()):
            rows = {key: batch[key] for key in ("image", "label", "valid")}
            totals.append(sums_fn(params, layout.batch(rows)))
        totals = layout.fetch(totals)
        total = {key: sum(float(part[key]) for part in totals) for key in totals[0]}
        return {key: total[key] / total["images"] for key in ("accuracy", "cross_entropy")}

    return evaluate


def _say(text: str) -> None:
    if processes.is_first():
        print(text)


def _of_processes() -> str:
    return f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""


def _require_same_run(old: checkpoint.Meta, new: checkpoint.Meta, workdir: pathlib.Path) -> None:
    changed = shapjax.config.differences(old.config, new.config)
    if changed:
        raise UserError(f"{workdir} holds a run with other settings ({'; '.join(changed)}); use another --workdir, or "
                        "the same settings to resume")


if __name__ == "__main__":
    run()
