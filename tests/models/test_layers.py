"""The layers that backbones share: a pooled norm that can be shared out, activations as published."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shapjax.models import layers


@pytest.fixture
def pooled(rng):
    """A pooled norm with parameters, and tokens [2, 5, 6] whose mean and spread differ from one to the next."""
    norm = layers.PooledNorm(epsilon=1e-3, dtype=jnp.float32)
    params = {name: jnp.asarray(rng.normal(size=6), jnp.float32) for name in ("scale", "bias")}
    tokens = jnp.asarray(rng.normal(size=(2, 5, 6)) * rng.uniform(1, 3, size=(2, 5, 1)) + 1, jnp.float32)
    return lambda segment_ids=None, tokens=tokens: norm.apply({"params": params}, tokens, segment_ids), params, tokens


def test_the_mean_of_a_pooled_norm_is_the_norm_of_the_mean(pooled):
    normalize, params, tokens = pooled
    expected = nn.LayerNorm(1e-3).apply({"params": params}, tokens.mean(axis=1))
    np.testing.assert_allclose(normalize().mean(axis=1), expected, atol=1e-5)


def test_each_side_of_a_pooled_norm_is_normalized_as_if_alone(pooled):
    normalize, _, tokens = pooled
    segment_ids = np.array([True, False, True, True, False])
    both = normalize(jnp.broadcast_to(segment_ids, (2, 5)))
    for side in (segment_ids, ~segment_ids):
        np.testing.assert_allclose(both[:, side], normalize(tokens=tokens[:, side]), atol=1e-5)
    assert np.abs(both - normalize()).max() > 1e-2


def test_an_empty_side_of_a_pooled_norm_gives_no_nan(pooled):
    normalize, _, _ = pooled
    whole = normalize(jnp.ones((2, 5), bool))
    np.testing.assert_allclose(whole, normalize(), atol=1e-6)
    gradient = jax.grad(lambda tokens: normalize(jnp.ones((2, 5), bool), tokens).sum())(pooled[2])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "reference"), [
    ("gelu", torch.nn.functional.gelu), ("gelu_tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x))])
def test_activations_are_torchs(name, reference):
    x = np.linspace(-5, 5, 101, dtype=np.float32)
    np.testing.assert_allclose(layers.ACTIVATIONS[name](x), reference(torch.tensor(x)), atol=1e-6)


def test_a_votings_head_is_linear_with_what_follows_it(rng):
    head = layers.PatchHead(3, scale="sqrt", center=True)
    params = {"kernel": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), "bias": jnp.arange(3.0)}
    x = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
    kernel, bias = (head.follow(params[name], 16) for name in ("kernel", "bias"))
    votes = head.apply({"params": params}, x, 16)
    np.testing.assert_allclose(votes, x @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(votes.sum(axis=-1), 0, atol=1e-5)
