"""The training step: it descends the joint loss, with keys of the examples, a teacher, an average, parts held."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shapjax import models
from shapjax.models import vit
from shapjax.training import step as training
from shapjax.training.loss import LossSettings, joint_loss
from shapjax.training.optimizer import make_optimizer

LOSS = LossSettings(num_pairs=1, weight=2.0, masked_weight=1.0)
NO_TASK = LOSS._replace(weight=0.0)


def settings(**changes):
    return training.StepSettings(**(dict(loss=LOSS, num_classes=3, mean=(0.0,) * 3, std=(1.0,) * 3) | changes))


@pytest.fixture
def batch(rng):
    return {"image": jnp.asarray(rng.normal(size=(8, 5, 3)), jnp.float32), "index": jnp.arange(8) * 7,
            "label": jnp.asarray(rng.integers(0, 3, 8), jnp.int32)}


def step_of(toy, *, optimizer=None, **changes):
    """Returns the step and the state before it."""
    optimizer = optimizer or optax.sgd(0.1)
    step = functools.partial(training.train_step, apply_fn=toy.apply, optimizer=optimizer, settings=settings(**changes))
    return step, training.init_state(toy.params, optimizer, ema=changes.get("ema_decay", 0.0) > 0)


def loss_of(toy, params, batch, *, step=0, loss=LOSS):
    keys = training.example_keys(0, jnp.int32(step), batch["index"])
    return joint_loss(functools.partial(toy.apply, params), batch["image"], jax.nn.one_hot(batch["label"], 3), keys,
                      settings=loss)


# The step


@pytest.mark.parametrize("loss", [
    LOSS, LOSS._replace(masked_weight=0.3, num_pairs=2)])
def test_a_step_descends_the_joint_loss_of_its_settings_and_number(toy, batch, loss):
    step, state = step_of(toy, loss=loss)
    new, metrics = jax.jit(step)(state.replace(step=jnp.int32(5)), batch)
    value, gradient = jax.jit(jax.value_and_grad(lambda p: loss_of(toy, p, batch, step=5, loss=loss)[0]))(toy.params)
    assert new.step == 6
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    chex.assert_trees_all_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, toy.params, gradient), atol=1e-5)


def test_pixels_are_normalized_before_the_model_sees_them(toy, batch):
    raw = batch | {"image": batch["image"] * jnp.array([2.0, 3.0, 4.0]) + jnp.array([0.1, 0.2, 0.3])}
    step, state = step_of(toy)
    normalizing, _ = step_of(toy, mean=(0.1, 0.2, 0.3), std=(2.0, 3.0, 4.0))
    chex.assert_trees_all_close(jax.jit(normalizing)(state, raw), jax.jit(step)(state, batch), rtol=1e-4, atol=1e-5)


def test_steps_after_the_first_compile_nothing(toy, batch):
    optimizer, _ = make_optimizer(learning_rate=1e-2, warmup_steps=2, steps=6, weight_decay=0.1, b2=0.99, clip_norm=1.0)
    step, state = step_of(toy, optimizer=optimizer, ema_decay=0.9)
    compiled = jax.jit(chex.assert_max_traces(lambda *x: step(*x), n=1))
    for _ in range(4):
        state, metrics = compiled(state, batch)
    assert compiled._cache_size() == 1
    assert all(v.dtype == jnp.float32 and v.shape == () for v in metrics.values())


def test_a_batch_in_parts_gives_the_step_of_the_whole_batch(toy, batch):
    whole, state = step_of(toy, loss=NO_TASK)
    in_parts, _ = step_of(toy, loss=NO_TASK, accumulate=4)
    new, metrics = jax.jit(whole)(state, batch)
    in_parts, in_parts_metrics = jax.jit(in_parts)(state, batch)
    chex.assert_trees_all_close(in_parts, new, rtol=1e-4, atol=1e-6)
    for name in set(metrics) - {"loss_shapley"}:
        assert in_parts_metrics[name] == pytest.approx(float(metrics[name]), rel=1e-4)
    assert np.abs(new.params["kernel"] - state.params["kernel"]).max() > 1e-3


def test_of_a_batch_in_parts_the_variance_is_that_of_each_part(toy, batch):
    """Part p holds the rows p, p + 2, p + 4, …"""
    step, state = step_of(toy, accumulate=2)
    _, metrics = jax.jit(step)(state, batch)
    task = jax.jit(lambda batch: loss_of(toy, toy.params, batch)[1].loss_shapley)
    alone = [task(jax.tree.map(lambda x, p=p: x[p::2], batch)) for p in (0, 1)]
    assert metrics["loss_shapley"] == pytest.approx(np.mean(alone), rel=1e-4)
    assert abs(metrics["loss_shapley"] - task(batch)) > 1e-3


def test_training_lowers_the_loss(toy, batch):
    optimizer, _ = make_optimizer(learning_rate=3e-2, warmup_steps=5, steps=60, weight_decay=0.0, b2=0.99,
                                  clip_norm=1.0)
    step, state = step_of(toy, optimizer=optimizer)
    history, compiled = [], jax.jit(step)
    for _ in range(60):
        state, metrics = compiled(state, batch)
        history.append(float(metrics["loss"]))
    assert np.mean(history[-5:]) < 0.6 * np.mean(history[:5])


def test_the_targets_are_label_and_teacher_in_shares_whatever_the_parameters_become(toy, batch):
    step, state = step_of(toy, teacher_weight=0.3)
    state = state.replace(teacher=toy.params)
    step = jax.jit(step)
    state, first = step(state, batch)
    state, second = step(state, batch)
    chex.assert_trees_all_equal(state.teacher, toy.params)
    assert np.abs(state.params["kernel"] - toy.params["kernel"]).max() > 1e-4
    logits = toy.apply(toy.params, batch["image"]).sum(axis=1)
    targets = 0.7 * jax.nn.one_hot(batch["label"], 3) + 0.3 * jax.nn.softmax(logits)
    expected = optax.softmax_cross_entropy(logits, targets).mean()
    assert first["loss_classification"] == pytest.approx(float(expected), rel=1e-4)
    assert abs(second["loss_classification"] - first["loss_classification"]) > 1e-3


# Keys


def test_an_examples_key_follows_the_example_and_not_its_place_in_the_batch():
    order = np.random.default_rng(0).permutation(8)
    indices = jnp.arange(8, dtype=jnp.int32) * 7
    keys = jax.random.key_data(training.example_keys(0, jnp.int32(3), indices))
    turned = jax.random.key_data(training.example_keys(0, jnp.int32(3), indices[order]))
    np.testing.assert_array_equal(turned, keys[order])


def test_every_seed_step_and_example_has_a_key_of_its_own():
    keys = [np.asarray(jax.random.key_data(training.example_keys(seed, jnp.int32(step), jnp.arange(50))))
            for seed in (0, 1) for step in (0, 1, 2)]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 300


def test_the_order_of_a_batch_does_not_matter(toy, batch):
    step, state = step_of(toy)
    order = np.random.default_rng(1).permutation(8)
    compiled = jax.jit(step)
    chex.assert_trees_all_close(compiled(state, batch), compiled(state, jax.tree.map(lambda x: x[order], batch)),
                                rtol=1e-5, atol=1e-5)


# The moving average


def test_the_moving_average_starts_fast_and_settles_at_its_decay_and_is_what_inference_uses(toy, batch):
    step, state = step_of(toy, ema_decay=0.5)
    compiled = jax.jit(step)
    average = np.asarray(state.params["kernel"])
    for i in range(12):
        state, _ = compiled(state, batch)
        decay = min(0.5, (1 + i) / (10 + i))
        average = decay * average + (1 - decay) * np.asarray(state.params["kernel"])
        np.testing.assert_allclose(state.ema_params["kernel"], average, atol=1e-5)
    assert np.abs(average - state.params["kernel"]).max() > 1e-4
    assert training.inference_params(state) is state.ema_params
    _, without = step_of(toy)
    assert without.ema_params is None and training.inference_params(without) is without.params


# Parts that are trained


def test_only_the_named_parts_are_trained_decayed_and_remembered():
    module = vit.ViT(num_classes=3, image_size=(4, 4), patch_size=2, width=8, depth=1, heads=2)
    params = models.init_params(module, jax.random.key(0), image_shape=(4, 4, 1))
    batch = {"image": jax.random.normal(jax.random.key(1), (8, 4, 4, 1)), "index": jnp.arange(8),
             "label": jnp.arange(8) % 3}
    optimizer, _ = make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.5, b2=0.99,
                                  clip_norm=1.0, train_only=("head",))
    state = training.init_state(params, optimizer, ema=True)
    new, metrics = jax.jit(functools.partial(
        training.train_step, optimizer=optimizer,
        settings=settings(train_only=("head",), ema_decay=0.9, mean=(0.0,), std=(1.0,)),
        apply_fn=lambda p, *x: module.apply({"params": p}, *x)))(state, batch)
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
