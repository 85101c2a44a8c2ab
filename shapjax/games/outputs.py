"""Outputs of a classifier: what is computed from logits and read of a pass, of one class or of all."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from shapjax.games import contract


def log_odds(logits: chex.Array) -> chex.Array:
    """Computes log(p / (1 - p)) of every class, float32 [..., K], exact where the probability p rounds to 0 or 1.

    The log-odds are the class's logit less the logsumexp of the others. For all classes but the largest, p ≤ 1/2, so
    that log(1 - p) can be computed from p.

    Args:
      logits: [..., K], K of at least 2.
    """
    logits = logits.astype(jnp.float32)
    is_largest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    log_p = jax.nn.log_softmax(logits)
    others = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, logits), axis=-1, keepdims=True)
    return jnp.where(is_largest, logits - others, log_p - jnp.log1p(-jnp.where(is_largest, 0, jnp.exp(log_p))))


# Outputs that are computed from logits; a coalition's value is one of these, of the class that is explained.
OUTPUTS: dict[str, Callable[[chex.Array], chex.Array]] = {
    "logit": lambda logits: logits.astype(jnp.float32),
    "probability": lambda logits: jax.nn.softmax(logits.astype(jnp.float32)),
    "log_probability": lambda logits: jax.nn.log_softmax(logits.astype(jnp.float32)),
    "log_odds": log_odds,
}
Reader = Callable[[chex.Array, chex.Array], chex.Array]  # (logits [rows, K], image of each row [rows]) -> [rows, ...]


def all_classes(output: str = "logit") -> Reader:
    """Makes a reader of an output (a key of `OUTPUTS`) of every class: [rows, K]."""
    fn = _output(output)
    return lambda logits, _: fn(logits)


def target_class(targets: chex.Array, output: str = "logit") -> Reader:
    """Makes a reader of an output (a key of `OUTPUTS`) of each image's target class: [rows].

    Targets are int [B] or one-hot [B, K]. One that is no class raises UserError; inside of jit it is read as NaN.
    """
    fn = _output(output)

    def read(logits: chex.Array, image: chex.Array) -> chex.Array:
        classes = jnp.asarray(contract.as_targets(targets, logits.shape[-1]))
        index = classes.at[image].get(mode="fill", fill_value=contract.NO_CLASS)  # for images without a target
        return jnp.take_along_axis(fn(logits), index[:, None], axis=1)[:, 0]

    return read


def _output(name: str) -> Callable:
    if name not in OUTPUTS:
        raise ValueError(f"output is {name!r}, expected one of {', '.join(OUTPUTS)}")
    return OUTPUTS[name]
