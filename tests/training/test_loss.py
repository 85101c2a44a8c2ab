"""The joint loss: its parts as formulas, its gradient, and the values that the Shapley task may move."""

import functools

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from scipy import special

from shapjax.games import coalitions, shapley
from shapjax.training import loss as losses
from shapjax.training.loss import LossSettings
from tests.conftest import every_pair, random_values

SETTINGS = LossSettings(num_pairs=2, weight=1.5, masked_weight=0.7)


@pytest.fixture
def batch(rng):
    images = jnp.asarray(rng.normal(size=(6, 5, 3)), jnp.float32)
    targets = jax.nn.one_hot(rng.integers(0, 3, 6), 3)
    return images, targets.at[5].set(jnp.array([0.3, 0.1, 0.6])), jax.random.split(jax.random.key(4), 6)


def loss_of(toy, batch, settings, *, part="loss"):
    """Returns the joint loss, or a part of it, as a compiled function of the parameters."""

    @jax.jit
    def loss(params, batch):
        return getattr(losses.joint_loss(functools.partial(toy.apply, params), *batch, settings=settings)[1], part)

    return functools.partial(loss, batch=batch)


def residual_loss(phi, masks, v, c):
    """Computes the Shapley task without its scale."""
    return jnp.mean(jnp.square(shapley.regression_residuals(phi, masks, v, c)))


# The parts


def test_the_joint_loss_is_the_formula_computed_with_each_coalition_alone(toy, batch):
    images, targets, keys = batch
    phi_fn = functools.partial(toy.apply, toy.params)
    _, parts = jax.jit(lambda *x: losses.joint_loss(phi_fn, *x, settings=SETTINGS))(*batch)
    labels, targets = np.argmax(targets, axis=1), np.asarray(targets)
    phi = np.asarray(toy.apply(toy.params, images))
    values, residuals, masked = [], [], []
    for b in range(6):
        for mask in np.asarray(shapley.sample_coalitions(keys[b], num_players=5, num_pairs=2)):
            for coalition in (mask, ~mask):
                value = np.asarray(toy.apply(toy.params, images[b : b + 1, coalition])).sum(axis=(0, 1))
                values.append(value)
                residuals.append(value - phi[b, coalition].sum(axis=0))
                masked.append(-targets[b] @ special.log_softmax(value))
    classification = -np.mean(np.sum(targets * special.log_softmax(phi.sum(axis=1), axis=1), axis=1))
    shapley_part = np.mean(np.square(residuals)) / np.mean(np.var(values, axis=0))
    assert parts.loss_classification == pytest.approx(classification, rel=1e-4)
    assert parts.loss_masked == pytest.approx(np.mean(masked), rel=1e-4)
    assert parts.loss_shapley == pytest.approx(shapley_part, rel=1e-4)
    assert parts.loss == pytest.approx(classification + 0.7 * np.mean(masked) + 1.5 * shapley_part, rel=1e-4)
    assert parts.accuracy == pytest.approx(np.mean(phi.sum(axis=1).argmax(axis=1) == labels))
    hits = np.argmax(values, axis=1) == np.repeat(labels, 4)
    assert parts.masked_accuracy == pytest.approx(hits.mean())


def test_without_pairs_the_loss_is_that_of_an_ordinary_classifier_and_coalitions_are_not_looked_at(toy, batch):
    seen = []

    def phi_fn(images, segment_ids):
        seen.append(segment_ids)
        return toy.apply(toy.params, images, segment_ids)

    loss, parts = losses.joint_loss(phi_fn, *batch, settings=SETTINGS._replace(num_pairs=0))
    assert seen == [None]
    assert loss == parts.loss == parts.loss_classification
    assert loss == pytest.approx(float(loss_of(toy, batch, SETTINGS, part="loss_classification")(toy.params)), rel=1e-5)
    assert parts.loss_masked == parts.loss_shapley == parts.masked_accuracy == 0


def test_the_order_of_a_batch_does_not_matter(toy, batch):
    loss = loss_of(toy, batch, SETTINGS)
    turned = loss_of(toy, jax.tree.map(lambda x: x[::-1], batch), SETTINGS)
    np.testing.assert_allclose(loss(toy.params), turned(toy.params), rtol=1e-5)


