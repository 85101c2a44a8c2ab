"""A training run: from a config and a dataset to the pieces of the run, and the loop over its steps."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

import shapjax.config
from shapjax import models, paths
from shapjax.data import augmentation, calibration_split, normalization, pipeline, sources
from shapjax.errors import UserError, as_user_error
from shapjax.models import preprocessing
from shapjax.training import checkpoint, distributed, machine, sharding
from shapjax.training.logging import RunLog
from shapjax.training.loss import LossSettings
from shapjax.training.meta import Meta, newest_meta
from shapjax.training.optimizer import make_optimizer
from shapjax.training.profiling import Profile
from shapjax.training.step import StepSettings, TrainState, inference_params, init_state, train_step

MIN_STEPS = 400  # of a run whose length is given in epochs
EVALUATION_BATCH = 4  # times a step's images: a forward pass takes less memory than a step


@dataclasses.dataclass(frozen=True)
class Run:
    """Holds the pieces of a run; made by `setup`.

    Attributes:
      meta: is kept in each checkpoint beside the state; has the resolved config.
      module, num_params: the model, and how many parameters it has.
      settings: of a step with coalitions.
      optimizer, learning_rate: and its schedule.
    """

    meta: Meta
    module: nn.Module
    num_params: int
    settings: StepSettings
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule

    def init_state(self, pretrained: chex.ArrayTree | None = None) -> TrainState:
        """Returns the state before the first step, fixed by the config's seed.

        Args:
          pretrained: loaded parameters, as `shapjax.pretrained.loading.load` gives them; None: there are none, or only
            shapes are asked for.

        Raises:
          UserError: if the loaded parameters are to teach and have no head.
        """
        c = self.meta.config
        params = models.init_params(self.module, jax.random.key(c.seed), image_shape=self.meta.image_shape)
        teacher = c.shapley.teacher_weight > 0
        if teacher and pretrained is not None and "head" not in pretrained:
            raise UserError(f"--config.shapley.teacher_weight={c.shapley.teacher_weight}: {c.pretrained} has no head "
                            "whose predictions could be learned from; set it to 0")
        return init_state(params | (pretrained or {}), self.optimizer, ema=c.optim.ema_decay > 0, teacher=teacher)

    def step(self, state: TrainState, batch: dict[str, chex.Array], *, axis_name: str | None = None,
             coalitions: bool = True, probe: bool = False) -> tuple[TrainState, dict[str, chex.Array]]:
        """Takes one step (`step.train_step`) of this run's model.

        Args:
          state, batch, axis_name: as of `step.train_step`.
          coalitions: False classifies whole images only, as a run does until `shapley.start`.
          probe: train the head alone, on whole images.

        Returns:
          the state after the step, and the metrics of `train_step` with the learning rate.
        """
        s = self.settings
        num_pairs = s.loss.num_pairs if coalitions and not probe else 0
        train_only = ("head",) if probe else s.train_only
        settings = s._replace(loss=s.loss._replace(num_pairs=num_pairs), train_only=train_only)
        module = self.module if num_pairs else self.module.without_explainer  # the totals are the same
        next_state, metrics = train_step(
            state, batch, apply_fn=lambda params, *arrays: module.apply({"params": params}, *arrays),
            optimizer=self.optimizer, settings=settings, axis_name=axis_name)
        return next_state, metrics | {"learning_rate": self.learning_rate(state.step)}

    def test_sums(self, params: chex.ArrayTree, batch: dict[str, chex.Array]) -> dict[str, chex.Array]:
        """Sums accuracy, cross_entropy (nats) and images over the valid rows of a batch of `evaluation_batches`."""
        images = preprocessing.normalize(batch["image"], self.meta.mean, self.meta.std)
        module = self.module.without_explainer.clone(dot_general=None)  # products in float32
        logits_BK = jnp.sum(module.apply({"params": params}, images), axis=1)
        labels_B, valid_B = batch["label"], batch["valid"]
        each = {"accuracy": jnp.argmax(logits_BK, axis=-1) == labels_B, "images": jnp.ones_like(valid_B),
                "cross_entropy": optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B)}
        return jax.tree.map(lambda x: jnp.sum(jnp.where(valid_B, x, 0), dtype=jnp.float32), each)


def setup(config: ml_collections.ConfigDict, source: sources.Source, *, held_out: Sequence[int] = (),
          num_devices: int = 1) -> Run:
    """Makes the pieces of a run.

    Args:
      config: resolved (`resolve`).
      source: the training images.
      held_out: positions of those that are not trained on.
      num_devices: that share a batch.

    Raises:
      UserError: on the first setting that cannot work with these images or devices; names it, and says why.
    """
    config = machine.complete(config, source.image_shape)
    if config.optim.epochs:
        with config.unlocked():
            images = len(source) - len(held_out)
            steps = max(MIN_STEPS, round(config.optim.epochs * images / config.optim.batch_size))
            config.optim.steps = min(config.optim.steps, steps)
    o, s = config.optim, config.shapley
    unit = num_devices * o.accumulate
    if o.batch_size % unit:
        parts = f" times {o.accumulate} parts" if o.accumulate > 1 else ""
        raise UserError(f"--config.optim.batch_size={o.batch_size} is not divisible by the {num_devices} devices{parts}"
                        f"; use {max(1, o.batch_size // unit) * unit}")
    normalization.check(config, source.image_shape[2])
    (height, width, _), patch_size = source.image_shape, config.model.patch_size
    if config.pretrained and (height % patch_size or width % patch_size):
        raise UserError(f"--config.pretrained={config.pretrained} has patches of {patch_size} pixels, which do not "
                        f"divide the image size {height}x{width}; set --config.data.image_size to a multiple, such as "
                        f"{max(1, round(height / patch_size)) * patch_size}")
    mean = normalization.per_channel(config.data.mean, source.mean)
    std = normalization.per_channel(config.data.std, source.std)
    meta = Meta(config=config, class_names=source.class_names, image_shape=source.image_shape, mean=mean, std=std,
                held_out=tuple(map(int, held_out)), num_images=len(source))
    with as_user_error("--config.model."):
        module = models.build(shapjax.config.model_settings(config), image_shape=source.image_shape,
                              num_classes=len(source.class_names))
    parts = models.param_shapes(module, image_shape=source.image_shape)
    num_params = sum(x.size for x in jax.tree.leaves(parts))
    machine.require_memory(config, num_params)
    if unknown := [name for name in o.train_only if name not in parts]:
        raise UserError(f"--config.optim.train_only: the model has no part {unknown[0]!r}; it has {', '.join(parts)}")
    loss = LossSettings(**{name: s[name] for name in LossSettings._fields})
    augment = augmentation.settings(config.augment, crops_on_read=source.crops_on_read, image_shape=source.image_shape,
                                    device_batch=o.batch_size // num_devices)
    if o.layer_decay != 1 and config.model.backbone != "vit":
        raise UserError(f"--config.optim.layer_decay={o.layer_decay}: expected 1 with a {config.model.backbone}")
    optimizer, learning_rate = make_optimizer(
        learning_rate=o.learning_rate, steps=o.steps, probe_steps=int(o.probe * o.steps),
        warmup_steps=int(o.warmup * o.steps), floor=o.floor, weight_decay=o.weight_decay, b2=o.b2,
        clip_norm=o.clip_norm, layer_decay=o.layer_decay, head_rate=o.head_rate, train_only=tuple(o.train_only))
    settings = StepSettings(loss=loss, num_classes=len(source.class_names), mean=mean, std=std, augment=augment,
                            seed=config.seed, teacher_weight=s.teacher_weight, ema_decay=o.ema_decay,
                            train_only=tuple(o.train_only), accumulate=o.accumulate)
    return Run(meta, module, num_params, settings, optimizer, learning_rate)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy of a config with the settings of its model variant and backbone filled in, and checks it.

    Raises:
      UserError: on a variant that does not exist, or a setting that cannot work (`shapjax.config.validate`).
    """
    config = config.copy_and_resolve_references()
    if config.model.variant:
        with as_user_error("--config.model."):
            shapjax.config.set_model(config, models.variant(config.model.variant))
    shapjax.config.validate(config)
    return config.lock()


