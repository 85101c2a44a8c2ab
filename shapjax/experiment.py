"""From a config and a dataset to the pieces of a run: model, optimiser, first state, training step, predictor."""

import dataclasses
from typing import Any

import chex
import jax
import ml_collections
import optax
from flax import linen as nn

from shapjax import losses, models, parallel, preprocessing, training
from shapjax.checkpoint import Meta
from shapjax.data import sources


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The pieces of a run; made by `setup`.

    Attributes:
      config: resolved.
      meta: what a checkpoint of the run needs besides the state.
      module: the model.
      optimizer, learning_rate: and its schedule.
    """

    config: ml_collections.ConfigDict
    meta: Meta
    module: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule

    def init_state(self) -> training.TrainState:
        """The state before the first step, fixed by the config's seed."""
        params = models.init_params(self.module, jax.random.key(self.config.seed), image_shape=self.meta.image_shape)
        return training.init_state(params, self.optimizer, ema=self.config.ema_decay > 0)

    def step(self, state: training.TrainState, batch: dict[str, chex.Array], *, axis_name: str | None = parallel.AXIS
             ) -> tuple[training.TrainState, dict[str, chex.Array]]:
        """One training step on stored pixels, as `parallel.data_parallel` takes it.

        Args:
          state: before the step.
          batch: image uint8 [B, H, W, C], label int32 [B], index int32 [B]; this device's share.
          axis_name: of the devices that share the batch; None outside of `pmap`.

        Returns:
          the state after the step, and the metrics of `training.train_step` with the learning rate.
        """
        c = self.config
        settings = training.StepSettings(
            seed=c.seed,
            loss=losses.LossSettings(
                num_pairs=c.num_pairs, masked_weight=c.masked_weight, label_smoothing=c.label_smoothing,
                shapley_gradient=c.shapley_gradient, shapley_scale=c.shapley_scale),
            shapley_weight=training.weight_schedule(c.shapley_weight, int(c.shapley_warmup * c.steps)),
            ema_decay=c.ema_decay)
        next_state, metrics = training.train_step(
            state, self._normalize(batch["image"]), batch["label"], batch["index"], apply_fn=self._apply,
            optimizer=self.optimizer, settings=settings, axis_name=axis_name)
        return next_state, metrics | {"learning_rate": self.learning_rate(state.step)}

    def logits(self, params: chex.ArrayTree, images: chex.Array) -> chex.Array:
        """Class scores float32 [B, K] of stored pixels uint8 [B, H, W, C]."""
        return self._apply(params, self._normalize(images), None).sum(axis=1)

    def _apply(self, params: chex.ArrayTree, images: chex.Array, sides: chex.Array | None) -> Any:
        return self.module.apply({"params": params}, images, sides)

    def _normalize(self, images: chex.Array) -> chex.Array:
        return preprocessing.normalize(images, self.meta.mean, self.meta.std)


def setup(config: ml_collections.ConfigDict, source: sources.Source) -> Experiment:
    """The pieces of a run of a resolved config on the images of a source."""
    optimizer, learning_rate = training.make_optimizer(
        learning_rate=config.learning_rate, warmup_steps=int(config.warmup * config.steps), steps=config.steps,
        weight_decay=config.weight_decay, b2=config.b2, clip_norm=config.clip_norm)
    return Experiment(
        config=config,
        meta=Meta(config=config, class_names=source.class_names, image_shape=source.image_shape, mean=source.mean,
                  std=source.std),
        module=models.build(config.model, image_shape=source.image_shape, num_classes=len(source.class_names)),
        optimizer=optimizer, learning_rate=learning_rate)
