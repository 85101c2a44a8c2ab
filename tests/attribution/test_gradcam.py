"""Grad-CAM against Captum on the same network."""

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shapjax.attribution import gradcam
from shapjax.errors import UserError
from shapjax.games import classifier, removal


def features_and_logits(params, images, delta=None):
    axes = ("NHWC", "HWIO", "NHWC")
    x = jnp.tanh(jax.lax.conv_general_dilated(images, params["conv"], (2, 2), "VALID", dimension_numbers=axes))
    x = x if delta is None else x + delta
    return jnp.tanh(x.reshape(len(x), -1) @ params["inner"]) @ params["outer"], x


@pytest.fixture(scope="module")
def example():
    """Parameters, images [3, 6, 8, 2], targets, and Captum's map [3, 3, 4] of the layer."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (2, 2, 2, 3), "inner": (36, 5), "outer": (5, 4)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    images, targets = rng.normal(size=(3, 6, 8, 2)).astype(np.float32), np.array([3, 0, 2])
    conv, inner, outer = (torch.tensor(params[name]) for name in shapes)
    layer = torch.nn.Tanh()

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            x = self.layer(torch.nn.functional.conv2d(x, conv.permute(3, 2, 0, 1), stride=2)).permute(0, 2, 3, 1)
            return torch.tanh(x.reshape(len(x), -1) @ inner) @ outer

    x = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    theirs = captum.attr.LayerGradCam(Network(), layer).attribute(x, torch.tensor(targets), relu_attributions=True)
    return params, images, targets, theirs.detach()


def wrapped(params, grid, features_fn=features_and_logits):
    return classifier.wrap(lambda p, x: features_and_logits(p, x)[0], params, grid=grid,
                           removal=removal.Constant(0.0), features_fn=features_fn)


@pytest.mark.parametrize("batch_size", [256, 2])
def test_gradcam_on_its_own_grid_is_captums(example, batch_size):
    params, images, targets, theirs = example
    out = gradcam.gradcam(wrapped(params, (3, 4)), images, targets, batch_size=batch_size)
    np.testing.assert_allclose(out, theirs.numpy().reshape(3, 12), atol=1e-5)
    assert (out > 0.01).any() and (out == 0).any()  # the ReLU has something to do


def test_a_map_coarser_than_the_grid_is_resized_bilinearly(example):
    params, images, targets, theirs = example
    out = gradcam.gradcam(wrapped(params, (6, 6)), images, targets)
    resized = captum.attr.LayerAttribution.interpolate(theirs, (6, 6), "bilinear")
    np.testing.assert_allclose(out, resized.numpy().reshape(3, 36), atol=1e-5)


def test_a_map_finer_than_the_grid_is_smoothed_not_sampled(example):
    params, images, targets, _ = example

    def corner(params, images, delta):  # bright in one cell of 5 x 5 only, far from where the center would be sampled
        x = jnp.zeros((len(images), 5, 5, 1)).at[:, 0, 0].set(1.0) + (0.0 if delta is None else delta)
        return jnp.repeat(x.sum(axis=(1, 2)), 4, axis=1), x

    assert (gradcam.gradcam(wrapped(params, (1, 1), corner), images, targets) > 1e-3).all()


def test_a_model_without_features_is_refused(example):
    params, images, targets, _ = example
    with pytest.raises(UserError, match="no spatial features"):
        gradcam.gradcam(wrapped(params, (3, 4), features_fn=None), images, targets)
