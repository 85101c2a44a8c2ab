"""Do attributions fall on the object? Segmentation masks against the map of a class, upsampled to the image.

Masks are bool or int [B, H, W]: positive on the object, 0 on the background, negative where not labeled (left out).
`segmentation_counts` gives each image's share in a dataset's figures; `total` adds those of all images, or of a
selection such as those classified correctly; `pixel_accuracy` and `mean_iou` are functions of the total, as
`statistics.bootstrap` takes them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games.checks import require_shape
from shapjax.games.removal import hidden_pixels
from shapjax.metrics import ranking


class SegmentationCounts(NamedTuple):
    """Pixels of one image, or of several: labeled ones only.

    Attributes:
      correct: [B], on the right side of the threshold.
      labeled: [B].
      intersection, union: [B, 2], of what is background, and of what is foreground, in truth and in the map.
    """

    correct: chex.Array
    labeled: chex.Array
    intersection: chex.Array
    union: chex.Array


def upsample(attributions: chex.Array, grid: tuple[int, int], image_size: tuple[int, int], *, num_images: int
             ) -> chex.Array:
    """Attributions [B, N] as maps of the image's size, bilinearly between the patches' centers: float32 [B, H, W].

    Raises:
      UserError: if there is not one row an image and one value a patch.
    """
    require_shape("attributions", attributions, (num_images, grid[0] * grid[1]), "images, patches")
    maps = jnp.asarray(attributions, jnp.float32).reshape(num_images, *grid)
    return jax.image.resize(maps, (num_images, *image_size), "bilinear", antialias=False)


@functools.partial(jax.jit, static_argnames=("grid", "image_size", "batch_size"))
def segmentation_counts(attributions: chex.Array, masks: chex.Array, *, grid: tuple[int, int],
                        image_size: tuple[int, int], batch_size: int = 64) -> SegmentationCounts:
    """Attributions read as a segmentation (Chefer et al. 2021): the map, upsampled bilinearly and scaled to [0, 1] by
    its least and largest value, is foreground where it is above its own mean. A constant map is all background.

    Args:
      attributions: float [B, N], of the predicted class.
      masks: bool or int [B, H, W].
      grid: (gh, gw).
      image_size: (H, W) of the images.
      batch_size: images at a time; bounds the memory.

    Returns:
      int counts.

    Raises:
      UserError: if attributions or masks do not have these shapes.
    """
    def of_image(map_P: chex.Array, truth_CP: chex.Array) -> SegmentationCounts:
        above_P = map_P > map_P.mean()
        said_CP = jnp.stack([~above_P, above_P]) & truth_CP.any(axis=0)
        intersection_C, union_C = (truth_CP & said_CP).sum(axis=1), (truth_CP | said_CP).sum(axis=1)
        return SegmentationCounts(intersection_C.sum(), truth_CP.sum(), intersection_C, union_C)

    return _each_image(of_image, attributions, masks, grid, image_size, batch_size)


def total(counts: SegmentationCounts, where: np.ndarray | None = None) -> SegmentationCounts:
    """Counts of all images together, or of those with `where` bool [B]; float64, without the axis B."""
    rows = slice(None) if where is None else np.asarray(where, bool)
    return SegmentationCounts(*(np.asarray(count, np.float64)[rows].sum(axis=0) for count in counts))


def pixel_accuracy(total: SegmentationCounts) -> np.ndarray:
    """Share of labeled pixels on the right side of the threshold; higher is better."""
    return total.correct / total.labeled


def mean_iou(total: SegmentationCounts) -> np.ndarray:
    """Mean over background and foreground of intersection over union; higher is better."""
    return (total.intersection / total.union).mean(axis=-1)


@functools.partial(jax.jit, static_argnames=("grid", "image_size", "batch_size"))
def segmentation_average_precision(attributions: chex.Array, masks: chex.Array, *, grid: tuple[int, int],
                                   image_size: tuple[int, int], batch_size: int = 64) -> chex.Array:
    """Average precision of the scores [1-R, R] of background and foreground together, R the map in [0, 1] of
    `segmentation_counts`; its mean over images is the mAP of Chefer et al. (2021). Higher is better.

    Arguments and errors as there.

    Returns:
      float [B]; NaN without a labeled pixel.
    """
    def of_image(map_P: chex.Array, truth_CP: chex.Array) -> chex.Array:
        scores = jnp.concatenate([1 - map_P, map_P])
        return average_precision(scores, truth_CP.ravel(), truth_CP[::-1].ravel())

    return _each_image(of_image, attributions, masks, grid, image_size, batch_size)


def _each_image(fn: Callable, attributions: chex.Array, masks: chex.Array, grid: tuple[int, int],
                image_size: tuple[int, int], batch_size: int) -> Any:
    """`fn` of each image's map scaled to [0, 1], [H·W], and of where there is background and foreground, [2, H·W]."""
    require_shape("masks", masks, (attributions.shape[0], *image_size), "images, height, width")
    require_shape("attributions", attributions, (masks.shape[0], grid[0] * grid[1]), "images, patches")

    def of_image(image: tuple[chex.Array, chex.Array]) -> Any:
        map_P = upsample(image[0][None], grid, image_size, num_images=1).ravel()
        low, high = map_P.min(), map_P.max()
        mask_P = image[1].ravel()
        return fn((map_P - low) / jnp.where(high > low, high - low, 1), jnp.stack([mask_P == 0, mask_P > 0]))

    return jax.lax.map(of_image, (attributions, masks), batch_size=batch_size)


