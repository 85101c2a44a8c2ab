"""Attributions from the gradient of the target class's logit, with respect to the image or (Grad-CAM) to the features.

Gradients and baselines are in the units of the images that the model's function takes: where normalization is part of
that function, the units before it.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.attribution import deterministic
from shapjax.games.checks import require_positive
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.contract import of_images, require_floats
from shapjax.games.passes import in_passes


def target_sum(logits: chex.Array, targets: chex.Array) -> chex.Array:
    """Sums the target classes' logits over the images.

    Images do not influence one another, so the sum's gradient with respect to one image is that of its own logit.

    Args:
      logits: [B, K].
      targets: int [B].
    """
    return jnp.sum(jnp.take_along_axis(logits, targets[:, None], axis=1))


def values_and_gradient(fn: Callable, images: chex.Array, targets: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Returns values inside a model, and the gradient of each image's target logit with respect to them.

    Args:
      fn: (images, delta) -> logits [B, K] and values with delta added, such as `Classifier.features`; delta of their
        shape, or left out.
      images: float [B, H, W, C].
      targets: int [B].
    """
    def target(delta: chex.Array) -> tuple[chex.Array, chex.Array]:
        logits, values = fn(images, delta)
        return target_sum(logits, targets), values

    gradient, values = jax.grad(target, has_aux=True)(jnp.zeros_like(jax.eval_shape(fn, images)[1]))
    return values, gradient


