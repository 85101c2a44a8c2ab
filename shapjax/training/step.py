"""One training step as a pure function: state and batch in, state and metrics out."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from shapjax.training import loss as losses

ApplyFn = Callable[[chex.ArrayTree, chex.Array, chex.Array | None], chex.Array]  # (params, images, segment_ids) -> phi


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 scalar, steps done.
      params: the model's parameters, float32.
      opt_state: of the optimizer.
      ema_params: moving average of the parameters, or None where it is off.
      teacher: parameters that stay as they are, whose predictions are learned from; None: there are none.
    """

    step: chex.Array
    params: chex.ArrayTree
    opt_state: optax.OptState
    ema_params: chex.ArrayTree | None
    teacher: chex.ArrayTree | None = None


class StepSettings(NamedTuple):
    """What a step is made of besides the model and the optimizer."""

    loss: losses.LossSettings
    shapley_weight: optax.Schedule
    ema_decay: float  # 0 = off
    train_only: tuple[str, ...] = ()  # parts of the parameters, by their first keys, that have a gradient; (): all
    accumulate: int = 1  # parts of a device's batch whose gradients are computed one after the other


def decayed(params: chex.ArrayTree) -> chex.ArrayTree:
    """True for the parameters that weight decay acts on: kernels, not norms, biases, positions or extra tokens."""

    def is_kernel(path, _):
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def hold(params: chex.ArrayTree, train_only: tuple[str, ...]) -> chex.ArrayTree:
    """The same parameters, constants for the gradient but for the named parts; with no names, for none of them.

    Of what only constants come before, no backward pass is computed.
    """
    if not train_only:
        return params
    return {key: part if key in train_only else jax.lax.stop_gradient(part) for key, part in params.items()}


def make_optimizer(
    *, learning_rate: float, warmup_steps: int, steps: int, weight_decay: float, b2: float, clip_norm: float,
    train_only: tuple[str, ...] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW with linear warm-up, cosine decay to zero and clipping of the global gradient norm.

    Args:
      learning_rate: the peak.
      warmup_steps, steps: of the warm-up and of the whole run, in optimizer steps.
      weight_decay: decoupled, on kernels only (`decayed`), times the learning rate.
      b2: Adam's decay of the squared gradient.
      clip_norm: largest global norm of a gradient.
      train_only: as of `StepSettings`; other parts are not changed, by weight decay either, and have no state.

    Returns:
      the optimizer and its learning-rate schedule.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, max(steps, warmup_steps + 1))
    optimizer = optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, b2=b2, weight_decay=weight_decay, mask=decayed),
    )
    if train_only:
        optimizer = optax.partition(
            {"trained": optimizer, "held": optax.set_to_zero()},
            lambda params: {key: "trained" if key in train_only else "held" for key in params})
    return optimizer, schedule


def weight_schedule(weight: float, *, begin: int, warmup_steps: int) -> optax.Schedule:
    """shapley_weight at a step: linear from 0 over the warm-up, which starts at step `begin`, then constant."""
    return optax.linear_schedule(0.0, weight, warmup_steps, begin) if warmup_steps else optax.constant_schedule(weight)


def init_state(params: chex.ArrayTree, optimizer: optax.GradientTransformation, *, ema: bool,
               teacher: bool = False) -> TrainState:
    """The state before the first step; its teacher, if it is to have one, are the first parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        teacher=jax.tree.map(jnp.copy, params) if teacher else None,
    )


def inference_params(state: TrainState) -> chex.ArrayTree:
    """The parameters that evaluation and explanation use: the moving average where there is one."""
    return state.params if state.ema_params is None else state.ema_params


def example_keys(seed: int, step: chex.Array, indices: chex.Array) -> chex.Array:
    """One key an example, from (seed, step, example index): independent of the number and layout of devices.

    Args:
      seed: of the run.
      step: int32 scalar.
      indices: int32 [B], positions of the examples in their dataset.

    Returns:
      PRNG keys [B].
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(step_key, indices)


def train_step(
    state: TrainState,
    images: chex.Array,
    targets: chex.Array,
    keys: chex.Array,
    *,
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    settings: StepSettings,
    axis_name: str | None = None,
    parts_fn: Callable[[chex.ArrayTree, chex.Array], losses.Parts] | None = None,
) -> tuple[TrainState, dict[str, chex.Array]]:
    """One optimization step on the joint loss.

    Args:
      state: before the step.
      images: float32 [B, H, W, C], normalized; B is this device's share where axis_name is given.
      targets: float32 [B, K], see `losses.joint_loss`.
      keys: PRNG keys [B], of each example's coalitions, see `example_keys`.
      apply_fn: (params, images, segment_ids) -> phi [B, N, K].
      optimizer: from `make_optimizer`.
      settings: see `StepSettings`.
      axis_name: of the devices that share the batch; gradients and metrics are averaged over them.
      parts_fn: (params, images) -> phi and its parts, of a model with an allocation head; else None.

    Returns:
      the state after the step, and float32 scalars: the fields of `losses.LossParts`, shapley_weight, gradient_norm.
    """
    weight = settings.shapley_weight(state.step)

    def gradients_of(images: chex.Array, targets: chex.Array, keys: chex.Array):
        def loss_fn(params):
            params = hold(params, settings.train_only)

            def phi_fn(x: chex.Array, segment_ids: chex.Array | None) -> chex.Array:
                return apply_fn(params, x, segment_ids)

            return losses.joint_loss(phi_fn, images, targets, keys, shapley_weight=weight, settings=settings.loss,
                                     axis_name=axis_name,
                                     parts_fn=parts_fn and functools.partial(parts_fn, params))

        return jax.grad(loss_fn, has_aux=True)(state.params)

    gradients, parts = _mean_over_parts(gradients_of, settings.accumulate, images, targets, keys)
    if axis_name:
        gradients, parts = jax.lax.pmean((gradients, parts), axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = state.ema_params
    if ema_params is not None:
        # The decay grows from 0, so that the average does not remember the initial parameters (as in TensorFlow's EMA).
        decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        # What is held stays as it is to the bit; an average of equal numbers need not.
        new, old = ({key: tree[key] for key in settings.train_only or tree} for tree in (params, ema_params))
        ema_params = ema_params | optax.incremental_update(new, old, 1.0 - decay)
    metrics = parts._asdict() | {"shapley_weight": jnp.asarray(weight, jnp.float32),
                                 "gradient_norm": optax.tree.norm(gradients)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params), metrics


def _mean_over_parts(fn: Callable[..., chex.ArrayTree], num_parts: int, *arrays: chex.Array) -> chex.ArrayTree:
    """The mean of fn over equal parts of the rows of arrays, one after the other, in the memory of one."""
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
