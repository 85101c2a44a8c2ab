"""Metrics of where attributions fall: the map of a class, upsampled to the image, against masks of the object.

Object masks are bool or int [B, H, W]: positive on the object, 0 on the background, negative where not labeled (left
out). `pixel_accuracy` and `mean_iou` are functions of the sum of `segmentation_counts` over images, as
`statistics.bootstrap` takes them.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games.checks import require_shape
from shapjax.games.removal import hidden_pixels
from shapjax.metrics import ranking


def upsample(attributions: chex.Array, grid: tuple[int, int], image_size: tuple[int, int], *, num_images: int
             ) -> chex.Array:
    """Upsamples attributions [B, N] bilinearly between the patches' centers: float32 [B, H, W].

    Equal patches give equal pixels, bit for bit: `jax.image.resize`, which adds up products with rounded weights, makes
    a constant map vary, and plateaus would be ranked by the rounding.

    Raises:
      ValueError: if there is not one row an image and one value a patch.
    """
    require_shape("attributions", attributions, (num_images, grid[0] * grid[1]), "images, patches")
    maps = jnp.asarray(attributions, jnp.float32).reshape(num_images, *grid)
    for axis, (patches, pixels) in enumerate(zip(grid, image_size, strict=True), start=1):
        # A pixel's center is (pixel + 1/2) · patches / pixels - 1/2; integers keep the fractions exact.
        first, remainder = np.divmod((2 * np.arange(pixels) + 1) * patches - pixels, 2 * pixels)
        fraction = jnp.expand_dims(jnp.asarray(remainder / (2 * pixels), jnp.float32), (0, 3 - axis))
        start, end = (jnp.take(maps, np.clip(first + step, 0, patches - 1), axis=axis) for step in (0, 1))
        maps = start + fraction * (end - start)
    return maps


@functools.partial(jax.jit, static_argnames=("grid", "image_size", "batch_size"))
def segmentation_counts(attributions: chex.Array, object_masks: chex.Array, *, grid: tuple[int, int],
                        image_size: tuple[int, int], batch_size: int = 64) -> chex.Array:
    """Reads attributions as a segmentation and counts pixels (Chefer et al. 2021).

    The map is upsampled bilinearly and scaled to [0, 1] by its least and largest value. It is foreground where it is
    above its own mean. A map of equal patches is all background.

    Args:
      attributions: float [B, N], of the predicted class.
      object_masks: bool or int [B, H, W].
      grid: (gh, gw).
      image_size: (H, W) of the images.
      batch_size: images at a time; bounds the memory.

    Returns:
      int [B, 6], numbers of labeled pixels: those that the threshold classifies correctly, all of them, then the
      intersection of the object mask and the map, of background and of foreground, and their union, likewise.

    Raises:
      ValueError: if attributions or object masks do not have these shapes.
    """
    def of_image(map_P: chex.Array, label_CP: chex.Array) -> chex.Array:
        above_P = map_P > map_P.mean()
        predicted_CP = jnp.stack([~above_P, above_P]) & label_CP.any(axis=0)
        intersection_C, union_C = (label_CP & predicted_CP).sum(axis=1), (label_CP | predicted_CP).sum(axis=1)
        return jnp.stack([intersection_C.sum(), label_CP.sum(), *intersection_C, *union_C])

    return _each_image(of_image, attributions, object_masks, grid, image_size, batch_size)


def pixel_accuracy(total: np.ndarray) -> np.ndarray:
    """Computes the share of labeled pixels that the threshold classifies correctly; higher is better.

    Args:
      total: float or int [..., 6], the sum of `segmentation_counts` over images.

    Returns:
      float [...].
    """
    return total[..., 0] / total[..., 1]


def mean_iou(total: np.ndarray) -> np.ndarray:
    """Averages intersection over union of background and foreground; higher is better.

    Argument and result as in `pixel_accuracy`.
    """
    return (total[..., 2:4] / total[..., 4:6]).mean(axis=-1)


@functools.partial(jax.jit, static_argnames=("grid", "image_size", "batch_size"))
def segmentation_average_precision(attributions: chex.Array, object_masks: chex.Array, *, grid: tuple[int, int],
                                   image_size: tuple[int, int], batch_size: int = 64) -> chex.Array:
    """Computes the average precision of the map as a segmentation; higher is better.

    The scores are 1-R for background and R for foreground, together, with R the map in [0, 1] of `segmentation_counts`.
    The mean over images is the mAP of Chefer et al. (2021). Arguments and errors as in `segmentation_counts`.

    Returns:
      float [B]; NaN without a labeled pixel.
    """
    def of_image(map_P: chex.Array, label_CP: chex.Array) -> chex.Array:
        scores = jnp.concatenate([1 - map_P, map_P])
        return average_precision(scores, label_CP.ravel(), label_CP[::-1].ravel())

    return _each_image(of_image, attributions, object_masks, grid, image_size, batch_size)


def _each_image(fn: Callable, attributions: chex.Array, object_masks: chex.Array, grid: tuple[int, int],
                image_size: tuple[int, int], batch_size: int) -> Any:
    """Applies `fn` to each image's map in [0, 1], [H·W], and its labels as background and foreground, [2, H·W]."""
    require_shape("object masks", object_masks, (attributions.shape[0], *image_size), "images, height, width")
    require_shape("attributions", attributions, (object_masks.shape[0], grid[0] * grid[1]), "images, patches")

    def of_image(image: tuple[chex.Array, chex.Array]) -> Any:
        attributions_N, mask_HW = image
        map_P = upsample(attributions_N[None], grid, image_size, num_images=1).ravel()
        is_constant = attributions_N.max() == attributions_N.min()  # decided on the patches: pixels may be rounded
        scaled_P = (map_P - map_P.min()) / jnp.where(is_constant, jnp.inf, jnp.ptp(map_P))
        return fn(scaled_P, jnp.stack([mask_HW.ravel() == 0, mask_HW.ravel() > 0]))

    return jax.lax.map(of_image, (attributions, object_masks), batch_size=batch_size)


