"""Attributions from the gradient of the target class's logit with respect to the image.

They need nothing of a model but that its logits can be differentiated. Pixels are those that the model's function
takes: where normalization is part of that function, gradients and baselines are in the units before it.
"""

import functools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.attribution.arguments import check_arguments
from shapjax.attribution.backward import target_sum
from shapjax.errors import UserError
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.passes import in_passes

INTEGRATION_STEPS = 50
SMOOTHGRAD_SAMPLES = 25


def patch_sums(pixels: chex.Array, grid: tuple[int, int]) -> chex.Array:
    """Sums over the pixels and channels of every patch.

    Args:
      pixels: float [B, H, W, C].
      grid: (gh, gw); pixels belong to the patches that `shapjax.removal.hidden_pixels` hides them with.

    Returns:
      float [B, N], N = gh·gw.

    Raises:
      UserError: if there are more patches than pixels along a side.
    """
    (gh, gw), (h, w) = grid, pixels.shape[1:3]
    if gh > h or gw > w:
        raise UserError(f"a grid of {gh} x {gw} patches is finer than the image of {h} x {w} pixels; use fewer patches")
    in_row_HG = jax.nn.one_hot(jnp.arange(h) * gh // h, gh, dtype=pixels.dtype)
    in_column_WG = jax.nn.one_hot(jnp.arange(w) * gw // w, gw, dtype=pixels.dtype)
    return jnp.einsum("bhwc,hi,wj->bij", pixels, in_row_HG, in_column_WG, precision="highest").reshape(-1, gh * gw)


@functools.partial(jax.jit, static_argnames="batch_size")
def gradient(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
             batch_size: int = 256) -> chex.Array:
    """Saliency: Σ over a patch of |∂logit/∂pixel| (Simonyan, Vedaldi and Zisserman 2014, section 3).

    The paper takes the largest channel of each pixel; here all count, as in Captum's `Saliency` summed over a patch.

    Args:
      model: any classifier.
      images: float [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward and backward pass; bounds the memory.

    Returns:
      float32 [B, N], never negative.

    Raises:
      UserError: if an argument does not fit.
    """
    check_arguments(images, targets, batch_size=batch_size)
    return in_passes(lambda x, y: patch_sums(jnp.abs(_pixel_gradient(model, x, y)), model.grid),
                     images, targets, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames="batch_size")
def input_x_gradient(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                     batch_size: int = 256) -> chex.Array:
    """Σ over a patch of pixel · ∂logit/∂pixel (Shrikumar et al. 2016, "Not just a black box").

    Args, shapes and errors as in `gradient`; signed.
    """
    check_arguments(images, targets, batch_size=batch_size)
    return in_passes(lambda x, y: patch_sums(x * _pixel_gradient(model, x, y), model.grid),
                     images, targets, batch_size=batch_size)


@functools.partial(jax.jit, static_argnames=("batch_size", "baseline", "steps"))
def integrated_gradients(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                         batch_size: int = 256, baseline: float | tuple[float, ...] = 0.0,
                         steps: int = INTEGRATION_STEPS) -> chex.Array:
    """Gradients along the straight line from a baseline to the image (Sundararajan, Taly and Yan 2017, equation 1).

    Σ over a patch of (x - x')·∫₀¹ ∂logit/∂pixel(x' + α(x - x')) dα, which sums over the patches to the logit of the
    image less that of the baseline. The integral is taken by Gauss-Legendre quadrature, exact for polynomials of degree
    2·steps - 1, and what Captum does unless told otherwise.

    Args:
      model, images, targets, key: as in `gradient`.
      batch_size: rows (images times steps) a forward and backward pass; bounds the memory.
      baseline: x', one number or one a channel, in the units of the images.
      steps: points of the quadrature.

    Returns:
      float32 [B, N], signed.

    Raises:
      UserError: if steps is below 1, or the baseline has neither one number nor one a channel.
    """
    check_arguments(images, targets, batch_size=batch_size)
    if steps < 1:
        raise UserError(f"steps is {steps}, expected at least 1")
    if np.shape(baseline) not in ((), (1,), images.shape[-1:]):
        raise UserError(f"the baseline has {np.size(baseline)} numbers, expected one, or one for each of the images' "
                        f"{images.shape[-1]} channels")
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]; both halved below, for [0, 1]
    start = jnp.asarray(baseline, images.dtype)

    def point(step: chex.Array, image_HWC: chex.Array) -> chex.Array:
        return start + jnp.asarray((1 + nodes) / 2, images.dtype)[step] * (image_HWC - start)

    total = _gradients_at(point, weights / 2, model, targets, images, batch_size=batch_size)
    return patch_sums((images - start) * total, model.grid)


@functools.partial(jax.jit, static_argnames=("batch_size", "samples", "noise"))
def smoothgrad(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
               batch_size: int = 256, samples: int = SMOOTHGRAD_SAMPLES, noise: float = 0.15) -> chex.Array:
    """`gradient` of which the noise is averaged out (Smilkov et al. 2017).

    The signed gradients at images with Gaussian noise are averaged first, as in the paper, and then Σ over a patch of
    the absolute value of that mean is taken. (Averaging absolute values would add up the noise instead.)

    Args:
      model, images, targets: as in `gradient`.
      key: one typed key, or [B].
      batch_size: rows (images times samples) a forward and backward pass; bounds the memory.
      samples: noisy copies of an image.
      noise: standard deviation, as a fraction of the image's largest value less its smallest.

    Returns:
      float32 [B, N], never negative.

    Raises:
      UserError: if samples is below 1 or noise negative.
    """
    check_arguments(images, targets, key=key, batch_size=batch_size)
    if samples < 1 or noise < 0:
        raise UserError(f"{samples} samples with noise {noise}, expected at least 1 sample and noise of at least 0")

    def point(step: chex.Array, image_HWC: chex.Array, key: chex.PRNGKey) -> chex.Array:
        sigma = noise * (jnp.max(image_HWC) - jnp.min(image_HWC))
        return image_HWC + sigma * jax.random.normal(jax.random.fold_in(key, step), image_HWC.shape, image_HWC.dtype)

    keys = row_keys(key, images.shape[0])
    mean = _gradients_at(point, np.full(samples, 1 / samples), model, targets, images, keys, batch_size=batch_size)
    return patch_sums(jnp.abs(mean), model.grid)


def _pixel_gradient(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images are {images.dtype}, which nothing can be differentiated by; make them float")
    return jax.grad(lambda x: target_sum(model.logits(x), targets))(images)


def _gradients_at(point: Callable, weights: np.ndarray, model: Classifier, targets: chex.Array, images: chex.Array,
                  *keys: chex.PRNGKey, batch_size: int) -> chex.Array:
    """[B, H, W, C]: Σ_s weights_s · ∂logit/∂pixel at point(s, image, key), at most `batch_size` points at a time.

    A pass takes all the points of some images, or where they are too many, some of the points of one image.
    """
    loops = math.ceil(len(weights) / batch_size)
    chunk = math.ceil(len(weights) / loops)  # loops of equal length, the last filled up with points of no weight
    step_LS = jnp.minimum(jnp.arange(loops * chunk), len(weights) - 1).reshape(loops, chunk)
    weight_LS = jnp.pad(jnp.asarray(weights, images.dtype), (0, loops * chunk - len(weights))).reshape(loops, chunk)

    def some_images(targets_B: chex.Array, x_BHWC: chex.Array, *keys_B: chex.PRNGKey) -> chex.Array:
        def some_points(total_BHWC: chex.Array, steps_and_weights: tuple) -> tuple[chex.Array, None]:
            step_S, weight_S = steps_and_weights
            x_BSHWC = jax.vmap(lambda *image: jax.vmap(lambda step: point(step, *image))(step_S))(x_BHWC, *keys_B)
            rows = x_BSHWC.reshape(-1, *x_BHWC.shape[1:])
            gradient_BSHWC = _pixel_gradient(model, rows, jnp.repeat(targets_B, chunk)).reshape(x_BSHWC.shape)
            return total_BHWC + jnp.sum(weight_S[:, None, None, None] * gradient_BSHWC, axis=1), None

        return jax.lax.scan(some_points, jnp.zeros_like(x_BHWC), (step_LS, weight_LS))[0]

    return in_passes(some_images, targets, images, *keys, batch_size=max(1, batch_size // chunk))
