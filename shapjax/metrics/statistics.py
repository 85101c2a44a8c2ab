"""Means over images with intervals of confidence, by bootstrap over images.

Resampled sets of images depend on the seed and the number of images only, so that every method's figures are drawn from
the same sets.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from shapjax.errors import UserError

DRAWS_AT_ONCE = 2**22  # bounds the memory: 8 bytes each, three times over


class Interval(NamedTuple):
    """An estimate and its percentile interval; arrays where several are estimated at once.

    Attributes:
      mean: the estimate from all images.
      low, high: ends of the interval.
      n: images the estimate rests on.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def bootstrap(statistic: Callable[[Any], np.ndarray], rows: Any, *, where: np.ndarray | None = None, seed: int = 0,
              confidence: float = 0.95, resamples: int = 10_000) -> Interval:
    """Percentile interval of a function of sums over images (Efron & Tibshirani 1993, section 13.3).

        bootstrap(localization.mean_iou, counts, where=is_correct)

    Args:
      statistic: from `rows` summed over images, with an axis of resamples first, to [resamples, ...].
      rows: pytree of arrays [B, ...], each image's summands.
      where: bool [B], the images that count; all by default.
      seed: of the resampling.
      confidence: of the interval, above 0 and below 1.
      resamples: number of them.

    Returns:
      float64 of the statistic's shape; n is the number of images that count. A resample where the statistic is
      undefined is left out.

    Raises:
      UserError: without images, or if the confidence is not a share.
    """
    leaves, structure = jax.tree.flatten(rows)
    b = len(leaves[0])
    if b == 0 or not 0 < confidence < 1:
        raise UserError(f"{b} images at confidence {confidence}: expected at least 1 image, confidence between 0 and 1")
    where = np.ones(b, bool) if where is None else np.asarray(where, bool)
    flat = [np.where(where[:, None], np.asarray(leaf, np.float64).reshape(b, -1), 0.0) for leaf in leaves]

    def of_draws(count_RB: np.ndarray) -> np.ndarray:
        sums = [(count_RB @ rows_BF).reshape(-1, *np.shape(leaf)[1:])
                for rows_BF, leaf in zip(flat, leaves, strict=True)]
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: nothing that counts was drawn
            return np.asarray(statistic(jax.tree.unflatten(structure, sums)))

    rng = np.random.default_rng(seed)
    chunk = max(1, DRAWS_AT_ONCE // b)
    drawn = [of_draws(_counts(rng, b, min(chunk, resamples - start))) for start in range(0, resamples, chunk)]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(np.concatenate(drawn), tails, axis=0)
    return Interval(of_draws(np.ones((1, b)))[0], low, high, where.sum())


def _counts(rng: np.random.Generator, num_images: int, resamples: int) -> np.ndarray:
    """How often each image is drawn in each resample: float64 [resamples, B]."""
    index = rng.integers(num_images, size=(resamples, num_images)) + num_images * np.arange(resamples)[:, None]
    counts = np.bincount(index.ravel(), minlength=resamples * num_images)
    return counts.reshape(resamples, num_images).astype(np.float64)


def bootstrap_mean(values: np.ndarray, *, seed: int = 0, confidence: float = 0.95, resamples: int = 10_000) -> Interval:
    """Mean over images with its percentile interval.

    Args:
      values: float [B, ...], such as one column a method; undefined values (NaN) are left out, and not counted in n.
      seed, confidence, resamples, and what is raised: see `bootstrap`.

    Returns:
      float64 [...], n int [...]; NaN where no value is defined.
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    rows = (np.where(defined, values, 0.0), defined)
    interval = bootstrap(
        lambda sums: sums[0] / sums[1], rows, seed=seed, confidence=confidence, resamples=resamples)
    return interval._replace(n=defined.sum(axis=0))


def paired_difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0, confidence: float = 0.95, resamples: int = 10_000
                      ) -> Interval:
    """Mean of a - b over the images where both are defined, resampled as pairs; see `bootstrap_mean`.

    Args:
      a, b: float [B, ...], of the same images.

    Raises:
      UserError: if the numbers of images differ.
    """
    if len(a) != len(b):
        raise UserError(f"paired values of {len(a)} and {len(b)} images: give both for the same images")
    return bootstrap_mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed=seed, confidence=confidence,
                          resamples=resamples)