def train(config: ml_collections.ConfigDict, workdir: str | os.PathLike, *,
          load_pretrained: Callable[[nn.Module, Meta], chex.ArrayTree] | None = None, fit_batch: bool = False,
          profile: Callable[[Run, int], Profile | None] | None = None,
          say: Callable[[str], None] = lambda text: None) -> dict[str, float]:
    """Trains as the resolved config says; goes on where the newest checkpoint of workdir ends.

    Args:
      config, workdir: of the run; resolved.
      load_pretrained: (module, meta) -> parameters, nested as the module's, that the run starts with, where it has no
        checkpoint; the others are new. None: all are new.
      fit_batch: `optim.batch_size` may be changed to one that the devices can share and the images fill.
      profile: makes of the run and the number of its steps done what traces some of the next ones.
      say: takes a line for people.

    Returns:
      accuracy and cross_entropy (nats) on the test split after the last step, "steps" done now, "parameters", and
      "stalled", the seconds in which the devices had no images.

    Raises:
      UserError: on a setting that cannot work, a workdir of another run, or a loss that is not finite.
      Stopped: after SIGTERM or a first Ctrl-C, with everything saved.
    """
    workdir = paths.as_path(workdir)
    shapjax.config.validate(config)  # before images are decoded
    source, test_source = (sources.load_source(config, split) for split in ("train", "test"))
    begun = newest_meta(workdir, say)
    held_out = begun.held_out if begun else calibration_split.draw(source, seed=config.seed)
    images = len(source) - len(held_out)
    config = machine.fit(config, begun and begun.config, images=images, fit_batch=fit_batch, say=say)
    run = setup(config, source, held_out=held_out, num_devices=jax.device_count())
    config, steps = run.meta.config, run.meta.config.optim.steps
    if begun and (changed := shapjax.config.differences(begun.config, config)):
        raise UserError(f"{workdir} holds a run with other settings ({'; '.join(changed)}); use another --workdir, or "
                        "the same settings to resume")
    say(f"{images:,} images, {len(held_out)} held out, {len(source.class_names)} classes, {run.module.num_patches} "
        f"patches; {steps:,} steps of {config.optim.batch_size} images, {steps * config.optim.batch_size / images:.1f} "
        f"epochs; {jax.device_count()} {jax.default_backend()} device(s), dtype {config.model.dtype}, remat "
        f"{config.model.remat}")
    with as_user_error("--config.run."):
        layout = sharding.make_layout(config.run.parallel, fsdp_devices=config.run.fsdp_devices)
    batches = pipeline.TrainIterator(
        source, batch_size=config.optim.batch_size // jax.process_count(), seed=config.seed,
        crop_area=config.augment.crop_area, threads=config.data.threads, held_out=held_out,
        process_index=jax.process_index(), process_count=jax.process_count(), place=layout.batch)
    step_fns = [(last, layout.step(functools.partial(run.step, **kind))) for last, kind, _ in phases(config)]
    evaluate = _evaluation(run, layout, test_source)

    paths.require_writable(workdir / "config.json")
    is_first = jax.process_index() == 0
    with checkpoint.open_manager(workdir, keep=config.run.keep_checkpoints) as manager:
        if begun is None:
            state = layout.init(run.init_state, load_pretrained(run.module, run.meta) if load_pretrained else None)
        else:
            state, data_state = checkpoint.restore(manager, layout.template(jax.eval_shape(run.init_state)), say)
            state = layout.from_checkpoint(state)
            batches.set_state(data_state)
            say(f"resuming {workdir} at step {manager.latest_step()}")
        if is_first:
            paths.write_json(workdir / "config.json", config.to_dict())
        start = manager.latest_step() or 0
        with RunLog(workdir, start=start, work=work(config, test_images=len(test_source)),
                    batch_size=config.optim.batch_size, every=config.run.log_every, fetch=layout.fetch,
                    compiling=[last + 1 for last, _ in step_fns], writes=is_first,
                    profile=profile and profile(run, start)) as log, distributed.stop_request() as stop_requested:
            for step in range(start + 1, steps + 1):
                batch = next(batches)
                with jax.transfer_guard("disallow"):  # a step that waits for the host is a mistake
                    step_fn = next(fn for last, fn in step_fns if step <= last)
                    state, metrics = step_fn(state, batch)
                log.step(step, metrics, waited=batches.waited)
                due, stopping = step % config.run.eval_every == 0 or step == steps, stop_requested()
                if due or stopping:
                    log.catch_up()  # no state whose loss is not finite gets saved
                    if due:
                        test = evaluate(inference_params(state))
                        log.test(step, **test)
                    checkpoint.save(manager, layout.to_checkpoint(state), data_state=batches.get_state(), meta=run.meta,
                                    metrics={"accuracy": test["accuracy"]} if due else None)
                if stopping:
                    checkpoint.wait(manager)
                    raise stopping(f"stopped on request at step {step}, saved; run the same command to go on")
        checkpoint.wait(manager)
        if start >= steps:
            say(f"{workdir} has all its {steps} steps already")
            test = evaluate(inference_params(state))
    batches.close()
    return test | {"steps": max(0, steps - start), "parameters": run.num_params, "stalled": log.stalled}


