"""From a config and a dataset to the pieces of a run: model, optimizer, first state, training step, test figures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import linen as nn

from shapjax import models
from shapjax.data import augmentation, sources
from shapjax.errors import UserError
from shapjax.models import preprocessing
from shapjax.training import loss as losses
from shapjax.training import step as training
from shapjax.training.checkpoint import Meta


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The pieces of a run; made by `setup`.

    Attributes:
      config: resolved.
      meta: what a checkpoint of the run needs besides the state.
      module: the model.
      augment: what is done to training images.
      optimizer, learning_rate: and its schedule.
    """

    config: ml_collections.ConfigDict
    meta: Meta
    module: nn.Module
    augment: augmentation.AugmentSettings
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule

    def init_state(self, pretrained: chex.ArrayTree | None = None) -> training.TrainState:
        """The state before the first step, fixed by the config's seed.

        pretrained: of the parameters, those that are not made anew, as `shapjax.pretrained.loading.load` gives them;
          None: none, or none are at hand, where only shapes are asked for.

        Raises:
          UserError: if they are to teach and have no head.
        """
        params = models.init_params(self.module, jax.random.key(self.config.seed), image_shape=self.meta.image_shape)
        teacher = self.config.teacher_weight > 0
        if teacher and pretrained is not None and "head" not in pretrained:
            raise UserError(f"--config.teacher_weight={self.config.teacher_weight}: {self.config.pretrained} has no "
                            "head whose predictions could be learned from; set it to 0")
        return training.init_state(params | (pretrained or {}), self.optimizer, ema=self.config.ema_decay > 0,
                                   teacher=teacher)

    def plain_step(self, state: training.TrainState, batch: dict[str, chex.Array], *, axis_name: str | None = None
                   ) -> tuple[training.TrainState, dict[str, chex.Array]]:
        """As `step`, without coalitions: what the run starts with where `coalitions_from` says so."""
        return self.step(state, batch, axis_name=axis_name, num_pairs=0)

    def step(self, state: training.TrainState, batch: dict[str, chex.Array], *, axis_name: str | None = None,
             num_pairs: int | None = None) -> tuple[training.TrainState, dict[str, chex.Array]]:
        """One training step on stored pixels, as `shapjax.layouts` takes it.

        Args:
          state: before the step.
          batch: image uint8 [B, H, W, C], label int32 [B], index int32 [B]; this device's share under `pmap`.
          axis_name: of the devices that share the batch; None outside of `pmap`.
          num_pairs: coalition pairs an image; None: as the config says.

        Returns:
          the state after the step, and the metrics of `training.train_step` with the learning rate.
        """
        c = self.config
        keys = training.example_keys(c.seed, state.step, batch["index"])
        images, targets = augmentation.augment(batch["image"], batch["label"], keys, settings=self.augment,
                                               num_classes=len(self.meta.class_names))
        images = self._normalize(images)
        if c.teacher_weight:
            logits = self._apply_voter(state.teacher, images, None).sum(axis=1)
            targets = optax.incremental_update(jax.nn.softmax(logits), targets, c.teacher_weight)
        settings = training.StepSettings(
            loss=losses.LossSettings(
                num_pairs=c.num_pairs if num_pairs is None else num_pairs,
                masked_weight=c.masked_weight, masked_target=c.masked_target, label_smoothing=c.label_smoothing,
                shapley_gradient=c.shapley_gradient, shapley_scale=c.shapley_scale,
                own_weight=c.own_weight),
            shapley_weight=training.weight_schedule(
                c.shapley_weight, begin=int(c.coalitions_from * c.steps), warmup_steps=int(c.shapley_warmup * c.steps)),
            ema_decay=c.ema_decay, train_only=tuple(c.train_only), accumulate=c.accumulate)
        in_pairs = settings.loss.num_pairs > 0
        next_state, metrics = training.train_step(
            state, images, targets, keys, optimizer=self.optimizer, settings=settings,
            apply_fn=self._apply if in_pairs else self._apply_voter,
            parts_fn=self._phi_and_parts if in_pairs and self.module.has_allocation else None, axis_name=axis_name)
        return next_state, metrics | {"learning_rate": self.learning_rate(state.step)}

    def test_sums(self, params: chex.ArrayTree, batch: dict[str, chex.Array]) -> dict[str, chex.Array]:
        """Sums over the valid rows of a batch of `pipeline.evaluation_batches`: accuracy, cross_entropy, images."""
        logits = self._apply_voter(params, self._normalize(batch["image"]), None).sum(axis=1)
        labels_B, valid_B = batch["label"], batch["valid"]
        each = {"accuracy": jnp.argmax(logits, axis=-1) == labels_B, "images": jnp.ones_like(valid_B),
                "cross_entropy": optax.softmax_cross_entropy_with_integer_labels(logits, labels_B)}
        return jax.tree.map(lambda x: jnp.sum(jnp.where(valid_B, x, 0), dtype=jnp.float32), each)

    def _apply(self, params: chex.ArrayTree, images: chex.Array, segment_ids: chex.Array | None) -> Any:
        return self.module.apply({"params": params}, images, segment_ids)

    def _apply_voter(self, params: chex.ArrayTree, images: chex.Array, segment_ids: chex.Array | None) -> Any:
        """As `_apply`, for the totals alone."""
        return self.module.voter.apply({"params": params}, images, segment_ids)

    def _phi_and_parts(self, params: chex.ArrayTree, images: chex.Array) -> Any:
        return self.module.apply({"params": params}, images, method="phi_and_parts")

    def _normalize(self, images: chex.Array) -> chex.Array:
        return preprocessing.normalize(images, self.meta.mean, self.meta.std)


def setup(config: ml_collections.ConfigDict, source: sources.Source, *, num_devices: int = 1) -> Experiment:
    """The pieces of a run.

    Args:
      config: resolved, and valid (`config.validate`).
      source: the training images.
      num_devices: that share a batch.

    Raises:
      UserError: on augmentation that these images or shares of the batch do not allow, and on parts to train that the
        model has not.
    """
    optimizer, learning_rate = training.make_optimizer(
        learning_rate=config.learning_rate, warmup_steps=int(config.warmup * config.steps), steps=config.steps,
        weight_decay=config.weight_decay, b2=config.b2, clip_norm=config.clip_norm,
        train_only=tuple(config.train_only))
    meta = Meta(config=config, class_names=source.class_names, image_shape=source.image_shape,
                mean=_per_channel(config.data.mean, source.mean), std=_per_channel(config.data.std, source.std))
    module = models.build(config.model, image_shape=source.image_shape, num_classes=len(source.class_names),
                          mean=meta.mean, std=meta.std)
    if config.train_only:
        parts = models.param_shapes(module, image_shape=source.image_shape)
        if unknown := [name for name in config.train_only if name not in parts]:
            raise UserError(f"--config.train_only: the model has no part {unknown[0]!r}; it has {', '.join(parts)}")
    return Experiment(
        config=config, meta=meta, module=module,
        augment=augmentation.settings(config.augment, crops_on_read=source.crops_on_read,
                                      image_shape=source.image_shape, device_batch=config.batch_size // num_devices),
        optimizer=optimizer, learning_rate=learning_rate)


def _per_channel(given: Sequence[float], own: tuple[float, ...]) -> tuple[float, ...]:
    """What a config gives for the channels, or else the dataset's own; of gray images, three numbers are averaged."""
    if not given:
        return own
    return tuple(given) if len(given) == len(own) else (sum(given) / len(given),)
