"""The training step: reproducible coalitions, schedules, weight decay, the moving average, one compilation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shapjax import models
from shapjax.models import vit
from shapjax.training import loss as losses
from shapjax.training import step as training

LOSS = losses.LossSettings(num_pairs=1, masked_weight=1.0, masked_target="label", label_smoothing=0.0,
                           shapley_gradient="allocation", shapley_scale="variance", own_weight=1.0)


def settings(**changes):
    return training.StepSettings(**(dict(loss=LOSS, shapley_weight=optax.constant_schedule(2.0), ema_decay=0.0)
                                    | changes))


@pytest.fixture
def batch(rng):
    """images, targets, keys."""
    return (jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32), jax.nn.one_hot(rng.integers(0, 3, 8), 3),
            jax.random.split(jax.random.key(7), 8))


def step_of(toy, *, optimizer=None, **changes):
    """The step and the state before it."""
    optimizer = optimizer or optax.sgd(0.1)
    step = functools.partial(training.train_step, apply_fn=toy.apply, optimizer=optimizer, settings=settings(**changes))
    return step, training.init_state(toy.params, optimizer, ema=changes.get("ema_decay", 0.0) > 0)


# The step


def test_a_step_descends_the_joint_loss(toy, batch):
    step, state = step_of(toy)
    new, metrics = jax.jit(step)(state.replace(step=jnp.int32(5)), *batch)

    def loss(params):
        return losses.joint_loss(functools.partial(toy.apply, params), *batch, shapley_weight=2.0, settings=LOSS)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(toy.params)
    assert new.step == 6
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    chex.assert_trees_all_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, toy.params, gradient), atol=1e-5)


def test_compiled_equals_eager(toy, batch):
    step, state = step_of(toy, ema_decay=0.9)
    chex.assert_trees_all_close(jax.jit(step)(state, *batch), step(state, *batch), rtol=1e-4, atol=1e-5)


def test_steps_after_the_first_compile_nothing(toy, batch):
    optimizer, _ = training.make_optimizer(learning_rate=1e-2, warmup_steps=2, steps=6, weight_decay=0.1, b2=0.99,
                                           clip_norm=1.0)
    weight = training.weight_schedule(4.0, begin=0, warmup_steps=3)
    step, state = step_of(toy, optimizer=optimizer, ema_decay=0.9, shapley_weight=weight)
    compiled = jax.jit(chex.assert_max_traces(lambda *x: step(*x), n=1))
    for _ in range(4):
        state, metrics = compiled(state, *batch)
    assert compiled._cache_size() == 1
    assert all(v.dtype == jnp.float32 and v.shape == () for v in metrics.values())


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(toy, batch, parts):
    unscaled = LOSS._replace(shapley_scale="none")
    whole, state = step_of(toy, loss=unscaled)
    in_parts, _ = step_of(toy, loss=unscaled, accumulate=parts)
    new, metrics = jax.jit(whole)(state, *batch)
    chex.assert_trees_all_close(jax.jit(in_parts)(state, *batch), (new, metrics), rtol=1e-4, atol=1e-6)
    assert np.abs(new.params["kernel"] - state.params["kernel"]).max() > 1e-3


def test_of_a_batch_in_parts_the_variance_is_that_of_each_part(toy, batch):
    """Part p holds the rows p, p + 2, p + 4, …"""
    step, state = step_of(toy, accumulate=2)
    _, metrics = jax.jit(step)(state, *batch)

    @jax.jit
    def task(*batch):
        phi_fn = functools.partial(toy.apply, toy.params)
        return losses.joint_loss(phi_fn, *batch, shapley_weight=2.0, settings=LOSS)[1].loss_shapley

    alone = [task(*(x[p::2] for x in batch)) for p in (0, 1)]
    assert metrics["loss_shapley"] == pytest.approx(np.mean(alone), rel=1e-4)
    assert abs(metrics["loss_shapley"] - task(*batch)) > 1e-3


def test_training_lowers_the_loss(toy, batch):
    optimizer, _ = training.make_optimizer(learning_rate=3e-2, warmup_steps=5, steps=60, weight_decay=0.0, b2=0.99,
                                           clip_norm=1.0)
    step, state = step_of(toy, optimizer=optimizer)
    history = []
    compiled = jax.jit(step)
    for _ in range(60):
        state, metrics = compiled(state, *batch)
        history.append(float(metrics["loss"]))
    assert np.mean(history[-5:]) < 0.6 * np.mean(history[:5])


# Keys


def test_an_examples_key_follows_the_example_and_not_its_place_in_the_batch():
    order = np.random.default_rng(0).permutation(8)
    indices = jnp.arange(8, dtype=jnp.int32) * 7
    keys = jax.random.key_data(training.example_keys(0, jnp.int32(3), indices))
    turned = jax.random.key_data(training.example_keys(0, jnp.int32(3), indices[order]))
    np.testing.assert_array_equal(turned, keys[order])
    half = jax.random.key_data(training.example_keys(0, jnp.int32(3), indices[4:]))
    np.testing.assert_array_equal(half, keys[4:])


def test_every_seed_step_and_example_has_a_key_of_its_own():
    keys = [np.asarray(jax.random.key_data(training.example_keys(seed, jnp.int32(step), jnp.arange(50))))
            for seed in (0, 1) for step in (0, 1, 2)]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 300


def test_the_order_of_a_batch_does_not_matter(toy, batch):
    step, state = step_of(toy)
    order = np.random.default_rng(1).permutation(8)
    compiled = jax.jit(step)
    chex.assert_trees_all_close(compiled(state, *batch), compiled(state, *(x[order] for x in batch)),
                                rtol=1e-5, atol=1e-5)


# The optimizer and its schedules


def test_weight_decay_acts_on_kernels_and_on_nothing_else():
    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=4, width=16, depth=2, heads=2, class_token=True,
                     registers=1)
    params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), models.param_shapes(module, image_shape=(8, 8, 2)))
    optimizer, _ = training.make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.5, b2=0.99,
                                           clip_norm=1.0)
    updates, _ = jax.jit(lambda p: optimizer.update(jax.tree.map(jnp.zeros_like, p), optimizer.init(p), p))(params)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(u)
            for path, u in jax.tree_util.tree_leaves_with_path(updates)}
    shrunk = {name for name, update in flat.items() if update.any()}
    assert shrunk == {"embedding/kernel", "head/kernel", "blocks/attention/qkv/kernel", "blocks/attention/out/kernel",
                      "blocks/mlp_in/kernel", "blocks/mlp_out/kernel"}
    np.testing.assert_allclose(flat["head/kernel"], -0.1 * 0.5, rtol=1e-5)


@pytest.mark.parametrize("warmup_steps", [0, 10])
def test_the_learning_rate_rises_to_its_peak_and_ends_at_zero(warmup_steps):
    _, rate = training.make_optimizer(learning_rate=0.3, warmup_steps=warmup_steps, steps=50, weight_decay=0.0, b2=0.99,
                                      clip_norm=1.0)
    rates = np.array([rate(i) for i in range(51)])
    assert np.argmax(rates) == warmup_steps and rates.max() == pytest.approx(0.3)
    assert rates[50] == pytest.approx(0, abs=1e-7) and rates[49] > 0
    assert (np.diff(rates[warmup_steps:]) < 0).all()
    if warmup_steps:
        np.testing.assert_allclose(rates[: warmup_steps + 1], np.linspace(0, 0.3, warmup_steps + 1), atol=1e-7)


def test_a_gradient_larger_than_the_clip_is_scaled_down_before_the_optimizer_sees_it():
    params = {"kernel": jnp.zeros(2)}

    def second_update(clip_norm):
        optimizer, _ = training.make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.0, b2=0.99,
                                               clip_norm=clip_norm)
        state = optimizer.init(params)
        for gradient in ([0.3, 0.4], [300.0, 400.0]):
            updates, state = optimizer.update({"kernel": jnp.array(gradient)}, state, params)
        return np.asarray(updates["kernel"])

    # Both gradients have norm 0.5 once clipped, so Adam takes the step that it takes on a constant gradient.
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi / 10))
    np.testing.assert_allclose(second_update(0.5), -rate, rtol=1e-3)
    assert np.abs(second_update(1e9) + rate).min() > 0.01


def test_the_shapley_weight_grows_over_its_warm_up_and_then_stays():
    weight = training.weight_schedule(4.0, begin=0, warmup_steps=8)
    np.testing.assert_allclose([weight(i) for i in (0, 2, 8, 100)], [0, 1, 4, 4], atol=1e-6)
    assert training.weight_schedule(4.0, begin=0, warmup_steps=0)(0) == 4.0


def test_the_step_uses_the_weight_of_its_own_step(toy, batch):
    step, state = step_of(toy, shapley_weight=training.weight_schedule(4.0, begin=0, warmup_steps=8))
    _, metrics = jax.jit(step)(state.replace(step=jnp.int32(2)), *batch)
    assert metrics["shapley_weight"] == 1.0
    parts = metrics["loss_classification"] + metrics["loss_masked"] + 1.0 * metrics["loss_shapley"]
    assert metrics["loss"] == pytest.approx(float(parts), rel=1e-5)


# The moving average


def test_the_moving_average_starts_fast_and_settles_at_its_decay(toy, batch):
    step, state = step_of(toy, ema_decay=0.5)
    compiled = jax.jit(step)
    average = np.asarray(state.params["kernel"])
    for i in range(12):
        state, _ = compiled(state, *batch)
        decay = min(0.5, (1 + i) / (10 + i))
        average = decay * average + (1 - decay) * np.asarray(state.params["kernel"])
        np.testing.assert_allclose(state.ema_params["kernel"], average, atol=1e-5)
    assert np.abs(average - state.params["kernel"]).max() > 1e-4


def test_inference_uses_the_moving_average_where_there_is_one(toy, batch):
    step, state = step_of(toy, ema_decay=0.5)
    state, _ = jax.jit(step)(state, *batch)
    assert training.inference_params(state) is state.ema_params
    step, state = step_of(toy)
    state, _ = jax.jit(step)(state, *batch)
    assert state.ema_params is None and training.inference_params(state) is state.params


# Parts that are trained


def test_only_the_named_parts_are_trained_decayed_and_remembered(batch):
    module = vit.ViT(num_classes=3, image_size=(4, 4), patch_size=2, width=8, depth=1, heads=2)
    params = models.init_params(module, jax.random.key(0), image_shape=(4, 4, 1))
    images = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
    optimizer, _ = training.make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.5, b2=0.99,
                                           clip_norm=1.0, train_only=("head",))
    state = training.init_state(params, optimizer, ema=True)
    new, metrics = jax.jit(functools.partial(
        training.train_step, optimizer=optimizer, settings=settings(train_only=("head",), ema_decay=0.9),
        apply_fn=lambda p, *x: module.apply({"params": p}, *x)))(state, images, *batch[1:])
    for tree in (new.params, new.ema_params):
        changed = {key for key in tree if any(jax.tree.leaves(
            jax.tree.map(lambda a, b: np.any(a != b), tree[key], params[key])))}
        assert changed == {"head"}
    moments = [x for x in jax.tree.leaves(new.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in jax.tree.leaves(params["head"]))
    assert metrics["gradient_norm"] > 0


def test_what_is_held_costs_no_backward_pass():
    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=2, width=32, depth=4, heads=2, remat="none")
    params = models.param_shapes(module, image_shape=(8, 8, 1))

    def flops(train_only):
        def loss(params):
            return jnp.sum(module.apply({"params": training.hold(params, train_only)}, jnp.ones((4, 8, 8, 1))) ** 2)

        return jax.jit(jax.grad(loss)).lower(params).cost_analysis()["flops"]

    assert flops(("head",)) < 0.5 * flops(())
