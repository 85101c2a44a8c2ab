"""Layouts: copies on eight devices, one state over eight, and two copies over four all train as one device does."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shapjax.data import augmentation
from shapjax.training import sharding
from shapjax.training import step as training
from shapjax.training.loss import LossParts, LossSettings
from shapjax.training.optimizer import make_optimizer

DEVICES = 8
LOSS = LossSettings(num_pairs=1, weight=4.0, masked_weight=1.0)
LAYOUTS = {"copies": sharding.Replicated, "over 8": sharding.FullyShared, "over 4": lambda: sharding.FullyShared(4)}
MOMENTUM = optax.sgd(0.05, momentum=0.9)


@pytest.fixture(autouse=True)
def eight_devices():
    if jax.device_count() != DEVICES:
        pytest.skip("needs eight devices; unset JAX_PLATFORMS to split the CPU")


@pytest.fixture
def small_arrays_are_split(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SPLIT", 1)


def batch_of(rows, *image_shape):
    rng = np.random.default_rng(0)
    return {"image": rng.random((rows, *image_shape), np.float32), "label": rng.integers(0, 3, rows).astype(np.int32),
            "index": np.arange(50, 50 + rows, dtype=np.int32)}


def training_of(apply, params, optimizer=MOMENTUM, *, loss=LOSS, accumulate=1):
    """Returns (step, state before it) for a layout."""
    def step(state, batch, *, axis_name=None):
        c = batch["image"].shape[-1]
        settings = training.StepSettings(loss=loss, num_classes=3, mean=(0.0,) * c, std=(1.0,) * c, seed=3,
                                         ema_decay=0.9, accumulate=accumulate)
        return training.train_step(state, batch, apply_fn=apply, optimizer=optimizer, settings=settings,
                                   axis_name=axis_name)

    return step, lambda: training.init_state(params, optimizer, ema=True)


def toy_params(hidden=8):
    """Returns parameters of `toy`, wide enough to split; the bias and, over 8 devices, an odd width are not split."""
    rng = np.random.default_rng(1)
    shapes = {"own": (3, hidden), "context": (3, hidden), "kernel": (hidden, 3), "bias": (1, 1, 3)}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def train(layout, step, init, batch, steps=3):
    """Returns the state (on the host) and the metrics after some steps of a layout."""
    state, step_fn = layout.init(init), layout.step(step)
    for _ in range(steps):
        state, metrics = step_fn(state, layout.batch(batch))
    return jax.device_get(layout.to_checkpoint(state)), layout.fetch(metrics)


def train_on_one(step, init, batch, steps=3):
    state, step_fn = init(), jax.jit(step)
    for _ in range(steps):
        state, metrics = step_fn(state, batch)
    return state, metrics


# Training


@functools.cache
def reference(apply, optimizer, loss):
    step, init = training_of(apply, toy_params(), optimizer, loss=loss)
    return train_on_one(step, init, batch_of(32, 5, 3))


@pytest.mark.parametrize(("name", "accumulate"), [("copies", 4), ("over 8", 4), ("over 4", 2)])
def test_every_layout_trains_in_parts_as_one_device_does_at_once(toy, small_arrays_are_split, name, accumulate):
    loss = LOSS._replace(weight=0.0)  # the variance is each part's own
    step, init = training_of(toy.apply, toy_params(), loss=loss, accumulate=accumulate)
    state, metrics = train(LAYOUTS[name](), step, init, batch_of(32, 5, 3))
    expected, expected_metrics = reference(toy.apply, MOMENTUM, loss)
    assert state.step == expected.step == 3
    chex.assert_trees_all_close(state, expected, rtol=1e-4, atol=1e-5)
    for name in set(metrics) - {"loss_shapley"}:
        assert metrics[name] == pytest.approx(float(expected_metrics[name]), rel=1e-3, abs=1e-5)
    assert np.abs(state.params["kernel"] - toy_params()["kernel"]).max() > 1e-2


ADAM, _ = make_optimizer(learning_rate=1e-2, warmup_steps=0, steps=10, weight_decay=0.1, b2=0.99,
                                  clip_norm=0.1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_with_adam_and_clipping_too_and_later_steps_compile_nothing_and_reuse_the_memory(toy, small_arrays_are_split,
                                                                                         caplog, name):
    """All parameters of the model must have gradients. If a gradient is zero but for rounding, as that of the bias of
    attention keys, Adam moves the parameter by the sign of the rounding, and no two layouts round alike."""
    layout, loss = LAYOUTS[name](), LOSS._replace(num_pairs=0)
    step, init = training_of(toy.apply, toy_params(), ADAM, loss=loss)
    state, step_fn = layout.init(init), layout.step(step)
    compilations = []
    for _ in range(3):
        batch, old = layout.batch(batch_of(32, 5, 3)), state
        caplog.clear()
        with jax.log_compiles():
            state, _ = step_fn(state, batch)
        compilations.append(sum("Finished XLA compilation of" in r.getMessage() for r in caplog.records))
        assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert compilations[0] > 0 and compilations[1:] == [0, 0]
    expected, _ = reference(toy.apply, ADAM, loss)
    chex.assert_trees_all_close(jax.device_get(layout.to_checkpoint(state)), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected.params["kernel"] - toy_params()["kernel"]).max() > 1e-2


# What is compiled, for a transformer of two blocks


ROWS = (24, 8, 8, 2)  # 96 tokens, 12 a device: sizes that no weight of the model has


@pytest.fixture(scope="module")
def compiled_vit(tiny_vit):
    """Returns name -> layout, model, state before, state and metrics after two steps, the compiled step."""
    @functools.cache
    def make(name):
        model, layout = tiny_vit(width=64), LAYOUTS[name]()
        step, init = training_of(model.apply, model.params)
        state, batch = layout.init(init), layout.batch(batch_of(*ROWS))
        compiled = layout.step(step).lower(state, batch).compile()
        bytes_a_device = [sum(x.addressable_shards[i].data.nbytes for x in jax.tree.leaves(state)) for i in (0, -1)]
        for _ in range(2):
            state, metrics = compiled(state, batch)
        state = jax.device_get(layout.to_checkpoint(state))
        return layout, model, bytes_a_device, state, layout.fetch(metrics), compiled

    return make


def collectives(compiled):
    """Returns (operation, shapes of its results) for the collectives of a compiled step, in its order."""
    found = re.findall(r"= (\S.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\(",
                       compiled.as_text())
    return [(operation, [tuple(map(int, filter(None, s.split(",")))) for s in re.findall(r"\w+\[([\d,]*)\]", shapes)])
            for shapes, operation in found]


def core(shape):
    """Returns a shape without its order and its axes of one."""
    return tuple(sorted(size for size in shape if size > 1))


def test_a_split_state_trains_a_transformer_as_copies_do(compiled_vit):
    _, model, _, state, metrics, _ = compiled_vit("copies")
    require_same_training(model, compiled_vit("over 8"), state, metrics)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_a_transformer_as_one_device_does(compiled_vit, name):
    trained = compiled_vit(name)
    step, init = training_of(trained[1].apply, trained[1].params)
    require_same_training(trained[1], trained, *train_on_one(step, init, batch_of(*ROWS), steps=2))


def require_same_training(model, trained, expected, expected_metrics):
    _, _, _, state, metrics, _ = trained
    chex.assert_trees_all_close((state.params, state.ema_params), (expected.params, expected.ema_params), atol=1e-4)
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-3, atol=1e-4)
    assert np.abs(state.params["head"]["kernel"] - model.params["head"]["kernel"]).max() > 1e-3


def test_copies_meet_twice_a_step_for_the_variance_and_for_gradients_and_metrics_together(compiled_vit):
    _, model, _, _, _, compiled = compiled_vit("copies")
    (first, moments), (second, rest) = collectives(compiled)
    assert first == second == "all-reduce"
    assert moments == [(3,), (3,)]  # means of v and of its square; the gradient depends on them
    assert [x for x in rest if x] == [x.shape for x in jax.tree.leaves(model.params)]
    assert rest.count(()) <= len(LossParts._fields)


@pytest.mark.parametrize("name", ["over 8", pytest.param("over 4", marks=pytest.mark.slow)])
def test_a_split_state_sends_weights_and_gradients_of_one_block_at_a_time_and_no_activations(compiled_vit, name):
    layout, model, _, _, _, compiled = compiled_vit(name)
    params = jax.tree.leaves({k: v for k, v in model.params.items() if k != "blocks"})
    params = [x.shape for x in params] + [x.shape[1:] for x in jax.tree.leaves(model.params["blocks"])]
    whole, parts = {core(s) for s in params}, {core(layout.sharding(s).shard_shape(s)) for s in params}
    sent = collectives(compiled)
    assert {operation for operation, _ in sent} <= {"all-gather", "all-reduce", "reduce-scatter"}
    gathered = {core(shape) for operation, shapes in sent if operation == "all-gather" for shape in shapes}
    assert gathered and gathered <= {s for s in whole if math.prod(s) >= sharding.MIN_SPLIT}
    reduced = {core(shape) for operation, shapes in sent if operation != "all-gather" for shape in shapes}
    assert reduced <= whole | parts | {(), (3,)}  # (3,): moments of the values


def test_of_a_split_state_a_device_holds_its_share(compiled_vit):
    _, model, bytes_a_device, _, _, compiled = compiled_vit("over 8")
    copies = 3  # parameters, momentum, moving average
    all_bytes = copies * sum(x.nbytes for x in jax.tree.leaves(model.params)) + 4
    assert all(share <= 0.15 * all_bytes for share in bytes_a_device)
    batch_bytes = sum(x.nbytes for x in batch_of(*ROWS).values()) / DEVICES
    assert compiled.memory_analysis().argument_size_in_bytes <= 0.15 * all_bytes + batch_bytes


# Where arrays lie


@pytest.mark.parametrize(("shape", "part"), [
    ((12, 384, 1536), (12, 384, 192)), ((12, 1536, 384), (12, 192, 384)), ((384, 384), (384, 48)), ((8, 999), (1, 999)),
    ((999, 999), (999, 999)), ((1016,), (1016,)), ((1024,), (128,)), ((), ())])
def test_an_array_is_cut_along_its_longest_axis_that_can_be_and_small_or_odd_ones_stay_whole(shape, part):
    assert sharding.FullyShared().sharding(shape).shard_shape(shape) == part


def test_groups_that_do_not_divide_the_devices_are_refused_with_the_setting():
    with pytest.raises(ValueError, match="fsdp_devices=3 does not divide the 8 devices; use one of 1, 2, 4, 8") as e:
        sharding.make_layout("fsdp", fsdp_devices=3)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="parallel=both: expected one of pmap, fsdp"):
        sharding.make_layout("both")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_device_holds_consecutive_rows_of_the_batch(name):
    batch = batch_of(16, 5, 3)
    on_devices = LAYOUTS[name]().batch(batch)
    for key, array in on_devices.items():
        for device, shard in enumerate(sorted(array.addressable_shards, key=lambda s: s.device.id)):
            rows = np.asarray(shard.data).reshape(2, *batch[key].shape[1:])
            np.testing.assert_array_equal(rows, batch[key][2 * device: 2 * device + 2])


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_a_state_goes_through_a_checkpoint_bit_for_bit_from_any_layout_to_any(small_arrays_are_split, before, after):
    def init():
        return training.init_state(toy_params(hidden=12), MOMENTUM, ema=True)  # 12 cannot be cut in 8

    old, new = LAYOUTS[before](), LAYOUTS[after]()
    saved = old.to_checkpoint(old.init(init))
    chex.assert_trees_all_equal(jax.device_get(saved), jax.device_get(init()))
    template = new.template(jax.eval_shape(init))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), template) == jax.tree.map(lambda x: (x.shape, x.dtype), saved)
    read = jax.tree.map(lambda x, t: jax.device_put(np.asarray(x), t.sharding), saved, template)  # as orbax does
    state = new.from_checkpoint(read)
    fresh = new.init(init)
    assert jax.tree.map(lambda x: (x.shape, x.sharding), state) == jax.tree.map(lambda x: (x.shape, x.sharding), fresh)
    chex.assert_trees_all_equal(jax.device_get(new.to_checkpoint(state)), jax.device_get(init()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_sums_are_over_the_valid_rows_of_the_global_batch(small_arrays_are_split, name):
    layout = LAYOUTS[name]()
    batch = batch_of(16, 5, 3) | {"valid": np.arange(16) < 11}

    def sums(params, batch):
        scores = (batch["image"] @ params["own"]).sum(axis=(1, 2))
        return {"score": jnp.sum(scores * batch["valid"]), "images": jnp.sum(batch["valid"], dtype=jnp.float32)}

    state = layout.init(lambda: training.init_state(toy_params(), MOMENTUM, ema=True))
    total = layout.fetch(layout.sums(sums)(state.params, layout.batch(batch)))
    assert total["images"] == 11
    assert total["score"] == pytest.approx((batch["image"][:11] @ np.asarray(toy_params()["own"])).sum(), rel=1e-4)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_state_can_be_made_of_arrays_of_the_host(small_arrays_are_split, name):
    layout, arrays = LAYOUTS[name](), jax.device_get(toy_params())
    state = layout.init(lambda params: training.init_state(params, MOMENTUM, ema=True), arrays)
    saved = layout.to_checkpoint(state)
    for params in (saved.params, saved.ema_params):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), arrays)
    template = layout.template(jax.eval_shape(lambda: saved))
    assert saved.params["own"].sharding.is_equivalent_to(template.params["own"].sharding, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_pairs_that_mixup_mixes_are_the_same_in_every_layout(name):
    batch = batch_of(16, 4, 4, 3)

    def sums(params, batch):
        keys = training.example_keys(0, jnp.int32(0), batch["index"])
        targets = jax.nn.one_hot(batch["label"], 3)
        images, targets = augmentation.mix(batch["image"], targets, keys, mixup=1.0, cutmix=0.0)
        return jnp.einsum("bhwc,bk,b->hwck", images, targets, batch["index"].astype(jnp.float32))

    layout = LAYOUTS[name]()
    state = layout.init(lambda: training.init_state(toy_params(), MOMENTUM, ema=False))
    total = layout.fetch(layout.sums(sums)(state.params, layout.batch(batch)))
    np.testing.assert_allclose(total, jax.jit(sums)(None, batch), rtol=1e-4)