def test_compiled_equals_eager_and_the_loss_is_the_one_that_is_reported(toy, batch):
    loss, parts = losses.joint_loss(functools.partial(toy.apply, toy.params), *batch, settings=SETTINGS)
    assert loss == parts.loss
    np.testing.assert_allclose(loss_of(toy, batch, SETTINGS)(toy.params), loss, rtol=1e-5)


def test_nothing_is_silently_broadcast_over_ranks(toy, batch):
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(loss_of(toy, batch, SETTINGS), toy.params)


# Gradients


def unscaled(toy, batch, settings):
    """Returns the joint loss as a plain function: what its gradient may not move stays as at the toy's parameters.

    These are the variance, and in the Shapley task the totals of phi and v(S) + v(S^c).
    """
    images, _, keys = batch
    masks = jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=toy.apply(toy.params, images).shape[1],
                                                           num_pairs=settings.num_pairs))(keys)

    def parts(params):
        phi_fn = functools.partial(toy.apply, params)
        return phi_fn(images, None), *coalitions.pair_values(phi_fn, images, masks)

    phi, v, c = parts(toy.params)
    held, sums, variance = phi.mean(axis=1, keepdims=True), v + c, jnp.var(jnp.stack([v, c]), axis=(0, 1, 2)).mean()

    @jax.jit
    def loss(params):
        rest = losses.joint_loss(functools.partial(toy.apply, params), *batch, settings=settings._replace(weight=0.0))
        phi, v, c = parts(params)
        phi, difference = phi - phi.mean(axis=1, keepdims=True) + held, v - c
        task = residual_loss(phi, masks, (sums + difference) / 2, (sums - difference) / 2)
        return rest[0] + settings.weight * task / variance

    joint = loss_of(toy, batch, settings)
    chex.assert_trees_all_close(jax.grad(joint)(toy.params), jax.grad(loss)(toy.params), rtol=1e-3, atol=1e-4)
    return loss


