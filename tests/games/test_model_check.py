"""What only running a model tells: training mode, probabilities, masks read the other way round."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.games.conftest import IMAGES, K, network, refused, wrapped


class Trained(nn.Module):
    """Has both batch normalization and dropout, in training or evaluation mode."""

    norm: bool = False
    drop: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.norm)(x.reshape(len(x), -1))
        return nn.Dropout(0.1, deterministic=not self.drop)(nn.Dense(K)(x))


VARIABLES = Trained().init(jax.random.key(0), IMAGES)


def in_mode(key=0, **mode):
    def fn(variables, x):
        return Trained(**mode).apply(variables, x, rngs={"dropout": jax.random.key(key)}, mutable=["batch_stats"])[0]

    return wrapped(fn, VARIABLES)


def drawn(x):
    return network(x) + np.random.default_rng().normal(size=K)


class Dropping(nnx.Module):
    def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(network(x))


def nnx_model(evaluate):
    model = Dropping()
    if evaluate:
        model.eval()
    graph, state = nnx.split(model)
    return wrapped(lambda s, x: nnx.merge(graph, s)(x), state)


@pytest.mark.parametrize("count", [1, 3])
def test_training_mode_is_found(count):
    for model in (in_mode(), nnx_model(True), wrapped(network), wrapped(lambda x: network(x).astype(jnp.bfloat16))):
        model.check(IMAGES[:count])
    for model in (in_mode(norm=True), in_mode(drop=True), in_mode(norm=True, drop=True)):
        assert "with the other images of its batch, or with its place: wrap" in refused(model.check, IMAGES[:count])
    for model in (wrapped(drawn), nnx_model(False)):
        assert "two evaluations of the same images differ" in refused(model.check, IMAGES[:count])


def test_logits_that_are_not_finite_are_found():
    model = wrapped(lambda x: network(x) / (x[:, 0, 0, :1] != IMAGES[1, 0, 0, 0]))
    assert "not finite for 1 of 3 images, the first in row 1" in refused(model.check, IMAGES)
    model.check(IMAGES[[0, 2]])


def test_probabilities_are_no_logits():
    assert "returns probabilities, expected logits" in refused(wrapped(lambda x: nn.softmax(network(x))).check, IMAGES)


@pytest.mark.parametrize("count", [1, 3])
def test_coalitions_are_held_to_the_whole_image_and_to_finite_values(count):
    def visible(p, x, mask):
        return network(x) * mask.mean(axis=1, keepdims=True)

    wrapped(network).replace(coalition_fn=visible).check(IMAGES[:count])
    inverted = wrapped(network).replace(coalition_fn=lambda p, x, mask: visible(p, x, ~mask))
    assert "the coalition of all patches has other logits" in refused(inverted.check, IMAGES[:count])
    bad = wrapped(network).replace(coalition_fn=lambda p, x, mask: network(x) / mask.all(axis=1, keepdims=True))
    assert "logits of coalitions are not finite" in refused(bad.check, IMAGES[:count])


def test_half_precision_and_another_program_for_coalitions_are_no_other_model():
    def half(x):
        return network(x).astype(jnp.bfloat16)

    model = wrapped(half).replace(coalition_fn=lambda p, x, mask: half(x * 1.004) * mask.mean(axis=1, keepdims=True))
    model.check(IMAGES)
