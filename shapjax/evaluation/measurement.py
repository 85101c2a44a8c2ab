"""Measures attribution methods one after the other, on the same model, images, targets and coalitions.

A method explains the images, is timed, and is scored with every metric, image by image. What does not depend on the
method, such as the model's values of random coalitions, is computed once.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from shapjax.attribution import registry
from shapjax.attribution.registry import Method
from shapjax.evaluation import scoring
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import checks
from shapjax.games.classifier import Classifier

BRIEF = 0.5  # seconds
SCORING_PASSES = 60  # roughly the passes that scoring costs beside explaining; for the progress bar only


@dataclasses.dataclass(frozen=True)
class Subjects:
    """The images that methods are compared on.

    Attributes:
      images: float32 [n, H, W, C], as the model takes them.
      labels: int32 [n], true classes.
      predicted: int32 [n], ŷ.
      targets: int32 [n], the classes that are explained: `predicted` or `labels`.
      probabilities: float32 [n, K] of whole images.
      object_masks: bool or int [n, H, W], see `metrics.localization`; None if there are none.
      ground_truth: float [n, N, K], Shapley values; None if not computed.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    object_masks: np.ndarray | None = None
    ground_truth: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
      coalitions: that sampling methods take for an image; even, as they come in complementary pairs.
      batch_size: rows a forward pass.
      block: images that are on the devices at a time.
      seed: of all that is random.
      explorer_images: how many images (the first ones) are explained for several classes, to be looked at.
      explorer_classes: how many classes.

    Raises:
      ValueError: if the coalitions are not of an even number of at least 2.
    """

    coalitions: int = 2048
    batch_size: int = 256
    block: int = 32
    seed: int = 0
    explorer_images: int = 8
    explorer_classes: int = 5

    def __post_init__(self):
        if self.coalitions < 2 or self.coalitions % 2:
            raise ValueError(f"coalitions={self.coalitions}: expected an even number of at least 2, as they come in "
                             "complementary pairs")


class Measurement:
    """The measurement of methods on the same images; `measure` does the work for one of them."""

    def __init__(self, model: Classifier, subjects: Subjects, settings: Settings, *,
                 exact_seconds: float | None = None):
        """Args:
          exact_seconds: seconds an image of exact ground truth, so that "exact" is not computed again; else None.

        Raises:
          ValueError: if a target or label is no class.
        """
        self.model, self.subjects, self.settings, self._exact_seconds = model, subjects, settings, exact_seconds
        for classes in (subjects.targets, subjects.labels):
            checks.require_targets(classes, subjects.probabilities.shape[1])
        explored, n = min(settings.explorer_images, len(subjects.images)), len(subjects.images)
        self.classes = explorer_classes(subjects.probabilities[:explored], subjects.labels[:explored],
                                        subjects.targets[:explored], settings.explorer_classes)
        self._keys, self._tie_keys, self._coalition_keys = (
            image_keys(use, n, seed=settings.seed) for use in ("explanation", "ties", "coalitions"))
        self._explaining = functools.cache(lambda method: registry.passes(  # traces the method
            method, model, subjects.images[0], coalitions=settings.coalitions))
        self._score, self._remove, self._evaluate = (
            OverImages(fn(settings.batch_size), block=settings.block)
            for fn in (scoring.scores, scoring.removal_curves, scoring.random_coalitions))
        self._values: dict[str, np.ndarray] | None = None

    @property
    def rows(self) -> int:
        """Returns the number of explanations that a method makes, of all images and of the explorer's."""
        return len(self.subjects.images) + self.classes.size

    def passes(self, method: Method) -> float:
        """Returns roughly how many forward passes `measure` takes."""
        return (SCORING_PASSES + (0 if self._is_known(method) else self._explaining(method))) * self.rows

    def _is_known(self, method: Method) -> bool:
        return method.key == "exact" and self._exact_seconds is not None

    def measure(self, method: Method, *, done: Callable[[float], Any] = lambda passes: None) -> dict[str, np.ndarray]:
        """Explains and scores all images with one method.

        Args:
          method: from the registry; the model has what it needs.
          done: called as the work goes on, with the number of passes since the last call.

        Returns:
          arrays: "attributions" float32 [n, N]; "metric/KEY" [n, ...], each image's share in a metric (those of
          segmentations are counts), and with object masks "correct" bool [n]; "curve/NAME" float32 [n, points];
          "explorer/attributions" [e, C, N], "explorer/deleted" [e, C, N+1], "explorer/order" [e, C, N] int32;
          "cost/passes", "cost/seconds", "cost/peak_bytes" (NaN if unknown), an explanation's.

        Raises:
          ValueError: if attributions are not finite.
        """
        s, share = self.subjects, self.passes(method) / self.rows
        image, class_ = np.repeat(np.arange(len(self.classes)), self.classes.shape[1]), self.classes.ravel()

        def tick(rows: int) -> None:
            done(rows * share)

        if self._is_known(method):
            explored = s.ground_truth[image, :, class_]
            attributions = np.take_along_axis(s.ground_truth, s.targets[:, None, None], axis=2)[..., 0]
            seconds, peak = self._exact_seconds, np.nan
            tick(self.rows)
        else:
            explored, attributions, seconds, peak = self._explain(method, image, class_, tick)
        for values in (attributions, explored):
            checks.require_finite(values, method.key)
        if self._values is None:  # the same for every method
            self._values = self._evaluate(self.model, s.images, s.targets, self._coalition_keys)
        found = self._score(self.model, s.images, s.targets, s.labels, s.predicted, attributions, self._tie_keys,
                            self._values)
        if s.ground_truth is not None:
            found |= scoring.agreement_scores(attributions, s.targets, s.ground_truth)
        if s.object_masks is not None:
            found |= scoring.localization_scores(attributions, s.object_masks, self._tie_keys, self.model.grid)
            found["correct"] = s.predicted == s.labels
        order, deleted = self._remove(self.model, s.images[image], class_, explored, self._tie_keys[image])
        shape, n = self.classes.shape, self.model.num_players
        return found | {
            "attributions": np.asarray(attributions, np.float32),
            "explorer/attributions": np.asarray(explored, np.float32).reshape(*shape, n),
            "explorer/deleted": deleted.reshape(*shape, n + 1),
            "explorer/order": order.reshape(*shape, n),
            "cost/passes": np.float64(self._explaining(method)),
            "cost/seconds": np.float64(seconds),
            "cost/peak_bytes": np.float64(peak),
        }

    def _explain(self, method: Method, image: np.ndarray, class_: np.ndarray, done: Callable[[int], Any]
                 ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Returns the attributions of the explorer's rows and of all images, and an explanation's seconds and bytes."""
        s = self.subjects
        options = {"coalitions": self.settings.coalitions} if method.sampled else {}
        explain = OverImages(
            lambda model, images, targets, keys: method.fn(
                model, images, targets, keys, batch_size=self.settings.batch_size, **options),
            block=self.settings.block)
        # The first call compiles and warms up what is then timed.
        if not len(image):
            explain(self.model, s.images[:1], s.targets[:1], self._keys[:1])
        explored = explain(self.model, s.images[image], class_, self._keys[image], done=done)
        begun = time.perf_counter()
        attributions = explain(self.model, s.images, s.targets, self._keys, done=done)
        taken = [time.perf_counter() - begun]
        while taken[0] < BRIEF and len(taken) < 5:  # too brief to be timed once
            begun = time.perf_counter()
            explain(self.model, s.images, s.targets, self._keys)
            taken.append(time.perf_counter() - begun)
        rows = math.ceil(len(s.images) / explain.block) * explain.block  # the last block is filled up
        return explored, attributions, float(np.median(taken)) / rows, explain.peak_bytes


def explorer_classes(probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Chooses classes of each image to be looked at, most probable first, always with the label and the target.

    Args:
      probabilities: float [e, K].
      labels, targets: int [e].
      count: classes an image, at least 2; all K if there are no more.

    Returns:
      int32 [e, min(count, K)].
    """
    ranked = probabilities.copy()
    rows = np.arange(len(ranked))
    ranked[rows, labels], ranked[rows, targets] = 3, 2  # ahead of all others; the rest by probability
    chosen = np.argsort(-ranked, axis=1, kind="stable")[:, :count]
    by_probability = np.argsort(-np.take_along_axis(probabilities, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, by_probability, axis=1).astype(np.int32)
