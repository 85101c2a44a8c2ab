"""Trains a self-explaining model, evaluates it on the way and keeps checkpoints.

  python train.py --config configs/mnist5k.py --workdir runs/mnist5k [--config.shapley_weight=0.5 ...]

Run again with the same workdir, it goes on from the newest checkpoint. Every setting that --config.KEY=VALUE can change
stands in shapjax/config.py with its reason.
"""

import functools
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import tqdm
from absl import flags
from flax import linen as nn
from ml_collections import config_flags

import shapjax.config
from shapjax import checkpoint, evaluation, files, losses, models, parallel, preprocessing, training
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
    """Trains as the resolved config says; returns the test metrics of the last step.

    Raises:
      UserError: on a setting that cannot work, a workdir of another run, or a loss that is not finite.
    """
    train_source, test_source = (sources.load_source(config.dataset, split) for split in ("train", "test"))
    shapjax.config.validate(config, image_shape=train_source.image_shape, num_devices=jax.device_count())
    workdir.mkdir(parents=True, exist_ok=True)
    meta = checkpoint.Meta(config=config, class_names=train_source.class_names, image_shape=train_source.image_shape,
                           mean=train_source.mean, std=train_source.std)

    module = models.build(config.model, image_shape=meta.image_shape, num_classes=len(meta.class_names))
    optimizer, learning_rate = _make_optimizer(config)
    params = models.init_params(module, jax.random.key(config.seed), image_shape=meta.image_shape)
    state = training.init_state(params, optimizer, ema=config.ema_decay > 0)
    batches = pipeline.train_iterator(
        train_source, batch_size=config.batch_size // jax.process_count(), seed=config.seed,
        max_shift=config.max_shift, process_index=jax.process_index(), process_count=jax.process_count())

    with checkpoint.open_manager(workdir, keep=config.keep_checkpoints) as manager:
        if (newest := manager.latest_step()) is not None:
            _check_resumable(checkpoint.read_meta(manager, newest), meta, workdir)
            state, data_state = checkpoint.restore(manager, state)
            batches.set_state(data_state)
            print(f"resuming {workdir} at step {newest}")
        _write_config(workdir, config)
        step_fn = parallel.data_parallel(functools.partial(_step, module=module, optimizer=optimizer, config=config,
                                                           meta=meta))
        evaluate = functools.partial(_evaluate, _make_predictor(module, meta), test_source, config.eval_batch_size)
        start = int(state.step)
        with RunLog(workdir, step=start) as log:
            loop = _Loop(config, log, learning_rate)
            state = parallel.replicate(state)
            for step in range(start + 1, config.steps + 1):
                batch = parallel.shard(next(batches))
                state, metrics = step_fn(state, batch)
                loop.after_dispatch(step, metrics)
                if step % config.eval_every == 0 or step == config.steps:
                    loop.catch_up()  # no state whose loss is not finite gets saved
                    one_copy = parallel.unreplicate(state)
                    test = evaluate(training.inference_params(one_copy))
                    loop.report_test(step, test)
                    checkpoint.save(manager, one_copy, data_state=batches.get_state(), meta=meta,
                                    metrics={"accuracy": test["accuracy_top1"]})
            loop.close()
            if start >= config.steps:
                print(f"{workdir} has all its {config.steps} steps already")
                test = evaluate(training.inference_params(parallel.unreplicate(state)))
    num_params = sum(x.size for x in jax.tree.leaves(params))
    print(_summary(workdir, config, test, num_params=num_params, seconds=loop.seconds, steps=config.steps - start))
    return test


