"""Data parallelism: eight devices do what one does."""

import functools
import os

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


@pytest.fixture
def toy_batch(batch, rng):
    return batch | {"image": rng.normal(size=(16, 5, 3)).astype(np.float32)}


def steps_of(model, optimizer):
    """The step on one device and over all, and the state before it."""

    def step(state, batch, axis_name=None):
        return training.train_step(
            state, batch["image"], batch["label"], batch["index"], optimizer=optimizer, settings=SETTINGS,
            apply_fn=model.apply, axis_name=axis_name)

    state = training.init_state(model.params, optimizer, ema=True)
    return jax.jit(step), parallel.data_parallel(functools.partial(step, axis_name=parallel.AXIS)), state


def train_on_one_and_on_all(model, optimizer, batch):
    """States and metrics after three steps, by one device and by eight."""
    one_step, all_step, one = steps_of(model, optimizer)
    many = parallel.replicate(one)
    for _ in range(3):
        one, one_metrics = one_step(one, batch)
        many, many_metrics = all_step(many, parallel.shard(batch))
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[0], many), jax.tree.map(lambda x: x[-1], many))
    return (one, one_metrics), parallel.unreplicate((many, many_metrics))


def test_eight_devices_train_as_one_does(tiny_vit, batch):
    """With plain gradient descent: Adam also moves parameters whose gradient is zero but for rounding (the bias of the
    attention keys), by the sign of that rounding."""
    model = tiny_vit()
    (one, one_metrics), (many, many_metrics) = train_on_one_and_on_all(model, optax.sgd(0.01, momentum=0.9), batch)
    assert one.step == many.step == 3
    chex.assert_trees_all_close((many.params, many.ema_params), (one.params, one.ema_params), atol=1e-5)
    chex.assert_trees_all_close(many_metrics, one_metrics, rtol=1e-3, atol=1e-5)
    assert np.abs(one.params["head"]["kernel"] - model.params["head"]["kernel"]).max() > 1e-4


def test_eight_devices_train_as_one_does_with_adam_and_clipping(toy, toy_batch):
    optimizer, _ = training.make_optimizer(learning_rate=1e-2, warmup_steps=0, steps=10, weight_decay=0.1, b2=0.99,
                                           clip_norm=0.1)
    (one, _), (many, _) = train_on_one_and_on_all(toy, optimizer, toy_batch)
    chex.assert_trees_all_close(many, one, atol=1e-5)
    assert np.abs(one.params["kernel"] - toy.params["kernel"]).max() > 1e-2


def test_the_step_over_all_devices_compiles_once(toy, toy_batch, caplog):
    optimizer = optax.adamw(1e-3)

    def step(state, batch):
        return training.train_step(state, batch["image"], batch["label"], batch["index"], apply_fn=toy.apply,
                                   optimizer=optimizer, settings=SETTINGS, axis_name=parallel.AXIS)

    compiled = parallel.data_parallel(chex.assert_max_traces(step, n=1))
    state = parallel.replicate(training.init_state(toy.params, optimizer, ema=True))
    compilations = []
    for _ in range(3):
        caplog.clear()
        with jax.log_compiles():
            state, _ = compiled(state, parallel.shard(toy_batch))
        compilations.append(sum("Finished XLA compilation of" in r.getMessage() for r in caplog.records))
    assert compilations[0] > 0 and compilations[1:] == [0, 0]
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


def test_the_cpu_is_split_into_a_device_a_core_unless_told_otherwise(monkeypatch):
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *x: updates.append(x))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 4})
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    parallel.split_cpu(0)
    parallel.split_cpu(5)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")  # JAX refuses both at once
    parallel.split_cpu(5)
    assert updates == [("jax_num_cpu_devices", 3), ("jax_num_cpu_devices", 5)]


@pytest.mark.parametrize("block", [1, 16, 100])
def test_a_function_over_images_gives_each_its_own_row_whatever_the_block_and_the_devices(rng, block):
    def fn(weights, images, extra):
        draw = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(extra["keys"])
        return {"scores": images @ weights, "noise": draw, "index": extra["index"]}

    weights, images = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(19, 3)).astype(np.float32)
    extra = {"keys": jax.random.split(jax.random.key(0), 19), "index": np.arange(19)}
    over, seen = parallel.OverImages(fn, block=block), []
    out = over(weights, images, extra, done=seen.append)
    np.testing.assert_allclose(out["scores"], images @ weights, atol=1e-5)
    np.testing.assert_array_equal(out["index"], np.arange(19))
    np.testing.assert_array_equal(out["noise"], fn(weights, images, extra)["noise"])
    assert sum(seen) == 19 and over.block % DEVICES == 0 and over.block >= block
    assert over.peak_bytes > 0


def test_a_function_over_images_is_compiled_once(rng):
    traces = []

    def fn(model, images):
        traces.append(images.shape)
        return images.sum(axis=1)

    over = parallel.OverImages(fn, block=8)
    for rows in (8, 19, 3, 0):
        images = rng.normal(size=(rows, 4)).astype(np.float32)
        np.testing.assert_allclose(over((), images), images.sum(axis=1), atol=1e-5)
    assert traces == [(1, 4)]  # one row a device
