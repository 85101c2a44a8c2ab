"""The vision transformer: sizes as published, patches in order, numerics that do not depend on how it is run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import models
from shapjax.models import vit


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)


@pytest.mark.parametrize(("name", "millions"), [
    ("Ti/16", 5.72), ("S/16", 22.05), ("B/16", 86.57), ("L/16", 304.33), ("H/14", 632.0)])
def test_variants_have_the_published_number_of_parameters(name, millions):
    module = vit.ViT(num_classes=1000, image_size=(224, 224), **vit.variant(name))
    assert module.num_patches == (224 // module.patch_size) ** 2
    shapes = models.param_shapes(module, image_shape=(224, 224, 3))
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=0.02)


def test_the_patch_size_is_the_number_after_the_slash():
    assert vit.variant("B/8") == dict(width=768, depth=12, heads=12, patch_size=8)


@pytest.mark.parametrize("shape", [(2, 8, 12, 2), (2, 12, 12, 2), (8, 8, 2), (1, 2, 8, 8, 2)])
def test_images_of_another_size_are_refused_with_the_size_expected(tiny_vit, shape):
    model = tiny_vit()
    with pytest.raises(ValueError, match=r"\[B, 8, 8, C\], got \[") as e:
        model.module.apply({"params": model.params}, jnp.zeros(shape))
    assert "\n" not in str(e.value)


def test_patch_tokens_are_in_reading_order(tiny_vit):
    model = tiny_vit(image_size=(8, 12))
    assert model.module.grid == (2, 3)

    def embed(images):
        return model.module.apply({"params": model.params}, images, method="embed")

    blank = embed(jnp.zeros((1, 8, 12, 2)))
    for row, column in np.ndindex(2, 3):
        image = np.zeros((1, 8, 12, 2), np.float32)
        image[0, 4 * row + 3, 4 * column + 1] = 1.0
        changed = np.any(embed(jnp.asarray(image)) != blank, axis=(0, 2))
        np.testing.assert_array_equal(np.flatnonzero(changed), [row * 3 + column])


def test_embedding_is_a_convolution_with_the_patch_as_stride(tiny_vit, images):
    model = tiny_vit()
    tokens = model.module.apply({"params": model.params}, images, method="embed") - model.params["positions"]
    kernel = model.params["embedding"]["kernel"].reshape(4, 4, 2, 16)
    expected = jax.lax.conv_general_dilated(images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    expected = expected + model.params["embedding"]["bias"]
    np.testing.assert_allclose(tokens, expected.reshape(2, 4, 16), atol=1e-5)


def test_patches_interact_and_know_their_place(tiny_vit, images):
    model = tiny_vit()
    phi = model.apply(model.params, images)
    changed = model.apply(model.params, images.at[:, :4, :4].add(1.0))
    assert (np.abs(changed - phi).max(axis=2) > 1e-4).all()  # every patch's logits depend on the first patch
    mirrored = model.apply(model.params, images.reshape(2, 2, 4, 8, 2)[:, ::-1].reshape(2, 8, 8, 2))
    assert np.abs(mirrored.reshape(2, 2, 2, 3)[:, ::-1].reshape(2, 4, 3) - phi).max() > 1e-2


def test_layers_start_from_different_weights_and_a_zero_head_from_the_game_that_is_zero(images):
    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=4, width=16, depth=2, heads=2)
    params = models.init_params(module, jax.random.key(0), image_shape=(8, 8, 2))
    kernel = params["blocks"]["mlp_in"]["kernel"]
    assert kernel.shape == (2, 16, 64) and not np.allclose(kernel[0], kernel[1])
    assert (np.asarray(jax.jit(module.apply)({"params": params}, images)) == 0).all()


def test_the_mean_head_is_a_mean_pooled_classifier_and_the_sqrt_head_is_root_n_times_it(tiny_vit, images):
    mean, sqrt = tiny_vit(head_scale="mean", center=False), tiny_vit(head_scale="sqrt", center=False)

    def pooled(module):
        x, _ = module.blocks(module.embed(images), None, None)
        return module.norm(x).mean(axis=1) @ mean.params["head"]["kernel"] + mean.params["head"]["bias"]

    patch_logits = mean.apply(mean.params, images)
    expected = jax.jit(lambda params: mean.module.apply({"params": params}, method=pooled))(mean.params)
    np.testing.assert_allclose(patch_logits.sum(axis=1), expected, atol=1e-5)
    np.testing.assert_allclose(sqrt.apply(sqrt.params, images), 2 * patch_logits, atol=1e-5)  # √4 patches


def test_bfloat16_computes_with_float32_parameters_and_returns_float32_phi(tiny_vit, images):
    exact, coarse = tiny_vit(), tiny_vit(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(coarse.params)} == {jnp.dtype("float32")}
    phi, phi_coarse = exact.apply(exact.params, images), coarse.apply(coarse.params, images)
    assert phi_coarse.dtype == jnp.float32
    difference = np.abs(phi - phi_coarse).max() / np.abs(phi).max()
    assert 1e-6 < difference < 0.05  # near, and not secretly float32


@pytest.mark.parametrize(("remat", "packed"), [("full", False), ("dots", True)])
def test_rematerialization_changes_neither_phi_nor_gradients(tiny_vit, images, remat, packed):
    segment_ids = jnp.array([[True, False, True, False], [False, False, True, False]]) if packed else None

    def phi_and_gradient(model):
        def loss(params):
            phi = model.module.apply({"params": params}, images, segment_ids)
            return jnp.sum(phi**2), phi

        (_, phi), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
        return phi, gradient

    kept, computed_again = phi_and_gradient(tiny_vit()), phi_and_gradient(tiny_vit(remat=remat))
    chex.assert_trees_all_close(kept, computed_again, rtol=1e-4, atol=1e-4)


def test_the_more_is_computed_again_in_the_backward_pass_the_less_is_kept(tiny_vit, images):
    def saved_bytes(remat):
        model = tiny_vit(remat=remat)
        _, pullback = jax.eval_shape(lambda p: jax.vjp(lambda q: model.module.apply({"params": q}, images), p),
                                     model.params)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback))

    assert saved_bytes("full") < 0.8 * saved_bytes("dots") and saved_bytes("dots") < 0.8 * saved_bytes("none")
