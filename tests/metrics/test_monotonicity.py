"""Monotone means: no patch lowers the probability, revealed from the least important on."""

import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.metrics import monotonicity, perturbation


def curves(*deleted):
    """Of class 0 of two, from p without the first 0 … N patches of the order."""
    p = jnp.asarray([deleted], jnp.float32)
    logits = jnp.log(jnp.stack([p, 1 - p], axis=-1))
    return perturbation.Curves(logits[:, ::-1], logits)


@pytest.mark.parametrize(("deleted", "monotone"), [
    ((0.9, 0.7, 0.5, 0.2), 1),  # read from the right: 0.5, 0.7, 0.9
    ((0.9, 0.9, 0.5, 0.2), 1),  # staying level is no fall
    ((0.9, 0.5, 0.7, 0.2), 0),
    ((0.8, 0.9, 0.5, 0.2), 0),  # the most important patch lowers it
    ((0.9, 0.7, 0.5, 0.6), 1),  # the value of no patches at all does not count
])
def test_falls_count_from_one_visible_patch_on(deleted, monotone):
    assert monotonicity.monotonicity(curves(*deleted), jnp.zeros(1, int))[0] == monotone


def test_the_target_is_the_predicted_class_unless_given():
    rising = curves(0.1, 0.3, 0.5, 0.8)
    assert monotonicity.monotonicity(rising)[0] == 1  # class 1 is predicted, and falls as 0 rises
    assert monotonicity.monotonicity(rising, np.zeros(1, int))[0] == 0
