"""The game of convolutional backbones: hidden patches are as if beyond the border."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from shapjax.games import coalitions
from shapjax.models import masked_conv, probes
from tests.conftest import random_tree

SHAPE, GRID, PATCH = (16, 24, 2), (2, 3), 8
BACKBONES = {
    "small ResNet": {"backbone": "resnet", "width": 8, "stages": (0, 1, 1)},
    "ResNet": {"backbone": "resnet", "width": 8, "stages": (1, 1), "bottleneck": True, "batch_norm": True},
    "ConvNeXt": {"backbone": "convnext", "width": 8, "stages": (1, 1), "norm_place": "pooled"},
}
MASK = jnp.array([[True, False, True, False, False, True], [False, True, True, True, False, True]])


class Net(NamedTuple):
    """A backbone with random parameters, its compiled `apply` (method=…), and images."""

    module: masked_conv.MaskedConvBackbone
    params: Any
    apply: Any
    images: Any


@functools.cache
def make(backbone):
    c = config.default_config()
    config.set_model(c, {"patch_size": PATCH, "remat": "none"} | BACKBONES[backbone])
    module = models.build(config.model_settings(c), image_shape=SHAPE, num_classes=3)
    params = random_tree(models.param_shapes(module, image_shape=SHAPE), scale=0.4)
    apply = jax.jit(lambda *arrays, method=None: module.apply({"params": params}, *arrays, method=method),
                    static_argnames="method")
    return Net(module, params, apply, jax.random.normal(jax.random.key(1), (2, *SHAPE)))


@pytest.fixture(params=BACKBONES)
def net(request):
    return make(request.param)


def hidden(mask):
    return ~jnp.repeat(jnp.repeat(mask.reshape(-1, *GRID), PATCH, axis=1), PATCH, axis=2)[..., None]


def test_every_patch_and_class_has_a_value(net):
    phi = net.apply(net.images, None)
    assert net.module.grid == GRID and phi.shape == (2, 6, 3) and phi.dtype == jnp.float32
    np.testing.assert_allclose(phi.sum(axis=-1), 0, atol=1e-5)  # centered over the classes
    assert np.std(phi) > 1e-3


def test_the_game_goes_from_nothing_to_the_prediction_and_a_pair_is_two_masked_passes(net):
    masks = jnp.stack([jnp.ones_like(MASK), MASK], axis=1)
    values, complements = coalitions.pair_values(net.apply, net.images, masks)
    np.testing.assert_array_equal(complements[:, 0], 0)  # v of no patches
    np.testing.assert_allclose(values[:, 0], net.apply(net.images, None).sum(axis=1), rtol=1e-4, atol=1e-4)
    for mask, value in ((MASK, values[:, 1]), (~MASK, complements[:, 1])):
        patch_logits = net.apply(net.images, mask, method="visible_patch_logits")
        np.testing.assert_allclose(value, jnp.where(mask[..., None], patch_logits, 0).sum(axis=1), rtol=1e-4, atol=1e-4)
    assert np.abs(values[:, 1] + complements[:, 1] - values[:, 0]).max() > 1e-3  # what is hidden would have mattered


def test_hidden_pixels_do_not_matter(net):
    seen = net.apply(net.images, MASK, method="visible_patch_logits")
    other = jnp.where(hidden(MASK), 7.0, net.images)
    np.testing.assert_array_equal(seen, net.apply(other, MASK, method="visible_patch_logits"))


def test_what_is_hidden_lies_beyond_the_border(net):
    """A rectangle of visible patches has the logits of the image cut to it, but for the head's 1/√N."""
    mask, corners = np.zeros((2, *GRID), bool), [(0, 0), (1, 1)]
    for image, (row, column) in enumerate(corners):
        mask[image, row, column:column + 2] = True
    mask = mask.reshape(2, -1)
    seen = net.apply(net.images, mask, method="visible_patch_logits")[mask].reshape(2, 2, 3)
    cut = jnp.stack([image[PATCH * row:PATCH * (row + 1), PATCH * column:PATCH * (column + 2)]
                     for image, (row, column) in zip(net.images, corners, strict=True)])
    alone = jax.jit(net.module.clone(image_size=cut.shape[1:3]).apply)({"params": net.params}, cut)
    np.testing.assert_allclose(seen, alone * np.sqrt(2 / 6), rtol=1e-4, atol=1e-4)
    painted = net.apply(jnp.where(hidden(mask), 0, net.images), method="features")  # hidden at the input alone
    painted_over = net.apply(painted, mask, method="read")[mask].reshape(2, 2, 3)
    assert np.abs(painted_over - seen).max() > 1e-3


@pytest.mark.parametrize("backbone", ["small ResNet", "ConvNeXt"])
def test_rematerialization_changes_no_gradient(backbone):
    net = make(backbone)

    def gradient(remat):
        module = net.module.clone(remat=remat)
        return jax.jit(jax.grad(lambda p: jnp.mean(module.apply({"params": p}, net.images) ** 2)))(net.params)

    chex.assert_trees_all_close(gradient("none"), gradient("full"), rtol=1e-3, atol=1e-4)


def test_bfloat16_computes_with_float32_parameters_and_returns_float32(net):
    coarse = net.module.clone(dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(net.params)} == {jnp.dtype("float32")}
    phi = net.apply(net.images, None)
    phi_coarse = jax.jit(coarse.apply)({"params": net.params}, net.images)
    assert phi_coarse.dtype == jnp.float32
    assert 1e-6 < np.abs(phi - phi_coarse).max() / np.abs(phi).max() < 0.1  # near, and not secretly float32


def test_its_features_lead_to_its_patch_logits(net):
    found = probes.probes(net.module)
    assert found.keys() == {"features_fn"}  # nothing attends
    features_fn = jax.jit(found["features_fn"])
    features = net.apply(net.images, method="features")
    delta = jnp.zeros((2, *GRID, features.shape[-1]))
    logits, same = features_fn(net.params, net.images, delta)
    np.testing.assert_allclose(features.reshape(same.shape), same, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, net.apply(net.images, None).sum(axis=1), rtol=1e-4, atol=1e-4)
    moved, shown = features_fn(net.params, net.images, delta + 1.0)
    np.testing.assert_allclose(shown, same + 1.0, rtol=1e-4, atol=1e-4)
    if not isinstance(net.module, models.convnext.ConvNeXt):  # its norm takes away what all channels have in common
        assert np.abs(moved - logits).max() > 1e-3


def test_images_of_another_size_are_refused(net):
    with pytest.raises(ValueError, match=r"takes images \[B, 16, 24, C\], got \[1, 24, 16, 2\]"):
        net.module.apply({"params": net.params}, jnp.zeros((1, 24, 16, 2)))