def patch_sums(pixels: chex.Array, grid: tuple[int, int]) -> chex.Array:
    """Sums the pixels and channels of every patch.

    Args:
      pixels: float [B, H, W, C].
      grid: (gh, gw); pixels belong to the patches that `games.removal.hidden_pixels` hides them with.

    Returns:
      float [B, N], N = gh·gw.

    Raises:
      ValueError: if there are more patches than pixels along a side.
    """
    (gh, gw), (h, w) = grid, pixels.shape[1:3]
    if gh > h or gw > w:
        raise ValueError(f"a grid of {gh} x {gw} patches is finer than {h} x {w} pixels: use fewer patches")
    in_row_HG = jax.nn.one_hot(jnp.arange(h) * gh // h, gh, dtype=pixels.dtype)
    in_column_WG = jax.nn.one_hot(jnp.arange(w) * gw // w, gw, dtype=pixels.dtype)
    return jnp.einsum("bhwc,hi,wj->bij", pixels, in_row_HG, in_column_WG, precision="highest").reshape(-1, gh * gw)


@deterministic.method
def gradient(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes saliency, Σ over a patch of |∂logit/∂pixel| (Simonyan, Vedaldi and Zisserman 2014, section 3).

    The paper takes the largest channel of each pixel; here all channels count, as in Captum's `Saliency`.

    Args:
      model: any classifier.
      images: float [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward and backward pass; bounds the memory.

    Returns:
      float32 [B, N], never negative.

    Raises:
      ValueError: if an argument does not fit.
    """
    return patch_sums(jnp.abs(_pixel_gradient(model, images, targets)), model.grid)


@deterministic.method
def input_x_gradient(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes Σ over a patch of pixel · ∂logit/∂pixel (Shrikumar et al. 2016, "Not just a black box").

    Arguments, result and errors as in `gradient`, but the result is signed.
    """
    return patch_sums(images * _pixel_gradient(model, images, targets), model.grid)


@of_images("batch_size", "baseline", "steps")
def integrated_gradients(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                         batch_size: int = 256, baseline: float | tuple[float, ...] = 0.0, steps: int = 50
                         ) -> chex.Array:
    """Integrates gradients from a baseline to the image (Sundararajan, Taly and Yan 2017, equation 1).

    Σ over a patch of (x - x')·∫₀¹ ∂logit/∂pixel(x' + α(x - x')) dα. Over all patches it sums to the logit of the image
    less that of the baseline. The integral is taken by Gauss-Legendre quadrature, exact for polynomials of degree
    2·steps - 1 and Captum's default.

    Args:
      model: any classifier.
      images: float [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: rows (images times steps) a forward and backward pass; bounds the memory.
      baseline: x', one number or one a channel, in the units of the images.
      steps: points of the quadrature.

    Returns:
      float32 [B, N], signed.

    Raises:
      ValueError: if steps is below 1, or the baseline has neither one number nor one a channel.
    """
    require_floats(images)
    require_positive(steps=steps)
    if np.shape(baseline) not in ((), (1,), images.shape[-1:]):
        raise ValueError(f"a baseline of {np.size(baseline)} numbers for {images.shape[-1]} channels: give 1 or 1 each")
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]; both halved below, for [0, 1]
    start = jnp.asarray(baseline, images.dtype)

    def point(step: chex.Array, image_HWC: chex.Array) -> chex.Array:
        return start + jnp.asarray((1 + nodes) / 2, images.dtype)[step] * (image_HWC - start)

    total = _gradients_at(point, weights / 2, model, targets, images, batch_size=batch_size)
    return patch_sums((images - start) * total, model.grid)


@of_images("batch_size", "samples", "noise")
def smoothgrad(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *,
               batch_size: int = 256, samples: int = 25, noise: float = 0.15) -> chex.Array:
    """Averages gradients over noisy copies of the image (Smilkov et al. 2017).

    The signed gradients are averaged first, as in the paper; then the absolute values of the mean are summed over each
    patch. (A mean of absolute values would add up the noise.)

    Args:
      model: any classifier.
      images: float [B, H, W, C].
      targets: int [B].
      key: one typed key, or [B].
      batch_size: rows (images times samples) a forward and backward pass; bounds the memory.
      samples: noisy copies of an image.
      noise: standard deviation, as a fraction of the image's largest value less its smallest.

    Returns:
      float32 [B, N], never negative.

    Raises:
      ValueError: if samples is below 1 or noise negative.
    """
    require_floats(images)
    require_positive(samples=samples)
    if noise < 0:
        raise ValueError(f"noise is {noise}, expected at least 0")

    def point(step: chex.Array, image_HWC: chex.Array, key: chex.PRNGKey) -> chex.Array:
        sigma = noise * (jnp.max(image_HWC) - jnp.min(image_HWC))
        return image_HWC + sigma * jax.random.normal(jax.random.fold_in(key, step), image_HWC.shape, image_HWC.dtype)

    keys = row_keys(key, images.shape[0])
    mean = _gradients_at(point, np.full(samples, 1 / samples), model, targets, images, keys, batch_size=batch_size)
    return patch_sums(jnp.abs(mean), model.grid)


@deterministic.method
def gradcam(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes Grad-CAM on the grid of patches (Selvaraju et al. 2017, equations 1 and 2).

    ReLU(Σ_d α_d F_d), with F the features of `Classifier.features` and α_d the mean over the positions of ∂logit/∂F_d.
    A map of another size than the grid is resized bilinearly, with antialiasing where it is larger.

    Args:
      model: a classifier with `features_fn`.
      images: float [B, H, W, C].
      targets: int [B].
      key: ignored.
      batch_size: images a forward and backward pass; bounds the memory.

    Returns:
      float32 [B, N], never negative.

    Raises:
      ValueError: if the model has no spatial features.
    """
    features_BHWD, gradient_BHWD = values_and_gradient(model.features, images, targets)
    weight_BD = jnp.mean(gradient_BHWD, axis=(1, 2))
    map_BHW = jax.nn.relu(jnp.einsum("bhwd,bd->bhw", features_BHWD, weight_BD))
    return jax.image.resize(map_BHW, (images.shape[0], *model.grid), "bilinear").reshape(-1, model.num_players)


def _pixel_gradient(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    require_floats(images)
    return jax.grad(lambda x: target_sum(model.logits(x), targets))(images)


def _gradients_at(point: Callable, weights: np.ndarray, model: Classifier, targets: chex.Array, images: chex.Array,
                  *keys: chex.PRNGKey, batch_size: int) -> chex.Array:
    """Computes Σ_s weights_s · ∂logit/∂pixel at point(s, image, key), [B, H, W, C].

    A pass takes at most `batch_size` points: all points of some images or, where they are too many, some of one image.
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