class _Loop:
    """What is shown and written while training runs.

    Metrics of a step are fetched after the next step is on its way, so the devices never wait for the host; every
    loss is looked at.
    """

    def __init__(self, config: ml_collections.ConfigDict, log: RunLog, learning_rate):
        self._config, self._log, self._learning_rate = config, log, learning_rate
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._bar: tqdm.tqdm | None = None
        self._start = self._since = time.monotonic()
        self._steps_since = 0
        self._test_accuracy = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def after_dispatch(self, step: int, metrics: dict[str, jax.Array]) -> None:
        if self._bar is None:
            self._bar = tqdm.tqdm(total=self._config.steps, initial=step - 1, unit="step", desc="training",
                                  dynamic_ncols=True, mininterval=1.0)
        self.catch_up()
        self._pending = step, metrics

    def catch_up(self) -> None:
        """Looks at the metrics of the step dispatched last but one (or, before saving, last)."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        loss = float(parallel.unreplicate(metrics["loss"]))
        if not math.isfinite(loss):
            self.close()
            raise UserError(f"the loss is {loss} at step {step}; lower --config.learning_rate or "
                            "--config.shapley_weight. Checkpoints of earlier steps are kept")
        self._bar.update()
        self._steps_since += 1
        if step % self._config.log_every == 0:
            values = {name: float(v) for name, v in jax.device_get(parallel.unreplicate(metrics)).items()}
            now = time.monotonic()
            rate = self._steps_since * self._config.batch_size / (now - self._since)
            self._since, self._steps_since = now, 0
            self._log.write(step, "train", values | {"learning_rate": float(self._learning_rate(step - 1)),
                                                     "images_per_second": rate})
            self._bar.set_postfix_str(
                f"loss {values['loss']:.3f} (class {values['loss_classification']:.3f}, masked "
                f"{values['loss_masked']:.3f}, shapley {values['loss_shapley']:.3f}) "
                f"acc {values['accuracy']:.3f}{self._test_accuracy} {rate:.0f} img/s", refresh=False)

    def report_test(self, step: int, metrics: dict[str, float]) -> None:
        self._log.write(step, "test", {"accuracy": metrics["accuracy_top1"], "cross_entropy": metrics["cross_entropy"]})
        self._test_accuracy = f" test acc {metrics['accuracy_top1']:.4f}"
        self._since, self._steps_since = time.monotonic(), 0  # evaluation does not count as training time

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _step(state: training.TrainState, batch: dict[str, jax.Array], *, module: nn.Module, optimizer: Any,
          config: ml_collections.ConfigDict, meta: checkpoint.Meta):
    """The training step of one device on its share of a batch of stored pixels."""
    return training.train_step(
        state, preprocessing.normalize(batch["image"], meta.mean, meta.std), batch["label"], batch["index"],
        apply_fn=lambda params, images, sides: module.apply({"params": params}, images, sides),
        optimizer=optimizer, settings=_step_settings(config), axis_name=parallel.AXIS)


def _step_settings(config: ml_collections.ConfigDict) -> training.StepSettings:
    return training.StepSettings(
        seed=config.seed,
        loss=losses.LossSettings(
            num_pairs=config.num_pairs, masked_weight=config.masked_weight, label_smoothing=config.label_smoothing,
            shapley_gradient=config.shapley_gradient, shapley_scale=config.shapley_scale),
        shapley_weight=training.weight_schedule(config.shapley_weight, int(config.shapley_warmup * config.steps)),
        ema_decay=config.ema_decay)


def _make_optimizer(config: ml_collections.ConfigDict):
    return training.make_optimizer(
        learning_rate=config.learning_rate, warmup_steps=int(config.warmup * config.steps), steps=config.steps,
        weight_decay=config.weight_decay, b2=config.b2, clip_norm=config.clip_norm)


def _make_predictor(module: nn.Module, meta: checkpoint.Meta):
    """(params, pixels) -> logits, compiled."""
    return jax.jit(lambda params, images: module.apply(
        {"params": params}, preprocessing.normalize(images, meta.mean, meta.std)).sum(axis=1))


def _evaluate(predictor, source: sources.Source, batch_size: int, params) -> dict[str, float]:
    logits, labels = evaluation.collect_logits(functools.partial(predictor, params), source, batch_size=batch_size)
    return evaluation.classification_metrics(logits, labels)


def _check_resumable(old: checkpoint.Meta, new: checkpoint.Meta, workdir: pathlib.Path) -> None:
    changed = shapjax.config.differences(old.config, new.config)
    if changed:
        raise UserError(f"{workdir} holds a run with other settings ({'; '.join(changed)}); use another --workdir, or "
                        "the same settings to resume")


def _write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    with files.replacing(workdir / "config.json") as part:
        part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def _summary(workdir: pathlib.Path, config: ml_collections.ConfigDict, test: dict[str, float], *, num_params: int,
             seconds: float, steps: int) -> str:
    speed = f", {steps * config.batch_size / seconds:,.0f} images/s with evaluation" if steps > 0 else ""
    return f"""
{steps} steps in {seconds:.0f} s{speed} on {jax.device_count()} {jax.default_backend()} device(s)
{num_params:,} parameters
test accuracy {test['accuracy_top1']:.4f}, cross-entropy {test['cross_entropy']:.4f}

checkpoints   {workdir / 'checkpoints'}
metrics       {workdir / 'metrics.jsonl'}, tensorboard --logdir {workdir / 'tensorboard'}
next          python eval.py --checkpoint {workdir}"""


if __name__ == "__main__":
    run()