def test_the_gradient_agrees_with_finite_differences(toy, batch):
    with jax.enable_x64(True):
        params, *exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (toy.params, *batch[:2]))
        loss = unscaled(toy, (*exact, batch[2]), SETTINGS)
        assert loss(params).dtype == jnp.float64
        jax.test_util.check_grads(loss, (params,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


def test_the_gradient_of_the_vision_model_agrees_with_finite_differences(tiny_vit, rng):
    model = tiny_vit()
    images = jnp.asarray(rng.normal(size=(2, 8, 8, 2)), jnp.float32)
    batch = images, jax.nn.one_hot(jnp.array([0, 2]), 3), jax.random.split(jax.random.key(0), 2)
    jax.test_util.check_grads(unscaled(model, batch, SETTINGS._replace(num_pairs=1)), (model.params,), order=1,
                              modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_without_weight_the_shapley_task_gives_no_gradient(toy, batch):
    def rest(params):
        return (loss_of(toy, batch, SETTINGS, part="loss_classification")(params)
                + 0.7 * loss_of(toy, batch, SETTINGS, part="loss_masked")(params))

    off = jax.grad(loss_of(toy, batch, SETTINGS._replace(weight=0.0)))(toy.params)
    on = jax.grad(loss_of(toy, batch, SETTINGS))(toy.params)
    chex.assert_trees_all_close(off, jax.grad(rest)(toy.params), rtol=1e-4, atol=1e-5)
    assert np.abs(on["kernel"] - off["kernel"]).max() > 1e-2


def test_the_shapley_task_cannot_move_all_of_phi_together(toy, batch):
    """The head's bias shifts all patches' logits alike, so it moves totals only."""
    images, _, keys = batch
    masks = jax.vmap(lambda key: shapley.sample_coalitions(key, num_players=5, num_pairs=2))(keys)

    @functools.partial(jax.jit, static_argnames="held")
    @jax.grad
    def bias_gradient(bias, *, held):
        phi_fn = functools.partial(toy.apply, toy.params | {"bias": bias})
        phi, values = phi_fn(images), jax.lax.stop_gradient(coalitions.pair_values(phi_fn, images, masks))
        if held:
            return losses.shapley_loss(phi, masks, *values)
        return residual_loss(phi, masks, *values)

    np.testing.assert_allclose(bias_gradient(toy.params["bias"], held=True), 0, atol=1e-5)
    assert np.abs(bias_gradient(toy.params["bias"], held=False)).max() > 1e-2  # without holding the total it would


def test_the_gradient_moves_values_between_patches_and_the_difference_of_a_pair_and_no_total_and_no_sum(rng):
    phi, masks, v, c = random_values(rng)
    loss, (moved_phi, moved_v, moved_c) = jax.value_and_grad(
        lambda *x: losses.shapley_loss(x[0], masks, *x[1:]), argnums=(0, 1, 2))(phi, v, c)
    variance = jnp.var(jnp.concatenate([v, c], axis=1), axis=(0, 1)).mean()
    plain, (plain_phi, plain_v, plain_c) = jax.value_and_grad(
        lambda *x: residual_loss(x[0], masks, *x[1:]) / variance, argnums=(0, 1, 2))(phi, v, c)
    assert loss == pytest.approx(float(plain), rel=1e-5)
    np.testing.assert_allclose(moved_phi, plain_phi - plain_phi.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(moved_v, (plain_v - plain_c) / 2, atol=1e-6)
    np.testing.assert_array_equal(moved_c, -moved_v)
    assert all(np.abs(g).max() > 1e-3 for g in (moved_phi, moved_v, plain_phi.mean(axis=1), plain_v + plain_c))


# The stationary point


@pytest.mark.parametrize("n", [3, 4, 5])
def test_over_all_coalitions_the_exact_values_are_stationary_while_their_total_is_held(rng, n):
    values = rng.normal(size=(2**n, 2))
    values[0] = 0
    exact = jnp.asarray(shapley.exact_shapley(values), jnp.float32)[None]
    codes, masks = every_pair(n)
    v, c = (jnp.asarray(values[i], jnp.float32)[None] for i in (codes, 2**n - 1 - codes))

    def gradient(phi, loss=losses.shapley_loss):
        return jax.grad(lambda p: loss(p, masks, v, c))(phi)

    np.testing.assert_allclose(gradient(exact), 0, atol=1e-6)
    moved = exact.at[0, 0].add(0.1).at[0, 1].add(-0.1)
    assert np.abs(gradient(moved)).max() > 1e-3
    assert np.abs(gradient(exact, residual_loss)).max() > 1e-3  # it drags the total along


# The scale


def test_in_units_of_the_variance_the_loss_does_not_depend_on_the_size_of_the_logits(rng):
    phi, masks, v, c = random_values(rng)

    def loss(factor):
        return float(losses.shapley_loss(factor * phi, masks, factor * v, factor * c))

    assert loss(7.0) == pytest.approx(loss(1.0), rel=1e-4)


def test_the_variance_is_that_of_each_class_over_images_coalitions_and_complements(rng):
    phi, masks, v, c = random_values(rng)
    v, c = v + jnp.array([50.0, -50.0]), c + jnp.array([50.0, -50.0])  # a class's mean is no variance
    both = np.concatenate([v, c], axis=1).reshape(-1, 2)
    scaled = losses.shapley_loss(phi, masks, v, c)
    assert residual_loss(phi, masks, v, c) / scaled == pytest.approx(both.var(axis=0).mean(), rel=1e-2)


def test_the_variance_is_a_constant_for_the_gradient(rng):
    phi, masks, v, c = random_values(rng)
    variance = np.concatenate([v, c], axis=1).reshape(-1, 2).var(axis=0).mean()
    still = jnp.zeros_like(v)
    gradient = jax.grad(lambda d: losses.shapley_loss(phi, masks, v + d, c - d))(still)
    expected = jax.grad(lambda d: residual_loss(phi, masks, v + d, c - d))(still) / variance
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)


def test_where_values_hardly_vary_the_loss_stays_finite(rng):
    phi, masks, v, c = random_values(rng, scale=1e-3)
    scaled = losses.shapley_loss(phi, masks, v, c)
    assert scaled == pytest.approx(float(residual_loss(phi, masks, v, c)) / losses.MIN_VARIANCE, rel=1e-5)
    assert losses.shapley_loss(0 * phi, masks, 0 * v, 0 * c) == 0


def test_devices_that_share_a_batch_divide_by_the_variance_of_the_whole_batch(rng):
    values = random_values(rng, b=4)
    whole = losses.shapley_loss(*values)
    shares = jax.vmap(lambda *x: losses.shapley_loss(*x, axis_name="devices"),
                      axis_name="devices")(*(x.reshape(2, 2, *x.shape[1:]) for x in values))
    assert shares.mean() == pytest.approx(float(whole), rel=1e-5)
