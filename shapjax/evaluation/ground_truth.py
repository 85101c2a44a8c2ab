"""Ground truth: the Shapley values of a model's game, by enumeration, or estimated until they are precise."""

import time
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
import tqdm

from shapjax.attribution import shapley_values
from shapjax.attribution.registry import enumerates_unasked
from shapjax.evaluation.files import Cache
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import shapley
from shapjax.games.classifier import Classifier
from shapjax.games.estimators import Estimate

KINDS = ("exact", "kernel_shap", "none")
# Of an estimate: its largest standard error over the spread of the image's values, coalitions an image, and those
# between two looks at the standard errors.
LIMITS = {"tolerance": 0.02, "max_coalitions": 65_536, "round_coalitions": 2048}


class GroundTruth(NamedTuple):
    """Shapley values of a model's game, for every class.

    Attributes:
      kind: "exact" (enumeration) or "kernel_shap" (estimated until precise).
      values: float32 [n, N, K], logits.
      standard_errors: float32 [n, N, K], logits; 0 if exact.
      ratio: float32 [n], the largest standard error over the spread of the image's values; 0 if exact.
      coalitions: int32 [n], evaluated for each image.
      seconds: an image, compilation not counted.
    """

    kind: str
    values: np.ndarray
    standard_errors: np.ndarray
    ratio: np.ndarray
    coalitions: np.ndarray
    seconds: float


def resolve(kind: str, model: Classifier, image_shape: tuple[int, int, int]) -> str:
    """Returns the kind that "auto" stands for: enumeration while that takes seconds an image (H, W, C).

    Raises:
      ValueError: on a kind that does not exist, or enumeration of too many players.
    """
    if kind not in ("auto", *KINDS):
        raise ValueError(f"ground truth {kind!r} is unknown; expected auto, {', '.join(KINDS)}")
    if kind == "exact":
        shapley.require_enumerable(model.num_players)
    return kind if kind != "auto" else "exact" if enumerates_unasked(model, image_shape) else "kernel_shap"


def compute(model: Classifier, images: np.ndarray, *, kind: str, batch_size: int = 256, seed: int = 0,
            progress: bool = True) -> GroundTruth:
    """Computes ground truth for every class.

    Args:
      model: the game.
      images: float32 [n, H, W, C], as the model takes them.
      kind: "exact" or "kernel_shap".
      batch_size: coalition pairs a forward pass.
      seed: of the sampled coalitions, which are not those of any attribution method.
      progress: show a progress bar.

    Raises:
      ValueError: if the kind is another, or the game has too many players to enumerate.
    """
    if resolve(kind, model, images.shape[1:]) != kind or kind == "none":
        raise ValueError(f"ground truth {kind!r} cannot be computed; expected exact or kernel_shap")
    coalitions = 2**model.num_players

    def fn(model: Classifier, images: chex.Array, keys: chex.Array) -> Estimate:
        if kind == "kernel_shap":
            return shapley_values.kernel_shap_all(model, images, keys, batch_size=batch_size, **LIMITS)
        values, b = shapley_values.exact_all(model, images, batch_size=batch_size), len(images)
        return Estimate(values, jnp.zeros_like(values), jnp.zeros(b), jnp.full(b, coalitions), jnp.ones(b, bool))

    keys, over = image_keys("ground_truth", len(images), seed=seed), OverImages(fn, block=1)
    most = coalitions if kind == "exact" else LIMITS["max_coalitions"]
    with tqdm.tqdm(total=len(images), desc=f"ground truth ({kind}), at most {most:,} coalitions an image", unit="image",
                   disable=not progress) as bar:
        over.compile(model, images, keys)
        begun = time.perf_counter()
        estimate = over(model, images, keys, done=bar.update)
        seconds = (time.perf_counter() - begun) / max(1, len(images))
    return GroundTruth(kind, estimate.values, estimate.standard_errors, estimate.ratio, estimate.coalitions, seconds)


def remembered(cache: Cache | None, name: str, model: Classifier, images: np.ndarray, *, kind: str, seed: int = 0,
               progress: bool = True, **options: Any) -> GroundTruth | None:
    """Reads ground truth that an earlier evaluation has left in a cache, or computes it and leaves it there.

    Args:
      cache: of this model; None computes without leaving anything.
      name: of the entry.
      kind: "exact", "kernel_shap", or "none", of which there is none.
      other arguments and errors: as in `compute`.
    """
    if kind == "none":
        return None
    settings = {"kind": kind} | ({"seed": seed, "draws": "own", **LIMITS} if kind == "kernel_shap" else {})
    mark = cache and cache.mark(settings, images)
    if cache and (found := cache.load(name, mark)):
        if progress:
            print(f"going on: ground truth of {len(images)} images is already there")
        return GroundTruth(**found | {"kind": kind, "seconds": float(found["seconds"])})
    reference = compute(model, images, kind=kind, seed=seed, progress=progress, **options)
    if cache:
        cache.save(name, mark, reference._asdict())
    return reference
