"""Means over images with confidence intervals, by bootstrap over images.

Resampled sets of images depend on the seed and the number of images only, so every method is resampled alike.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

DRAWS_AT_ONCE = 2**22  # bounds the memory: 8 bytes each, a few times over


class Interval(NamedTuple):
    """An estimate and its percentile interval; arrays where several are estimated at once.

    Attributes:
      mean: the estimate from all images.
      low, high: ends of the interval.
      n: number of images that the estimate rests on.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def bootstrap(statistic: Callable[[Any], np.ndarray], rows: Any, *, seed: int = 0, confidence: float = 0.95,
              resamples: int = 10_000) -> Interval:
    """Computes the percentile interval of a function of sums over images (Efron & Tibshirani 1993, section 13.3).

        bootstrap(localization.mean_iou, counts)

    Args:
      statistic: maps `rows` summed over images, with an axis of resamples first, to [resamples, ...].
      rows: pytree of arrays [B, ...], the summands of each image.
      seed: of the resampling.
      confidence: of the interval, above 0 and below 1.
      resamples: number of resampled sets of images.

    Returns:
      float64 of the statistic's shape; n is B. Resamples in which the statistic is undefined (NaN) are left out.

    Raises:
      ValueError: without images, or if the confidence is not between 0 and 1.
    """
    b = len(jax.tree.leaves(rows)[0])
    if b == 0 or not 0 < confidence < 1:
        raise ValueError(f"{b} images at confidence {confidence}: expected at least 1 image, a confidence in (0, 1)")

    def of_counts(count_RB: np.ndarray) -> np.ndarray:
        """Computes the statistic of resamples that draw each image so many times: sums are products."""
        sums = jax.tree.map(lambda leaf: np.tensordot(count_RB, leaf, axes=1), rows)
        with np.errstate(invalid="ignore", divide="ignore"):  # 0/0 where no image of the resample is defined
            return np.asarray(statistic(sums))

    rng, at_once, drawn = np.random.default_rng(seed), max(1, DRAWS_AT_ONCE // b), []
    for start in range(0, resamples, at_once):
        r = min(at_once, resamples - start)
        index_RB = rng.integers(b, size=(r, b)) + b * np.arange(r)[:, None]
        drawn.append(of_counts(np.bincount(index_RB.ravel(), minlength=r * b).reshape(r, b).astype(np.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are undefined
        low, high = np.nanquantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(of_counts(np.ones((1, b)))[0], low, high, np.int64(b))


def bootstrap_mean(values: np.ndarray, **options: Any) -> Interval:
    """Computes the mean over images with its percentile interval.

    Args:
      values: float [B, ...], such as one column a method; undefined values (NaN) are left out, and not counted in n.
      options: seed, confidence, resamples; these and errors: see `bootstrap`.

    Returns:
      float64 [...], n int [...]; NaN where no value is defined.
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    rows = (np.where(defined, values, 0.0), defined)
    return bootstrap(lambda sums: sums[0] / sums[1], rows, **options)._replace(n=defined.sum(axis=0))


def paired_difference(a: np.ndarray, b: np.ndarray, **options: Any) -> Interval:
    """Computes the mean of a - b over the images where both are defined, resampled as pairs; see `bootstrap_mean`.

    Args:
      a: float [B, ...].
      b: of that shape, of the same images.
      options: see `bootstrap`.

    Raises:
      ValueError: if the numbers of images differ.
    """
    if len(a) != len(b):
        raise ValueError(f"paired values of {len(a)} and {len(b)} images: give both for the same images")
    return bootstrap_mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), **options)
