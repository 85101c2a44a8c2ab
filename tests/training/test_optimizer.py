"""The optimizer: weight decay on kernels, the schedule of the learning rate, clipping."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import models
from shapjax.models import vit
from shapjax.training.optimizer import PROBE_RATE, make_optimizer


def test_weight_decay_acts_on_kernels_and_on_nothing_else():
    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=4, width=16, depth=2, heads=2, class_token=True,
                     registers=1)
    params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), models.param_shapes(module, image_shape=(8, 8, 2)))
    optimizer, _ = make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.5, b2=0.99,
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
    _, rate = make_optimizer(learning_rate=0.3, warmup_steps=warmup_steps, steps=50, weight_decay=0.0, b2=0.99,
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
        optimizer, _ = make_optimizer(learning_rate=0.1, warmup_steps=0, steps=10, weight_decay=0.0, b2=0.99,
                                      clip_norm=clip_norm)
        state = optimizer.init(params)
        for gradient in ([0.3, 0.4], [300.0, 400.0]):
            updates, state = optimizer.update({"kernel": jnp.array(gradient)}, state, params)
        return np.asarray(updates["kernel"])

    # Both gradients have norm 0.5 once clipped, so Adam takes the step that it takes on a constant gradient.
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi / 10))
    np.testing.assert_allclose(second_update(0.5), -rate, rtol=1e-3)
    assert np.abs(second_update(1e9) + rate).min() > 0.01


def test_blocks_learn_the_slower_the_nearer_they_are_to_the_pixels_and_the_head_faster():
    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=4, width=16, depth=3, heads=2, class_token=True,
                     layer_scale=True, explainer_depth=1)
    params = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), models.param_shapes(module, image_shape=(8, 8, 2)))

    def first_update(**settings):
        optimizer, _ = make_optimizer(learning_rate=0.1, steps=10, weight_decay=0.0, clip_norm=1e9, **settings)
        gradients = jax.tree.map(jnp.ones_like, params)
        return jax.jit(lambda: optimizer.update(gradients, optimizer.init(params), params)[0])()

    alike, scaled = first_update(), first_update(layer_decay=0.5, head_rate=4.0)
    ratio = jax.tree.map(lambda a, b: np.asarray(a / b), scaled, alike)
    for x in jax.tree.leaves(ratio["blocks"]):
        np.testing.assert_allclose(x.reshape(3, -1), np.broadcast_to([[0.25], [0.5], [1]], x.reshape(3, -1).shape))
    expected = {"embedding": 0.125, "positions": 0.125, "prefix_tokens": 0.125, "norm": 1, "head": 4, "explainer": 4}
    for key, factor in expected.items():
        jax.tree.map(lambda x, factor=factor: np.testing.assert_allclose(x, factor), ratio[key])
    alone = first_update(layer_decay=0.5, head_rate=4.0, train_only=("head", "positions"))
    for key, update in alone.items():
        expected = scaled[key] if key in ("head", "positions") else jax.tree.map(jnp.zeros_like, update)
        jax.tree.map(np.testing.assert_array_equal, update, expected)


def test_a_probe_comes_first_at_a_rate_of_its_own_and_the_end_has_a_floor():
    _, rate = make_optimizer(learning_rate=0.3, steps=50, probe_steps=10, warmup_steps=5, floor=0.1, head_rate=2.0)
    rates = np.array([rate(i) for i in range(51)])
    np.testing.assert_allclose(rates[:10], PROBE_RATE / 2)
    np.testing.assert_allclose(rates[10:16], np.linspace(0, 0.3, 6), atol=1e-7)
    assert (np.diff(rates[15:]) < 0).all() and rates[50] == pytest.approx(0.03)
