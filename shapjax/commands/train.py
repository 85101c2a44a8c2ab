"""Trains a self-explaining model, evaluates it on the way and keeps checkpoints.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k [--config.shapley_weight=0.5 ...]

Run again with the same workdir, it goes on from the newest checkpoint.
"""

import json
import pathlib
import time
from collections.abc import Sequence

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

import shapjax.config
from shapjax import checkpoint, evaluation, experiment, files, parallel, training
from shapjax.commands import run_command
from shapjax.data import pipeline, sources
from shapjax.errors import UserError
from shapjax.runlog import RunLog

_FLAGS = flags.FLAGS


def run() -> None:
    """Entry point of `python train.py` and `shapjax-train`."""
    config_flags.DEFINE_config_file("config", None, "Config file of the run, such as configs/mnist5k.py.")
    flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics; resumed if it has any.")
    flags.mark_flags_as_required(["config", "workdir"])
    run_command(main)


def main(_: Sequence[str]) -> None:
    """Reads the flags and trains."""
    config = shapjax.config.resolve(_FLAGS.config)
    parallel.split_cpu(config.cpu_devices)
    train(config, pathlib.Path(_FLAGS.workdir))


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, float]:
    """Trains as the resolved config says; returns the test metrics of the last step (`evaluation`).

    Raises:
      UserError: on a setting that cannot work, a workdir of another run, or a loss that is not finite.
    """
    begun = time.monotonic()
    source, test_source = (sources.load_source(config.dataset, split) for split in ("train", "test"))
    shapjax.config.validate(config, image_shape=source.image_shape, num_devices=jax.device_count())
    run = experiment.setup(config, source)
    batches = pipeline.train_iterator(
        source, batch_size=config.batch_size // jax.process_count(), seed=config.seed, max_shift=config.max_shift,
        process_index=jax.process_index(), process_count=jax.process_count())
    step_fn, logits_fn = parallel.data_parallel(run.step), jax.jit(run.logits)

    def evaluate(params) -> dict[str, float]:
        return evaluation.classification_metrics(*evaluation.collect_logits(
            lambda images: logits_fn(params, images), test_source, batch_size=config.eval_batch_size))

    files.require_writable(workdir / "config.json")
    with checkpoint.open_manager(workdir, keep=config.keep_checkpoints) as manager:
        state = run.init_state()
        num_params = sum(x.size for x in jax.tree.leaves(state.params))
        if (newest := manager.latest_step()) is not None:
            _require_same_run(checkpoint.read_meta(manager, newest), run.meta, workdir)
            state, data_state = checkpoint.restore(manager, state)
            batches.set_state(data_state)
            print(f"resuming {workdir} at step {newest}")
        with files.replacing(workdir / "config.json") as part:
            part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")

        start = int(state.step)
        state = parallel.replicate(state)
        with RunLog(workdir, start=start, steps=config.steps, batch_size=config.batch_size,
                    every=config.log_every) as log:
            for step in range(start + 1, config.steps + 1):
                state, metrics = step_fn(state, parallel.shard(next(batches)))
                log.step(step, metrics)
                if step % config.eval_every == 0 or step == config.steps:
                    log.catch_up()  # no state whose loss is not finite gets saved
                    one_copy = parallel.unreplicate(state)
                    test = evaluate(training.inference_params(one_copy))
                    log.test(step, accuracy=test["accuracy_top1"], cross_entropy=test["cross_entropy"])
                    checkpoint.save(manager, one_copy, data_state=batches.get_state(), meta=run.meta,
                                    metrics={"accuracy": test["accuracy_top1"]})
        if start >= config.steps:
            print(f"{workdir} has all its {config.steps} steps already")
            test = evaluate(training.inference_params(parallel.unreplicate(state)))
    print(f"""
{max(0, config.steps - start)} steps in {time.monotonic() - begun:.0f} s, start-up and evaluation included, on \
{jax.device_count()} {jax.default_backend()} device(s); {num_params:,} parameters
test accuracy {test['accuracy_top1']:.4f}, cross-entropy {test['cross_entropy']:.4f}

checkpoints   {workdir / 'checkpoints'}
metrics       {workdir / 'metrics.jsonl'}; tensorboard --logdir {workdir / 'tensorboard'}
next          python eval.py --checkpoint {workdir}""")
    return test


def _require_same_run(old: checkpoint.Meta, new: checkpoint.Meta, workdir: pathlib.Path) -> None:
    changed = shapjax.config.differences(old.config, new.config)
    if changed:
        raise UserError(f"{workdir} holds a run with other settings ({'; '.join(changed)}); use another --workdir, or "
                        "the same settings to resume")


if __name__ == "__main__":
    run()
