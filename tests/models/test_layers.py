"""The layers that backbones share: a pooled norm that can be split over the patches, activations, precision."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shapjax.games import coalitions, shapley
from shapjax.models import layers


@pytest.fixture
def pooled(rng):
    """Returns a pooled norm with parameters, and tokens [2, 5, 6] with different means and spreads."""
    norm = layers.PooledNorm(epsilon=1e-3)
    params = {name: jnp.asarray(rng.normal(size=6), jnp.float32) for name in ("scale", "bias")}
    tokens = jnp.asarray(rng.normal(size=(2, 5, 6)) * rng.uniform(1, 3, size=(2, 5, 1)) + 1, jnp.float32)
    return lambda segment_ids=None, tokens=tokens: norm.apply({"params": params}, tokens, segment_ids), params, tokens


def test_the_mean_of_a_pooled_norm_is_the_norm_of_the_mean(pooled):
    normalize, params, tokens = pooled
    expected = nn.LayerNorm(1e-3).apply({"params": params}, tokens.mean(axis=1))
    np.testing.assert_allclose(normalize().mean(axis=1), expected, atol=1e-5)


def test_each_segment_of_a_pooled_norm_is_normalized_as_if_alone(pooled):
    normalize, _, tokens = pooled
    segment_ids = np.array([True, False, True, True, False])
    both = normalize(jnp.broadcast_to(segment_ids, (2, 5)))
    for members in (segment_ids, ~segment_ids):
        np.testing.assert_allclose(both[:, members], normalize(tokens=tokens[:, members]), atol=1e-5)
    assert np.abs(both - normalize()).max() > 1e-2


def test_an_empty_segment_of_a_pooled_norm_gives_no_nan(pooled):
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


def test_the_head_is_linear_together_with_its_scale_and_centering(rng):
    head = layers.PatchHead(3, scale="sqrt", center=True)
    params = {"kernel": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), "bias": jnp.arange(3.0)}
    x = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
    kernel, bias = (head.follow(params[name], 16) for name in ("kernel", "bias"))
    patch_logits = head.apply({"params": params}, x, 16)
    np.testing.assert_allclose(patch_logits, x @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(patch_logits.sum(axis=-1), 0, atol=1e-5)


def products(fn, *arguments):
    """Returns the lines with a matrix product in the program of fn and its gradient."""
    def loss(*arguments):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(fn(*arguments)))

    program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).as_text()
    return [line for line in program.splitlines() if "dot_general" in line]


def head(x):
    module = layers.PatchHead(3)
    return module.apply({"params": {"kernel": jnp.ones((6, 3)), "bias": jnp.ones(3)}}, x, 5)


def head_of_kernel(kernel):
    return layers.PatchHead(3).apply({"params": {"kernel": kernel, "bias": jnp.ones(3)}}, jnp.ones((2, 5, 6)), 5)


def pooled_norm(x):
    params = {"scale": jnp.ones(6), "bias": jnp.ones(6)}
    return layers.PooledNorm(1e-6).apply({"params": params}, x, jnp.zeros((2, 5), bool))


MASKS = jnp.ones((2, 4, 5), bool)


@pytest.mark.parametrize(("fn", "shape", "num_products"), [
    (head, (2, 5, 6), 2), (head_of_kernel, (6, 3), 2), (pooled_norm, (2, 5, 6), 0),
    (lambda x: coalitions.pair_sums(x, MASKS), (2, 4, 5, 3), 0),
    (lambda x: shapley.coalition_sums(x, MASKS), (2, 5, 3), None)])
def test_sums_of_patch_logits_use_no_shortened_products(fn, shape, num_products):
    """Accelerators multiply float32 as bfloat16 or TF32 unless told not to; efficiency would be off by percents."""
    found = products(fn, jnp.ones(shape))
    assert num_products is None or len(found) == num_products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in found)


def test_every_product_with_the_classes_of_a_bfloat16_model_is_in_full_precision(tiny_vit):
    model = tiny_vit(dtype=jnp.bfloat16, explainer_depth=1, norm_place="pooled", num_classes=7)
    program = jax.jit(model.module.apply).lower({"params": model.params}, jnp.ones((2, 8, 8, 2))).as_text()
    found = [line for line in program.splitlines() if "dot_general" in line and re.search(r"-> tensor<\d+x7x", line)]
    assert len(found) == 2  # the head's and the explainer head's
    assert all("precision = [HIGHEST, HIGHEST]" in line and "bf16" not in line for line in found)


def test_products_of_bfloat16_operands_are_summed_in_float32():
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(((3, 5, 64), (64, 8))))
    weight = jax.random.normal(jax.random.key(2), (3, 5, 8))

    def run(dot_general):
        dense = layers.TokenDense(8, use_bias=False, dot_general=dot_general)

        def total(x, kernel):
            y = dense.apply({"params": {"kernel": kernel}}, x)
            return jnp.sum(y * weight), y

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(x, kernel)

    def rounded(array):
        return array.astype(jnp.bfloat16).astype(jnp.float32)

    (_, y), (of_x, of_kernel) = run(layers.bfloat16_dot_general)
    assert y.dtype == of_x.dtype == of_kernel.dtype == jnp.float32
    np.testing.assert_allclose(y, rounded(x) @ rounded(kernel), atol=1e-5)
    np.testing.assert_allclose(of_x, rounded(weight) @ rounded(kernel).T, atol=1e-5)
    np.testing.assert_allclose(of_kernel, jnp.einsum("btd,btf->df", rounded(x), rounded(weight)), atol=1e-5)
    assert np.abs(y - run(None)[0][1]).max() > 1e-3  # the operands are rounded
