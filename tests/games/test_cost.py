"""Operations counted by hand."""

import jax
import jax.numpy as jnp

from shapjax.games import cost

X, W = jnp.ones((6, 8, 16)), jnp.ones((16, 4))
PRODUCT = 2 * 8 * 16 * 4  # of [8, 16] and [16, 4]


def test_every_pass_of_a_loop_counts():
    assert cost.count_flops(lambda x, w: x @ w, X[0], W) == PRODUCT
    assert cost.count_flops(lambda x, w: jax.lax.map(lambda row: row @ w, x), X, W) == 6 * PRODUCT
    assert cost.count_flops(lambda x, w: jax.lax.map(lambda row: jax.jit(jnp.dot)(row, w), x, batch_size=4), X, W
                            ) == 6 * PRODUCT
    assert cost.count_flops(lambda x, w: jnp.einsum("bij,jk->bik", x, w), X, W) == 6 * PRODUCT


def test_a_gradient_costs_its_products_once_more_each():
    loss = jax.checkpoint(lambda x, w: jnp.sum((x @ w) ** 2))
    assert cost.count_flops(jax.grad(loss, argnums=(0, 1)), X[0], W) == 4 * PRODUCT  # forward, again, and two backward


def test_the_dearer_branch_counts():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ w.T @ w)

    assert cost.count_flops(branch, X[0], W) == 3 * PRODUCT


def test_convolutions_count_their_windows():
    images, kernel = jnp.ones((2, 9, 9, 6)), jnp.ones((3, 3, 2, 12))  # three groups of two channels

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", feature_group_count=3,
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert cost.count_flops(convolve, images, kernel) == 2 * (2 * 4 * 4 * 12) * (3 * 3 * 2)


def test_shapes_are_enough_to_count():
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (X[0], W)]
    assert cost.count_flops(jnp.dot, *shapes) == PRODUCT
