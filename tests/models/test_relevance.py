"""The rules of relevance propagation return the right relevance, and conserve its total."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.models import relevance, vit_relevance
from tests.conftest import PIXELS


def propagate(fn, arguments, given):
    """Returns the relevance of the arguments if the outputs have the relevance `given`."""
    return jax.vjp(fn, *arguments)[1](jnp.asarray(given, jnp.float32))


def test_linear_shares_relevance_in_proportion_to_the_positive_terms():
    x = jnp.array([[2.0, -1.0, 3.0]])
    kernel = jnp.array([[1.0, 0.0], [-4.0, -1.0], [-5.0, 2.0]])
    bias = jnp.array([100.0, 0.0])
    np.testing.assert_array_equal(relevance.linear(x, kernel, bias), x @ kernel + bias)
    to_x, to_kernel, to_bias = propagate(relevance.linear, (x, kernel, bias), [[6.0, 7.0]])
    # terms of output 0: 2, 4, -15; of output 1: 0, 1, 6. The negative one gets nothing, nor does the bias.
    np.testing.assert_allclose(to_x, [[2.0, 4.0 + 1.0, 6.0]], rtol=1e-6)
    assert not to_kernel.any() and not to_bias.any()


def test_a_product_gives_each_factor_half_in_proportion_to_its_terms():
    a, b = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, -1.0], [1.0, 2.0]])  # outputs 1·3 + 2·1 and -1 + 4
    to_a, to_b = propagate(lambda a, b: relevance.product("ij,jk->ik", a, b), (a, b), [[10.0, 6.0]])
    np.testing.assert_allclose(to_a, [[(6 - 2) / 2, (4 + 8) / 2]], rtol=1e-6)
    np.testing.assert_allclose(to_b, [[6 / 2, -2 / 2], [4 / 2, 8 / 2]], rtol=1e-6)


def test_addition_corrects_the_totals_of_each_image_on_its_own():
    a, b = jnp.array([[3.0, 1.0], [1.0, 1.0]]), jnp.array([[1.0, -0.5], [1.0, 3.0]])
    to_a, to_b = propagate(relevance.add, (a, b), [[4.0, 1.0], [2.0, 4.0]])
    # image 0: in proportion a gets (3, 2) and b (1, -1), whose total is 0, so a takes it all; image 1: (1, 1), (1, 3).
    np.testing.assert_allclose(to_a, [[3.0, 2.0], [1.0, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(to_b, [[0.0, 0.0], [1.0, 3.0]], atol=1e-6)
    # a in proportion gets (4, -1), b (-3, 2): totals 3 and -1, made ¾ and ¼ of the whole 2.
    to_a, to_b = propagate(relevance.add, (jnp.array([[4.0, -1.0]]), jnp.array([[-3.0, 2.0]])), [[1.0, 1.0]])
    np.testing.assert_allclose(to_a, [[4.0 / 2, -1.0 / 2]], rtol=1e-6)
    np.testing.assert_allclose(to_b, [[-3.0 * -0.5, 2.0 * -0.5]], rtol=1e-6)


def test_relevance_passes_through_a_nonlinearity_and_adds_up_where_a_value_is_used_twice():
    x = jnp.array([[1.0, -2.0]])
    np.testing.assert_allclose(relevance.elementwise(jnp.exp, x), jnp.exp(x))
    (to_x,) = propagate(lambda x: relevance.elementwise(jnp.exp, x), (x,), [[5.0, 7.0]])
    np.testing.assert_array_equal(to_x, [[5.0, 7.0]])
    _, pullback = jax.vjp(lambda x: (relevance.elementwise(jnp.exp, x), relevance.elementwise(jnp.tanh, x)), x)
    np.testing.assert_array_equal(pullback((jnp.array([[5.0, 7.0]]), jnp.array([[1.0, 1.0]])))[0], [[6.0, 8.0]])


@pytest.mark.parametrize(("fn", "shapes"), [
    (lambda x, w: relevance.linear(x, w, jnp.ones(5)), [(2, 3, 16), (16, 5)]),
    (lambda a, b: relevance.product("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)]),
    (relevance.add, [(2, 3, 4), (2, 3, 4)]),
])
def test_nothing_is_lost_or_made(rng, fn, shapes):
    arguments = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    given = rng.normal(size=jax.eval_shape(fn, *arguments).shape)
    received = propagate(fn, arguments, given)
    np.testing.assert_allclose(sum(float(r.sum()) for r in received), given.sum(), rtol=1e-4)


def test_what_is_zero_everywhere_takes_nothing_and_does_not_divide_by_zero():
    zero = jnp.zeros((1, 2))
    for fn in (lambda x: relevance.linear(x, jnp.eye(2), jnp.zeros(2)), lambda x: relevance.add(x, -x),
               lambda x: relevance.product("ij,jk->ik", x, jnp.eye(2))):
        np.testing.assert_array_equal(propagate(fn, (zero,), [[1.0, 2.0]])[0], zero)


def test_the_transformers_pass_is_the_models_own_with_layer_scale_too(tiny_vit, rng):
    module, params, apply = tiny_vit(class_token=True, layer_scale=True)
    images = jnp.asarray(rng.normal(size=(2, *PIXELS)), jnp.float32)
    tokens, _ = module.apply({"params": params}, images, method=lambda module, x: module.sequence(module.embed(x)))
    t = tokens.shape[1]
    patch_logits = vit_relevance.patch_logits(module, params, tokens, jnp.zeros((2, 2, module.heads, t, t)))
    np.testing.assert_allclose(patch_logits, apply(params, images), atol=1e-5)
