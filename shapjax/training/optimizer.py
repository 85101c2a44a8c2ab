"""The optimizer: AdamW with a schedule, clipping, and parts of the model that are held."""

import chex
import jax
import optax


def decayed(params: chex.ArrayTree) -> chex.ArrayTree:
    """Returns True for the parameters that weight decay acts on: kernels, not norms, biases, positions or tokens."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(*, learning_rate: float, warmup_steps: int, steps: int, weight_decay: float, b2: float,
                   clip_norm: float, train_only: tuple[str, ...] = ()
                   ) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes AdamW with linear warm-up, cosine decay to zero and clipping of the global gradient norm.

    Args:
      learning_rate: the peak.
      warmup_steps, steps: of the warm-up and of the whole run, in optimizer steps.
      weight_decay: decoupled, on kernels only (`decayed`), times the learning rate.
      b2: Adam's decay of the squared gradient.
      clip_norm: largest global norm of a gradient.
      train_only: names of the parts of the model that are trained; other parts do not change, by weight decay
        either, and have no state. (): all are trained.

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
