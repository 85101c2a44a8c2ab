"""Gradient methods against Captum on the same network, completeness, additive models, noise; and Grad-CAM."""

import captum.attr
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shapjax.attribution import gradients
from shapjax.games import classifier, removal

GRID = (2, 3)
SHAPE = (4, 6, 2)
HIDE = removal.Constant(0.0)


def logits(params, images):
    x = jax.lax.conv_general_dilated(images, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(jnp.tanh(x).reshape(len(images), -1) @ params["inner"]) @ params["outer"]


@pytest.fixture(scope="module")
def example():
    """Returns a classifier, the same classifier in torch, images and targets."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 2, 3), "inner": (72, 5), "outer": (5, 4)}
    params = {name: rng.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}
    conv, inner, outer = (torch.tensor(params[name]) for name in shapes)

    def network(x):  # channels first, as Captum's users have them
        x = torch.tanh(torch.nn.functional.conv2d(x, conv.permute(3, 2, 0, 1), padding=1)).permute(0, 2, 3, 1)
        return torch.tanh(x.reshape(len(x), -1) @ inner) @ outer

    model = classifier.wrap(logits, params, grid=GRID, removal=HIDE)
    return model, network, rng.normal(size=(3, *SHAPE)).astype(np.float32), np.array([3, 0, 2])


def by_captum(method, example, **options):
    """Returns [B, N]: pixels summed over patches by hand."""
    _, network, images, targets = example
    x = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    pixels = method(network).attribute(x, target=torch.tensor(targets), **options)
    return pixels.detach().numpy().reshape(3, 2, 2, 2, 3, 2).sum(axis=(1, 3, 5)).reshape(3, 6)


@pytest.mark.parametrize("batch_size", [256, 2])
@pytest.mark.parametrize(("ours", "theirs"), [(gradients.gradient, captum.attr.Saliency),
                                              (gradients.input_x_gradient, captum.attr.InputXGradient)])
def test_gradient_and_input_x_gradient_are_captums(example, ours, theirs, batch_size):
    model, _, images, targets = example
    np.testing.assert_allclose(ours(model, images, targets, batch_size=batch_size), by_captum(theirs, example),
                               atol=1e-5)


@pytest.mark.parametrize(("batch_size", "baseline"), [(256, 0.0), (32, (0.5, -1.0)), (120, 0.3)])
def test_integrated_gradients_are_captums_whatever_the_pass(example, batch_size, baseline):
    model, _, images, targets = example
    values = np.broadcast_to(np.float32(baseline), (2,))
    theirs = torch.tensor(values).reshape(1, 2, 1, 1).expand(3, 2, *SHAPE[:2])
    out = gradients.integrated_gradients(model, images, targets, batch_size=batch_size, baseline=baseline)
    np.testing.assert_allclose(out, by_captum(captum.attr.IntegratedGradients, example, baselines=theirs), atol=1e-5)


def test_integrated_gradients_sum_to_the_logit_less_that_of_the_baseline(example):
    model, _, images, targets = example
    out = gradients.integrated_gradients(model, images, targets, baseline=0.3)
    gain = model.logits(images) - model.logits(jnp.full_like(images, 0.3))
    np.testing.assert_allclose(out.sum(axis=1), gain[np.arange(3), targets], atol=1e-4)


def test_a_model_that_is_a_weighted_sum_is_attributed_its_terms(rng):
    weight = rng.normal(size=(*SHAPE, 2)).astype(np.float32)
    images = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    targets = np.array([1, 0])
    model = classifier.wrap(lambda x: jnp.einsum("bhwc,hwck->bk", x, weight), grid=GRID, removal=HIDE)
    chosen = np.moveaxis(weight, -1, 0)[targets]
    terms = gradients.patch_sums(jnp.asarray(chosen * images), GRID)
    np.testing.assert_allclose(gradients.integrated_gradients(model, images, targets, steps=1), terms, atol=1e-5)
    np.testing.assert_allclose(gradients.input_x_gradient(model, images, targets), terms, atol=1e-5)
    size = gradients.patch_sums(jnp.abs(chosen), GRID)
    out = gradients.smoothgrad(model, images, targets, jax.random.key(0), samples=3, noise=0.5)
    np.testing.assert_allclose(out, size, atol=1e-5)


def test_smoothgrad_without_noise_is_the_gradient(example):
    model, _, images, targets = example
    out = gradients.smoothgrad(model, images, targets, jax.random.key(0), samples=5, noise=0.0, batch_size=2)
    np.testing.assert_allclose(out, gradients.gradient(model, images, targets), atol=1e-5)


def test_smoothgrad_averages_signed_gradients_over_noise_of_the_stated_size(rng):
    """The gradient of Σ x²/2 is x, so its mean over noise of size sigma is distributed as N(x, sigma²/samples)."""
    model = classifier.wrap(lambda x: jnp.sum(x**2, axis=(1, 2, 3))[:, None] * jnp.array([0.5, 0]), grid=(1, 1),
                            removal=HIDE)
    images = np.zeros((1, 40, 40, 1), np.float32)
    images[0, 0, 0], images[0, 0, 1] = 3.0, -1.0  # the range is 4
    out = gradients.smoothgrad(model, images, np.array([0]), jax.random.key(1), samples=25, noise=0.5)
    half_normal = np.sqrt(2 / np.pi) * (0.5 * 4 / 5)  # mean of |N(0, sigma²/samples)|, sigma = 2
    assert float(out[0, 0]) / 1600 == pytest.approx(half_normal, rel=0.05)


def test_smoothgrad_of_an_image_depends_on_its_own_key_only(example):
    model, _, images, targets = example
    whole = gradients.smoothgrad(model, images, targets, jax.random.key(3), samples=5)
    keys = classifier.row_keys(jax.random.key(3), 3)
    last = gradients.smoothgrad(model, images[2:], targets[2:], keys[2:], samples=5, batch_size=2)
    np.testing.assert_allclose(last, whole[2:], atol=1e-5)
    assert np.abs(gradients.smoothgrad(model, images, targets, jax.random.key(4), samples=5) - whole).max() > 1e-3


@pytest.mark.parametrize("size", [(5, 7), (4, 6), (2, 3)])
def test_a_pixel_belongs_to_the_patch_that_hides_it(rng, size):
    pixels = rng.normal(size=(2, *size, 2)).astype(np.float32)
    visible = jnp.broadcast_to(~jnp.eye(6, dtype=bool)[:, None], (6, 1, 6)).reshape(6, 6)
    hidden = np.asarray(removal.hidden_pixels(visible, GRID, size))  # [N, H, W, 1], one patch hidden in each
    expected = (pixels[:, None] * hidden).sum(axis=(2, 3, 4))
    np.testing.assert_allclose(gradients.patch_sums(jnp.asarray(pixels), GRID), expected, atol=1e-5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda m, x, y: gradients.integrated_gradients(m, x, y, steps=0), "steps is 0, expected at least 1"),
    (lambda m, x, y: gradients.integrated_gradients(m, x, y, baseline=(0.0, 0.0, 0.0)), "3 numbers.*2 channels"),
    (lambda m, x, y: gradients.smoothgrad(m, x, y, jax.random.key(0), samples=0), "samples is 0, expected at least 1"),
    (lambda m, x, y: gradients.smoothgrad(m, x, y, jax.random.key(0), noise=-0.1), "noise is -0.1, expected at"),
    (lambda m, x, y: gradients.gradient(m, x, y[:2]), r"targets have shape \(2,\), expected \(3\)"),
    (lambda m, x, y: gradients.gradient(m, x.astype(np.uint8), y), "images are uint8"),
    (lambda m, x, y: gradients.gradient(m.replace(grid=(5, 6)), x, y), "5 x 6 patches.*4 x 6 pixels"),
])
def test_what_does_not_fit_is_refused(example, call, message):
    model, _, images, targets = example
    with pytest.raises(ValueError, match=message) as e:
        call(model, images, targets)
    assert "\n" not in str(e.value)


# Grad-CAM


def features_and_logits(params, images, delta=None):
    axes = ("NHWC", "HWIO", "NHWC")
    x = jnp.tanh(jax.lax.conv_general_dilated(images, params["conv"], (2, 2), "VALID", dimension_numbers=axes))
    x = x if delta is None else x + delta
    return jnp.tanh(x.reshape(len(x), -1) @ params["inner"]) @ params["outer"], x


@pytest.fixture(scope="module")
def cam_example():
    """Returns parameters, images [3, 6, 8, 2], targets, and Captum's map [3, 3, 4] of the layer."""
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
def test_gradcam_on_its_own_grid_is_captums(cam_example, batch_size):
    params, images, targets, theirs = cam_example
    out = gradients.gradcam(wrapped(params, (3, 4)), images, targets, batch_size=batch_size)
    np.testing.assert_allclose(out, theirs.numpy().reshape(3, 12), atol=1e-5)
    assert (out > 0.01).any() and (out == 0).any()  # the ReLU has something to do


def test_a_map_coarser_than_the_grid_is_resized_bilinearly(cam_example):
    params, images, targets, theirs = cam_example
    out = gradients.gradcam(wrapped(params, (6, 6)), images, targets)
    resized = captum.attr.LayerAttribution.interpolate(theirs, (6, 6), "bilinear")
    np.testing.assert_allclose(out, resized.numpy().reshape(3, 36), atol=1e-5)


def test_a_map_finer_than_the_grid_is_smoothed_not_sampled(cam_example):
    params, images, targets, _ = cam_example

    def corner(params, images, delta):  # bright in one cell of 5 x 5 only, far from where the center would be sampled
        x = jnp.zeros((len(images), 5, 5, 1)).at[:, 0, 0].set(1.0) + (0.0 if delta is None else delta)
        return jnp.repeat(x.sum(axis=(1, 2)), 4, axis=1), x

    assert (gradients.gradcam(wrapped(params, (1, 1), corner), images, targets) > 1e-3).all()


def test_a_model_without_features_is_refused(cam_example):
    params, images, targets, _ = cam_example
    with pytest.raises(ValueError, match="no spatial features"):
        gradients.gradcam(wrapped(params, (3, 4), features_fn=None), images, targets)