def average_precision(scores: chex.Array, positive: chex.Array, negative: chex.Array) -> chex.Array:
    """Σ_i (R_i - R_{i-1}) P_i over the distinct scores, as scikit-learn's `average_precision_score`.

    Args:
      scores: float32 [P], in [0, 1].
      positive, negative: bool [P]; what is neither is left out.

    Returns:
      float; NaN without a positive.
    """
    # The bits of these floats are in the order of their values and leave room for the label: sorting single integers is
    # many times as quick as sorting floats with labels.
    bits_P = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    sorted_P = jnp.sort((bits_P << 2) | (positive.astype(jnp.uint32) << 1) | negative.astype(jnp.uint32))[::-1]
    bits_P, positive, negative = sorted_P >> 2, (sorted_P & 2) > 0, (sorted_P & 1) > 0
    places_P = jnp.arange(scores.size)
    # The last place of each score: precision at a score counts all that score at least as high.
    is_last_P = jnp.append(bits_P[1:] != bits_P[:-1], True)
    last_P = jax.lax.cummin(jnp.where(is_last_P, places_P, scores.size - 1), reverse=True)
    hits_P, misses_P = jnp.cumsum(positive)[last_P], jnp.cumsum(negative)[last_P]
    precision_P = hits_P / jnp.maximum(hits_P + misses_P, 1)
    return jnp.sum(jnp.where(positive, precision_P, 0)) / positive.sum()


@functools.partial(jax.jit, static_argnames="grid")
def pointing_game(attributions: chex.Array, masks: chex.Array, key: chex.PRNGKey, *, grid: tuple[int, int]
                  ) -> chex.Array:
    """Whether the most important patch touches the object (Zhang et al. 2018, with patches for points).

    Args:
      attributions: float [B, N].
      masks: bool or int [B, H, W].
      key: for ties; one typed key or [B] of them.
      grid: (gh, gw).

    Returns:
      float32 [B] of 0 and 1; NaN without an object.

    Raises:
      UserError: if attributions or masks do not have these shapes.
    """
    n = grid[0] * grid[1]
    require_shape("attributions", attributions, (masks.shape[0], n), "images, patches")
    require_shape("masks", masks, (attributions.shape[0], None, None), "images, height, width")
    others_BN = jnp.arange(n) != ranking.order(attributions, key)[:, :1]
    first_BHW = hidden_pixels(others_BN, grid, masks.shape[1:])[..., 0]
    object_BHW = jnp.asarray(masks) > 0
    hit_B = jnp.any(first_BHW & object_BHW, axis=(1, 2))
    return jnp.where(object_BHW.any(axis=(1, 2)), hit_B.astype(jnp.float32), jnp.nan)