def phases(config: ml_collections.ConfigDict) -> list[tuple[int, dict[str, bool], int]]:
    """Returns the last step of each phase of a run, arguments of `Run.step`, and what a step costs an image.

    The cost is in forward passes; a backward pass counts as two.
    """
    o, s = config.optim, config.shapley
    return [(int(o.probe * o.steps), {"probe": True}, 1), (int(s.start * o.steps), {"coalitions": False}, 3),
            (o.steps, {}, 3 * (1 + s.num_pairs))]


def work(config: ml_collections.ConfigDict, *, test_images: int) -> np.ndarray:
    """Returns float [steps + 1]: the forward passes of the first 0, 1, … steps and of the evaluations so far."""
    steps = np.arange(1, config.optim.steps + 1)
    last, _, cost = zip(*phases(config), strict=True)
    each = config.optim.batch_size * np.asarray(cost)[np.searchsorted(np.maximum.accumulate(last), steps)]
    due = (steps % config.run.eval_every == 0) | (steps == steps[-1])
    return np.concatenate([[0.0], np.cumsum(each + test_images * due)])


def _evaluation(run: Run, layout: sharding.Layout, source: sources.Source) -> Callable[..., dict[str, float]]:
    """Returns a function of the state's parameters: accuracy and cross-entropy (nats) on all images of a source."""
    sums_fn, devices, config = layout.sums(run.test_sums), layout.num_devices, run.meta.config
    batch_size = min(EVALUATION_BATCH * config.optim.batch_size, math.ceil(len(source) / devices) * devices)

    def evaluate(params: chex.ArrayTree) -> dict[str, float]:
        totals = []
        for batch in pipeline.evaluation_batches(
                source, batch_size=batch_size // jax.process_count(), threads=config.data.threads,
                process_index=jax.process_index(), process_count=jax.process_count()):
            rows = {key: batch[key] for key in ("image", "label", "valid")}
            totals.append(sums_fn(params, layout.batch(rows)))
        total = jax.tree.map(lambda *parts: float(np.sum(parts, dtype=np.float64)), *layout.fetch(totals))
        return {key: total[key] / total["images"] for key in ("accuracy", "cross_entropy")}

    return evaluate
