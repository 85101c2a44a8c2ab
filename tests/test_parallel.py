"""Data parallelism: eight devices do what one does."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shapjax import losses, parallel, training

LOSS = losses.LossSettings(num_pairs=1, masked_weight=1.0, label_smoothing=0.1, shapley_gradient="allocation",
                           shapley_scale="variance")
SETTINGS = training.StepSettings(seed=0, loss=LOSS, shapley_weight=optax.linear_schedule(0.0, 4.0, 2), ema_decay=0.9)
DEVICES = 8


@pytest.fixture
def batch(rng):
    if jax.local_device_count() != DEVICES:
        pytest.skip("needs eight devices; unset JAX_PLATFORMS to split the CPU")
    return {"image": rng.normal(size=(16, 8, 8, 2)).astype(np.float32),
            "label": rng.integers(0, 3, 16).astype(np.int32), "index": np.arange(50, 66, dtype=np.int32)}


def steps_of(model, optimizer):
    """The step on one device and over all, and the state before it."""

    def step(state, batch, axis_name=None):
        return training.train_step(
            state, batch["image"], batch["label"], batch["index"], optimizer=optimizer, settings=SETTINGS,
            apply_fn=lambda p, x, sides: model.module.apply({"params": p}, x, sides), axis_name=axis_name)

    state = training.init_state(model.params, optimizer, ema=True)
    return jax.jit(step), parallel.data_parallel(functools.partial(step, axis_name=parallel.AXIS)), state


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_eight_devices_train_as_one_does(tiny_vit, batch, kind):
    """Under Adam a parameter whose gradient is zero but for rounding (the bias of the attention keys) still moves by
    the sign of that rounding, so the model's output is compared there, which does not depend on it."""
    model = tiny_vit()
    optimizer = optax.sgd(0.01, momentum=0.9) if kind == "sgd" else training.make_optimizer(
        learning_rate=1e-3, warmup_steps=0, steps=10, weight_decay=0.1, b2=0.99, clip_norm=1.0)[0]
    one_step, all_step, one = steps_of(model, optimizer)
    many = parallel.replicate(one)
    for _ in range(3):
        one, one_metrics = one_step(one, batch)
        many, many_metrics = all_step(many, parallel.shard(batch))
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[0], many), jax.tree.map(lambda x: x[-1], many))
    many = parallel.unreplicate(many)
    chex.assert_trees_all_close(parallel.unreplicate(many_metrics), one_metrics, rtol=1e-3, atol=1e-4)
    if kind == "sgd":
        chex.assert_trees_all_close((many.params, many.ema_params), (one.params, one.ema_params), atol=1e-5)
    else:
        phi, moved = (model.apply(p, batch["image"]) for p in (one.params, many.params))
        np.testing.assert_allclose(moved, phi, atol=1e-4)
        assert np.abs(phi - model.apply(model.params, batch["image"])).max() > 1e-3
    assert one.step == many.step == 3
    assert np.abs(one.params["head"]["kernel"] - model.params["head"]["kernel"]).max() > 1e-4


def test_the_step_over_all_devices_is_traced_once(toy, batch):
    optimizer = optax.adamw(1e-3)

    def step(state, batch):
        return training.train_step(state, batch["image"], batch["label"], batch["index"], apply_fn=toy.apply,
                                   optimizer=optimizer, settings=SETTINGS, axis_name=parallel.AXIS)

    compiled = parallel.data_parallel(chex.assert_max_traces(step, n=1))
    state = parallel.replicate(training.init_state(toy.params, optimizer, ema=True))
    shares = parallel.shard(batch | {"image": batch["image"].reshape(16, -1)[:, :15].reshape(16, 5, 3)})
    for _ in range(3):
        state, _ = compiled(state, shares)
    np.testing.assert_array_equal(state.step, np.full(DEVICES, 3))


def test_shards_are_consecutive_shares_of_the_batch(batch):
    shares = parallel.shard(batch)
    chex.assert_tree_shape_prefix(shares, (DEVICES, 2))
    np.testing.assert_array_equal(shares["index"].reshape(-1), batch["index"])
    np.testing.assert_array_equal(shares["image"][3], batch["image"][6:8])


def test_a_replicated_state_is_one_copy_a_device_and_comes_back_unchanged(batch):
    state = {"a": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(4)}
    many = parallel.replicate(state)
    assert many["a"].shape == (DEVICES, 2, 3) and many["step"].shape == (DEVICES,)
    assert len(many["a"].sharding.device_set) == DEVICES
    chex.assert_trees_all_equal(parallel.unreplicate(many), state)


def test_splitting_the_cpu_leaves_a_split_set_from_outside_alone(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    parallel.split_cpu(5)  # would raise here, where JAX runs already, if it tried
