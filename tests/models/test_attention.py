"""`attend` is the attention of JAX, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.models.attention import attend


def inputs(dtype=jnp.float32, *, scale=1.0):
    q, k, v, weight = (jax.random.normal(key, (2, 7, 3, 4), dtype) for key in jax.random.split(jax.random.key(0), 4))
    return (scale * q, k, v), weight


def mask():
    segment_ids = jax.random.bernoulli(jax.random.key(1), 0.4, (2, 7))
    return segment_ids[:, :, None] == segment_ids[:, None, :]


def value_and_gradients(fn, arrays, weight, masked):
    def total(q, k, v):
        y = fn(q, k, v, mask() if masked else None)
        return jnp.sum(y.astype(jnp.float32) * weight), y

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(*arrays)


def of_jax(q, k, v, mask_BTT):
    return jax.nn.dot_product_attention(q, k, v, mask=None if mask_BTT is None else mask_BTT[:, None])


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_jax(masked, dtype, tolerance):
    arrays, weight = inputs(dtype)
    (_, y), gradients = value_and_gradients(attend, arrays, weight, masked)
    (_, expected), expected_gradients = value_and_gradients(of_jax, arrays, weight, masked)
    assert y.dtype == dtype and all(gradient.dtype == dtype for gradient in gradients)
    np.testing.assert_allclose(np.float32(y), np.float32(expected), atol=tolerance, rtol=tolerance)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(np.float32(gradient), np.float32(expected_gradient), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("masked", [False, True])
def test_large_scores_do_not_overflow(masked):
    arrays, weight = inputs(scale=1e3)
    (_, y), gradients = value_and_gradients(attend, arrays, weight, masked)
    (_, expected), _ = value_and_gradients(of_jax, arrays, weight, masked)
    np.testing.assert_allclose(y, expected, atol=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_it_can_be_mapped_over_masks():
    (q, k, v), weight = inputs()
    masks = jnp.stack([mask(), jnp.ones_like(mask())])

    def total(q, k, v, mask_BTT):
        return jnp.sum(attend(q, k, v, mask_BTT) * weight)

    gradient = jax.grad(total, argnums=(0, 1, 2))
    mapped = jax.vmap(gradient, in_axes=(None, None, None, 0))(q, k, v, masks)
    for i in range(2):
        for a, b in zip(mapped, gradient(q, k, v, masks[i]), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-5)
