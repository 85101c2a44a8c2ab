"""The optimizer: AdamW with a schedule and clipping, and what fine-tuning adds to it.

Pretrained layers are trained the less the nearer they are to the pixels (Clark et al. 2020), and a new head is trained
alone first (linear probe, then fine-tuning: Kumar et al. 2022).
"""

import chex
import jax
import jax.numpy as jnp
import optax

from shapjax.models import HEADS

PROBE_RATE = 1e-3  # the learning rate of a head that is trained alone


def decayed(params: chex.ArrayTree) -> chex.ArrayTree:
    """Returns True for the parameters that weight decay acts on: kernels, not norms, biases, positions or tokens."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def rate_factors(params: chex.ArrayTree, *, layer_decay: float, head_rate: float) -> chex.ArrayTree:
    """Returns factors on the learning rates of a ViT's parameters, arrays that broadcast against them.

    Of L blocks, block i (from 0) has layer_decay^(L-1-i), what comes before the blocks layer_decay^L, the last norm 1.
    """
    depth = len(jax.tree.leaves(params["blocks"])[0]) if "blocks" in params else 0

    def factor(path: tuple, x: chex.Array) -> chex.Array:
        key = path[0].key
        if key == "blocks":
            return layer_decay ** jnp.arange(depth - 1.0, -1, -1).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.float32(head_rate if key in HEADS else 1 if key == "norm" else layer_decay**depth)

    return jax.tree_util.tree_map_with_path(factor, params)


def make_optimizer(*, learning_rate: float, steps: int, warmup_steps: int = 0, probe_steps: int = 0, floor: float = 0.0,
                   weight_decay: float = 0.05, b2: float = 0.99, clip_norm: float = 1.0, layer_decay: float = 1.0,
                   head_rate: float = 1.0, train_only: tuple[str, ...] = ()
                   ) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Makes AdamW with clipping of the global gradient norm and a schedule: a probe, a linear warm-up, a cosine.

    Args:
      learning_rate: the peak.
      steps: of the whole run.
      warmup_steps: over which the learning rate grows from 0.
      probe_steps: the first steps, before the warm-up, which train the head alone at `PROBE_RATE`.
      floor: the learning rate at the end over the peak.
      weight_decay: decoupled, on kernels only (`decayed`), times the learning rate.
      b2: Adam's decay of the squared gradient.
      clip_norm: largest global norm of a gradient.
      layer_decay, head_rate: see `rate_factors`.
      train_only: names of the parts of the model that are trained; other parts do not change, by weight decay
        either, and have no state. (): all are trained.

    Returns:
      the optimizer and its schedule: steps done -> learning rate, to which `rate_factors` apply.
    """
    rest = max(steps - probe_steps, warmup_steps + 1)
    schedule = optax.join_schedules(
        [optax.constant_schedule(PROBE_RATE / head_rate),
         optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, rest, floor * learning_rate)],
        [probe_steps])
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm),
                            optax.adamw(schedule, b2=b2, weight_decay=weight_decay, mask=decayed))
    if train_only:
        optimizer = optax.partition(
            {"trained": optimizer, "held": optax.set_to_zero()},
            lambda params: {key: "trained" if key in train_only else "held" for key in params})
    if layer_decay != 1 or head_rate != 1:
        def scale(updates: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
            return jax.tree.map(jnp.multiply, updates,
                                rate_factors(params, layer_decay=layer_decay, head_rate=head_rate))

        optimizer = optax.chain(optimizer, optax.stateless(scale))
    return optimizer, schedule