def average_precision(scores: chex.Array, positive: chex.Array, negative: chex.Array) -> chex.Array:
    """Computes Σ_i (R_i - R_{i-1}) P_i over the distinct scores, as scikit-learn's `average_precision_score` does.

    Args:
      scores: float32 [P], in [0, 1].
      positive, negative: bool [P]; scores that are neither are left out.

    Returns:
      float; NaN without a positive.
    """
    # The bits of these floats are in the order of their values and leave room for two bits of the label: sorting single
    # integers is many times as quick as sorting floats with labels.
    bits_P = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    sorted_P = jnp.sort((bits_P << 2) | (positive.astype(jnp.uint32) << 1) | negative.astype(jnp.uint32))[::-1]
    bits_P, positive, negative = sorted_P >> 2, (sorted_P & 2) > 0, (sorted_P & 1) > 0
    places_P = jnp.arange(scores.size)
    # The last place of each score: the precision at a score counts all scores that are at least as high.
    is_last_P = jnp.append(bits_P[1:] != bits_P[:-1], True)
    last_P = jax.lax.cummin(jnp.where(is_last_P, places_P, scores.size - 1), reverse=True)
    hits_P, misses_P = jnp.cumsum(positive)[last_P], jnp.cumsum(negative)[last_P]
    precision_P = hits_P / jnp.maximum(hits_P + misses_P, 1)
    return jnp.sum(jnp.where(positive, precision_P, 0)) / positive.sum()


@functools.partial(jax.jit, static_argnames="grid")
def pointing_game(attributions: chex.Array, object_masks: chex.Array, key: chex.PRNGKey, *, grid: tuple[int, int]
                  ) -> chex.Array:
    """Tests whether the most important patch touches the object; higher is better.

    Zhang et al. 2018, with patches for points.

    Args:
      attributions: float [B, N].
      object_masks: bool or int [B, H, W].
      key: breaks ties; one typed key or [B] of them.
      grid: (gh, gw).

    Returns:
      float32 [B] of 0 and 1; NaN without an object.

    Raises:
      ValueError: if attributions or object masks do not have these shapes.
    """
    n = grid[0] * grid[1]
    require_shape("attributions", attributions, (object_masks.shape[0], n), "images, patches")
    require_shape("object masks", object_masks, (attributions.shape[0], None, None), "images, height, width")
    others_BN = jnp.arange(n) != ranking.order(attributions, key)[:, :1]
    first_BHW = hidden_pixels(others_BN, grid, object_masks.shape[1:])[..., 0]
    object_BHW = jnp.asarray(object_masks) > 0
    hit_B = jnp.any(first_BHW & object_BHW, axis=(1, 2))
    return jnp.where(object_BHW.any(axis=(1, 2)), hit_B.astype(jnp.float32), jnp.nan)
