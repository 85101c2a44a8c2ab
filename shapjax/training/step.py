"""One training step as a pure function: state and batch of stored pixels in, state and metrics out."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from shapjax.data import augmentation
from shapjax.models import preprocessing
from shapjax.training.loss import LossSettings, joint_loss

ApplyFn = Callable[[chex.ArrayTree, chex.Array, chex.Array | None], chex.Array]  # (params, images, segment_ids) -> phi


@struct.dataclass
class TrainState:
    """Holds everything that a step changes.

    Attributes:
      step: int32 scalar, steps done.
      params: the model's parameters, float32.
      opt_state: of the optimizer.
      ema_params: moving average of the parameters, or None where it is off.
      teacher: parameters that stay as loaded, whose predictions are learned from; or None.
    """

    step: chex.Array
    params: chex.ArrayTree
    opt_state: optax.OptState
    ema_params: chex.ArrayTree | None
    teacher: chex.ArrayTree | None = None


class StepSettings(NamedTuple):
    """Holds the settings of a step besides the model and the optimizer.

    Attributes:
      loss: of the joint loss.
      num_classes: K.
      mean, std: per channel, in units of [0, 1]; they normalize the pixels.
      augment: random changes of the training images.
      seed: of augmentation and coalitions.
      teacher_weight: share of the teacher's prediction in the targets; the label has the rest.
      ema_decay: of the moving average of the parameters; 0: off.
      train_only: parts of the parameters, by their first keys, that have a gradient; (): all.
      accumulate: parts of a device's batch whose gradients are computed one after the other.
    """

    loss: LossSettings
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: augmentation.AugmentSettings = augmentation.AugmentSettings()
    seed: int = 0
    teacher_weight: float = 0.0
    ema_decay: float = 0.0
    train_only: tuple[str, ...] = ()
    accumulate: int = 1


def init_state(params: chex.ArrayTree, optimizer: optax.GradientTransformation, *, ema: bool,
               teacher: bool = False) -> TrainState:
    """Returns the state before the first step; the teacher, if there is to be one, has the first parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        teacher=jax.tree.map(jnp.copy, params) if teacher else None,
    )


def inference_params(state: TrainState) -> chex.ArrayTree:
    """Returns the parameters that evaluation and explanation use: the moving average where there is one."""
    return state.params if state.ema_params is None else state.ema_params


def example_keys(seed: int, step: chex.Array, indices: chex.Array) -> chex.Array:
    """Returns one key an example, from (seed, step, example index), whatever the number and layout of devices.

    Args:
      seed: of the run.
      step: int32 scalar.
      indices: int32 [B], positions of the examples in their dataset.

    Returns:
      PRNG keys [B].
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, indices)


def train_step(state: TrainState, batch: dict[str, chex.Array], *, apply_fn: ApplyFn,
               optimizer: optax.GradientTransformation, settings: StepSettings, axis_name: str | None = None
               ) -> tuple[TrainState, dict[str, chex.Array]]:
    """Takes one optimization step on the joint loss.

    Args:
      state: before the step.
      batch: image uint8 [B, H, W, C], label int32 [B], index int32 [B]; B is this device's share where axis_name is
        given.
      apply_fn: (params, images, segment_ids) -> phi [B, N, K].
      optimizer: from `optimizer.make_optimizer`.
      settings: see `StepSettings`.
      axis_name: of the devices that share the batch; gradients and metrics are averaged over them.

    Returns:
      the state after the step, and float32 scalars: the fields of `loss.LossParts`, and gradient_norm.
    """
    s = settings
    keys_B = example_keys(s.seed, state.step, batch["index"])
    images, targets_BK = augmentation.augment(batch["image"], batch["label"], keys_B, settings=s.augment,
                                              num_classes=s.num_classes)
    images = preprocessing.normalize(images, s.mean, s.std)
    if s.teacher_weight:
        taught_BK = jax.nn.softmax(jnp.sum(apply_fn(state.teacher, images, None), axis=1))
        targets_BK = optax.incremental_update(taught_BK, targets_BK, s.teacher_weight)

    def gradients_of(images: chex.Array, targets_BK: chex.Array, keys_B: chex.Array):
        def loss_fn(params):
            params = hold(params, s.train_only)
            return joint_loss(lambda x, segment_ids: apply_fn(params, x, segment_ids), images, targets_BK, keys_B,
                              settings=s.loss, axis_name=axis_name)

        return jax.grad(loss_fn, has_aux=True)(state.params)

    gradients, parts = _mean_over_parts(gradients_of, s.accumulate, images, targets_BK, keys_B)
    if axis_name:
        gradients, parts = jax.lax.pmean((gradients, parts), axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    if s.train_only:  # decay would move the others
        updates = {key: x if key in s.train_only else jax.tree.map(jnp.zeros_like, x) for key, x in updates.items()}
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        # The decay grows from 0, so that the average does not remember the initial parameters (as in TensorFlow's EMA).
        decay = jnp.minimum(s.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        # Held parts stay equal to the bit; an average of equal numbers need not.
        new, old = ({key: tree[key] for key in s.train_only or tree} for tree in (params, ema_params))
        ema_params = ema_params | optax.incremental_update(new, old, 1.0 - decay)
    metrics = parts._asdict() | {"gradient_norm": optax.tree.norm(gradients)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params), metrics


def hold(params: chex.ArrayTree, train_only: tuple[str, ...]) -> chex.ArrayTree:
    """Returns the same parameters, constants for the gradient but for the named parts; with no names, for none.

    Layers that only constants come before get no backward pass.
    """
    if not train_only:
        return params
    return {key: part if key in train_only else jax.lax.stop_gradient(part) for key, part in params.items()}


def _mean_over_parts(fn: Callable[..., chex.ArrayTree], num_parts: int, *arrays: chex.Array) -> chex.ArrayTree:
    """Returns the mean of fn over equal parts of the rows of arrays, one after the other, in the memory of one."""
    if num_parts == 1:
        return fn(*arrays)
    # Part p takes every num_parts-th row: rows that are split over devices stay where they are.
    parts = [jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0) for x in arrays]
    total = jax.eval_shape(fn, *(x[0] for x in parts))
    total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), total)

    def add(total: chex.ArrayTree, part: list[chex.Array]) -> tuple[chex.ArrayTree, None]:
        return jax.tree.map(jnp.add, total, fn(*part)), None

    total, _ = jax.lax.scan(add, total, parts)
    return jax.tree.map(lambda x: x / num_parts, total)
