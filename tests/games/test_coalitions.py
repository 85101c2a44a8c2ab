"""Coalition packing: one pass holds both segments of a pair exactly, and nothing leaks between them."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import coalitions, shapley

PATCH = 2  # pixels: 16 players
# Without prefix tokens, and with three and all else that loaded weights may bring.
LOADED = dict(class_token=True, registers=2, input_norm=True, norm_place="pooled", head_scale="mean")
SETTINGS = [dict(), LOADED]


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)


def masks_of_size(size, *, rng, pairs=1):
    """Draws bool [2, pairs, 16]: other members for each image and pair."""
    return rng.permuted(np.arange(16) < np.full((2, pairs, 1), size), axis=-1)


def packed_values(model, params, images, masks):
    return coalitions.pair_values(functools.partial(model.apply, params), images, jnp.asarray(masks))


def alone(model, params, images, masks):
    """Computes v(S) by running the model on the visible tokens only; masks [B, N], one size for all images."""
    return on_tokens(model.module, params, images, np.stack([np.flatnonzero(mask) for mask in masks]))


@functools.partial(jax.jit, static_argnums=0)
def on_tokens(module, params, images, indices):
    def value(module):
        tokens = jnp.take_along_axis(module.embed(images), indices[:, :, None], axis=1)
        return module.patch_logits(tokens).sum(axis=1)

    return module.apply({"params": params}, method=value)


def pixels_of(mask):
    """Returns the pixels [B, 8, 8, 1] of the patches of a coalition [B, 16]."""
    return np.repeat(np.repeat(np.reshape(mask, (-1, 4, 4)), PATCH, axis=1), PATCH, axis=2)[..., None]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_packed_pair_equals_the_model_run_on_each_segments_tokens_alone(tiny_vit, images, rng, settings):
    model = tiny_vit(patch_size=PATCH, **settings)
    masks = masks_of_size(5, rng=rng)
    weights = rng.normal(size=(2, 2, 3)).astype(np.float32)  # segment, image, class: any function of the values

    def packed(params):
        values, complements = packed_values(model, params, images, masks)
        both = jnp.stack([values[:, 0], complements[:, 0]])
        return jnp.sum(weights * both), both

    def separate(params):
        both = jnp.stack([alone(model, params, images, m[:, 0]) for m in (masks, ~masks)])
        return jnp.sum(weights * both), both

    (_, both), gradient = jax.jit(jax.value_and_grad(packed, has_aux=True))(model.params)
    (_, expected), expected_gradient = jax.jit(jax.value_and_grad(separate, has_aux=True))(model.params)
    np.testing.assert_allclose(both, expected, atol=1e-5)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-4, atol=1e-4)
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(gradient))  # every parameter takes part


def test_a_packed_pair_equals_two_masked_passes_in_values_and_gradients(tiny_vit, images, rng):
    model = tiny_vit(patch_size=PATCH, **LOADED)
    masks = masks_of_size(6, rng=rng)
    noise = rng.normal(size=images.shape).astype(np.float32)

    def packed(params):
        values, complements = packed_values(model, params, images, masks)
        return jnp.sum(values**2 + 2 * complements**2), (values[:, 0], complements[:, 0])

    def two_passes(params):
        both = []
        for mask in (masks[:, 0], ~masks[:, 0]):
            hidden_replaced = jnp.where(pixels_of(mask), images, noise)
            patch_logits = model.apply(params, hidden_replaced, jnp.asarray(mask))
            both.append(jnp.sum(patch_logits * mask[:, :, None], axis=1))
        return jnp.sum(both[0] ** 2 + 2 * both[1] ** 2), tuple(both)

    (_, both), gradient = jax.jit(jax.value_and_grad(packed, has_aux=True))(model.params)
    (_, expected), expected_gradient = jax.jit(jax.value_and_grad(two_passes, has_aux=True))(model.params)
    chex.assert_trees_all_close(both, expected, atol=1e-5)
    chex.assert_trees_all_close(gradient, expected_gradient, rtol=1e-4, atol=1e-3)


def test_pairs_of_one_image_do_not_mix(tiny_vit, images, rng):
    model = tiny_vit(patch_size=PATCH, **LOADED)
    masks = masks_of_size(5, rng=rng, pairs=3)
    game = jax.jit(functools.partial(packed_values, model))
    values, complements = game(model.params, images, masks)
    chex.assert_shape((values, complements), (2, 3, 3))
    expected = np.stack([alone(model, model.params, images, masks[:, m]) for m in range(3)], axis=1)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    swapped = game(model.params, images, ~masks)
    chex.assert_trees_all_close(swapped, (complements, values), atol=1e-5)


def test_a_hidden_patch_has_no_influence_at_all_on_a_coalitions_value(tiny_vit, images, rng):
    model = tiny_vit(patch_size=PATCH, **LOADED)
    masks = masks_of_size(5, rng=rng)
    weights = rng.normal(size=3).astype(np.float32)

    @jax.jit
    def influence(images):
        return jax.grad(lambda x: jnp.sum(packed_values(model, model.params, x, masks)[0] @ weights))(images)

    gradient = np.asarray(influence(images))
    visible = np.broadcast_to(pixels_of(masks[:, 0]), gradient.shape)
    assert (gradient[~visible] == 0).all()
    assert (gradient[visible] != 0).all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_nothing_visible_is_worth_zero_and_everything_the_prediction(tiny_vit, images, settings):
    model = tiny_vit(patch_size=PATCH, **settings)
    masks = np.zeros((2, 1, 16), bool)
    empty, full = packed_values(model, model.params, images, masks)
    assert (np.asarray(empty) == 0).all()
    np.testing.assert_allclose(full[:, 0], model.apply(model.params, images).sum(axis=1), atol=1e-5)


def test_patch_logits_sum_to_zero_over_the_classes_where_they_are_centered(tiny_vit, images, rng):
    masks = masks_of_size(5, rng=rng)
    centered, plain = (tiny_vit(patch_size=PATCH, center=c) for c in (True, False))
    values = packed_values(centered, centered.params, images, masks)[0]
    raw = packed_values(plain, plain.params, images, masks)[0]
    np.testing.assert_allclose(values.sum(axis=-1), 0, atol=1e-5)
    assert np.abs(raw.sum(axis=-1)).min() > 1e-3
    np.testing.assert_allclose(jax.nn.softmax(values), jax.nn.softmax(raw), atol=1e-5)  # the same probabilities


def test_relabeled_patches_of_any_model_play_the_same_game(toy, rng):
    phi_fn = functools.partial(toy.apply, toy.params)
    x = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)
    order = rng.permutation(5)

    def game(x, pairs):
        masks = jnp.broadcast_to(pairs, (2, *pairs.shape))
        values, complements = coalitions.pair_values(phi_fn, x, masks)
        return np.asarray(values), np.asarray(complements)

    pairs = shapley.enumerate_pairs(5)
    chex.assert_trees_all_close(game(x[:, order], pairs[:, order]), game(x, pairs), atol=1e-5)

    def exact(x):
        values, complements = game(x, pairs)
        return shapley.exact_shapley(np.concatenate([values, complements[:, ::-1]], axis=1).swapaxes(0, 1))

    np.testing.assert_allclose(exact(x[:, order]), exact(x)[order], atol=1e-5)
