"""The explainer head: it changes phi, but no total and no coalition; only the Shapley task teaches it."""

import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from shapjax.models import explainer_head
from shapjax.training import loss as losses
from tests.conftest import random_tree

SHAPE = (8, 12, 2)  # 6 patches of 4 pixels
BACKBONES = {
    "vit": {"width": 18, "depth": 1, "heads": 2, "class_token": True, "remat": "none"},
    "resnet": {"backbone": "resnet", "width": 8, "stages": (0, 1)},
}
SEGMENTS = jnp.array([[True, False, True, False, False, True], [False, True, True, True, False, True]])


class Net(NamedTuple):
    """A module with an explainer head, random parameters, those without the head, and the compiled `module.apply`."""

    module: nn.Module
    params: Any
    others: Any
    apply: Any


@functools.cache
def make(backbone):
    c = config.default_config()
    config.set_model(c, {"patch_size": 4, "explainer_depth": 1} | BACKBONES[backbone])
    module = models.build(config.model_settings(c), image_shape=SHAPE, num_classes=3)
    params = random_tree(models.param_shapes(module, image_shape=SHAPE), scale=0.4)
    others = {key: value for key, value in params.items() if key != "explainer"}
    apply = jax.jit(lambda module, params, *arrays: module.apply({"params": params}, *arrays), static_argnums=0)
    return Net(module, params, others, apply)


@pytest.fixture(params=BACKBONES)
def net(request):
    return make(request.param)


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(2, *SHAPE)), jnp.float32)


def test_it_changes_phi_but_no_total_and_no_coalition(net, images):
    phi = net.apply(net.module, net.params, images)
    without = net.module.without_explainer
    assert net.module.has_explainer and not without.has_explainer
    patch_logits = net.apply(without, net.others, images)
    np.testing.assert_allclose(phi.sum(axis=1), patch_logits.sum(axis=1), atol=1e-5)
    assert np.abs(phi - patch_logits).max(axis=(1, 2)).min() > 1e-2
    np.testing.assert_allclose(net.apply(net.module, net.params, images, SEGMENTS),
                               net.apply(without, net.others, images, SEGMENTS), atol=1e-6)


def test_it_adds_the_output_of_its_linear_head_without_the_mean_over_patches(net, images):
    @jax.jit
    def seen(params):
        outputs = {}

        def remember(call, arguments, keywords, context):
            outputs["/".join(context.module.path)] = result = call(*arguments, **keywords)
            return result

        with nn.intercept_methods(remember):
            phi = net.module.apply({"params": params}, images)
        return phi, outputs["head"], outputs["explainer/norm"]

    phi, patch_logits, normed = seen(net.params)
    h = np.asarray(normed) @ net.params["explainer"]["head"]["kernel"] / np.sqrt(6)
    h = h - h.mean(axis=2, keepdims=True)  # centered over the classes, as the patch logits are
    np.testing.assert_allclose(phi - patch_logits, h - h.mean(axis=1, keepdims=True), atol=1e-5)


def test_a_new_one_adds_nothing_whatever_the_width_of_the_features():
    for width in (6, 9, 300):  # its attention heads have to divide them
        head = explainer_head.ExplainerHead(2, 1, scale="sqrt", center=True, dtype=jnp.float32, dot_general=None,
                                           remat="none")
        added, variables = jax.jit(head.init_with_output)(jax.random.key(0), jnp.ones((1, 4, width)))
        np.testing.assert_array_equal(added, np.zeros((1, 4, 2)))
        assert variables["params"]["positions"].shape == (4, min(width, 256))


def test_only_the_shapley_task_teaches_it(net, images):
    @jax.jit
    @jax.grad
    def gradient(params, weight):
        settings = losses.LossSettings(num_pairs=2, weight=weight, masked_weight=1.0)
        return losses.joint_loss(
            lambda *arrays: net.module.apply({"params": params}, *arrays), images,
            jax.nn.one_hot(jnp.array([0, 2]), 3), jax.random.split(jax.random.key(3)), settings=settings)[0]

    without, taught = gradient(net.params, 0.0), gradient(net.params, 1.0)
    chex.assert_trees_all_close(without["explainer"], jax.tree.map(jnp.zeros_like, without["explainer"]), atol=1e-6)
    assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(taught["explainer"]))  # positions too
    assert np.abs(without["head"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize(("name", "millions"), [("ResNet-50", 27.95), ("ConvNeXt-T", 30.64), ("S/16", 24.04)])
def test_two_blocks_add_little_to_a_published_model(name, millions):
    c = config.default_config()
    config.set_model(c, models.variant(name) | {"explainer_depth": 2})
    module = models.build(config.model_settings(c), image_shape=(224, 224, 3), num_classes=1000)
    shapes = models.param_shapes(module, image_shape=(224, 224, 3))
    assert shapes["explainer"]["blocks"]["mlp_in"]["kernel"].shape == (2, 256, 1024)
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=2e-3)
