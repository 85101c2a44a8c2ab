"""Attention methods against full matrix products, on maps whose gradient is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.attribution import attention_maps
from shapjax.games import classifier, removal

L, B, H, N, T = 3, 2, 2, 4, 6  # layers, images, heads, patches, tokens: two are not patches
TARGETS = np.array([2, 0])


@pytest.fixture(scope="module")
def example():
    """Returns a classifier with logits_k = z + z²/2, z = ⟨C_k, A⟩, whose gradient is (1 + z) C_k; and its arrays."""
    rng = np.random.default_rng(0)
    params = {"scores": rng.normal(size=(L, H, T, T)), "class": rng.normal(size=(3, L, H, T, T)),
              "relevance": rng.normal(size=(3, L, H, T, T))}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    images = rng.normal(size=(B, 2, 2, 1)).astype(np.float32)

    def attention_fn(params, images, delta):
        maps = jax.nn.softmax(params["scores"][:, None] * images.sum(axis=(1, 2))[:, :, None, None])
        maps = maps if delta is None else maps + delta
        z = jnp.einsum("klhts,lbhts->bk", params["class"], maps)
        return z + z**2 / 2, maps

    def relevance_fn(params, images, targets):
        return jnp.moveaxis(params["relevance"][targets], 0, 1)

    def make(**fields):
        functions = dict(attention_fn=attention_fn, relevance_fn=relevance_fn)
        return classifier.wrap(lambda p, x: attention_fn(p, x, None)[0], params, grid=(2, 2),
                               removal=removal.Constant(0.0), **(functions | fields))

    maps = np.asarray(attention_fn(params, images, None)[1], np.float64)
    chosen = np.moveaxis(params["class"][TARGETS], 0, 1)
    gradient = chosen * (1 + (chosen * maps).sum(axis=(0, 2, 3, 4)))[:, None, None, None]
    return make, images, maps, gradient, np.moveaxis(params["relevance"][TARGETS], 0, 1)


def product(matrices):
    """Multiplies the matrices [L, B, T, T], the last layer's on the left."""
    out = np.broadcast_to(np.eye(T), (B, T, T))
    for matrix in matrices:
        out = matrix @ out
    return out


def expected(method, maps, gradient, relevance):
    """Returns [B, T, T] by the definition."""
    if method is attention_maps.attention:
        return maps[-1].mean(axis=1)
    if method is attention_maps.rollout:
        with_identity = maps.mean(axis=2) + np.eye(T)
        return product(with_identity / with_identity.sum(axis=-1, keepdims=True))
    weight = maps if method is attention_maps.gradient_rollout else relevance
    return product(np.eye(T) + np.maximum(gradient * weight, 0).mean(axis=2))


METHODS = [attention_maps.attention, attention_maps.rollout, attention_maps.gradient_rollout, attention_maps.relevance]


@pytest.mark.parametrize("batch_size", [256, 1])
@pytest.mark.parametrize("method", METHODS)
def test_with_a_class_token_its_row_is_read(example, method, batch_size):
    make, images, *arrays = example
    out = method(make(attention_readout="class_token"), images, TARGETS, batch_size=batch_size)
    np.testing.assert_allclose(out, expected(method, *arrays)[:, 0, T - N:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_with_patches_as_readout_the_mean_of_their_rows_is_read(example, method):
    make, images, *arrays = example
    out = method(make(), images, TARGETS)
    np.testing.assert_allclose(out, expected(method, *arrays)[:, T - N:, T - N:].mean(axis=1), rtol=1e-4, atol=1e-5)


def test_uniform_attention_rolls_out_to_equal_shares(example):
    make, images, *_ = example

    def uniform(params, images, delta):
        return jnp.zeros((B, 3)), jnp.full((L, B, H, N, N), 1 / N)  # every token a patch

    out = attention_maps.rollout(make(attention_fn=uniform), images, TARGETS)
    np.testing.assert_allclose(out, np.full((B, N), 1 / N), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_what_is_needed_is_refused(example, method):
    make, images, *_ = example
    missing = {"relevance_fn": None} if method is attention_maps.relevance else {"attention_fn": None}
    with pytest.raises(ValueError, match=f"give {next(iter(missing))}"):
        method(make(**missing), images, TARGETS)
