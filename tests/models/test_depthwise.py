"""The convolution of each channel alone: the form for CPUs equals XLA's own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.models import depthwise


@pytest.mark.parametrize(("shape", "size"), [((2, 9, 6, 3), 7), ((1, 2, 3, 2), 5), ((2, 4, 4, 1), 1)])
def test_the_sum_of_shifted_images_is_the_convolution_with_its_gradients(shape, size, rng):
    x, kernel, weight = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (size, size, shape[-1]), shape))

    def value_and_gradients(convolve):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(convolve(*a) * weight), argnums=(0, 1)))(x, kernel)

    np.testing.assert_allclose(depthwise.by_shifts(x, kernel), depthwise.by_xla(x, kernel), atol=1e-5)
    chex.assert_trees_all_close(value_and_gradients(depthwise.by_shifts), value_and_gradients(depthwise.by_xla),
                                rtol=1e-4, atol=1e-4)


def test_bfloat16_sums_in_float32(rng):
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, 8, 8, 2), (7, 7, 2)))
    exact = depthwise.by_xla(x.astype(jnp.float32), kernel.astype(jnp.float32))
    y = depthwise.by_shifts(x, kernel)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=1e-2, atol=1e-2)


def test_the_layer_uses_it_in_a_loop_and_under_vmap(rng):
    module = depthwise.DepthwiseConv(3, jnp.float32)
    params = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    x = jnp.asarray(rng.normal(size=(3, 2, 4, 4, 2)), jnp.float32)
    each = jnp.stack([module.apply(params, part) for part in x])
    np.testing.assert_allclose(jax.vmap(lambda part: module.apply(params, part))(x), each, atol=1e-6)
    looped = jax.lax.scan(lambda carry, part: (carry, module.apply(params, part)), None, x)[1]
    np.testing.assert_allclose(looped, each, atol=1e-6)
