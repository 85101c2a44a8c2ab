"""Measures attribution methods one after the other, on the same model, images, targets and coalitions.

A method explains the images, is timed, and is scored with every metric, image by image. What does not depend on the
method, such as the model's values of random coalitions, is computed once.
"""

import functools
import time
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from shapjax.attribution import registry
from shapjax.attribution.registry import Method
from shapjax.evaluation import scoring
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import checks
from shapjax.games.classifier import Classifier
from shapjax.training import distributed

BRIEF = 0.5  # seconds
PAINTED_PASSES = 27  # an image, of the metrics that paint 10 … 90 % over: ROAD, and two with pixels as players


class Subjects(NamedTuple):
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


class Measurement:
    """The measurement of methods on the same images; `measure` does the work for one of them.

    Attributes:
      subjects: what the methods are compared on.
      classes: int32 [e, C], the classes of the first e images that are explained to be looked at.
    """

    def __init__(self, model: Classifier, subjects: Subjects, *, coalitions: int = 2048, batch_size: int = 256,
                 block: int = 32, seed: int = 0, explorer_images: int = 8, explorer_classes: int = 5,
                 exact_seconds: float | None = None):
        """Args:
          coalitions: that sampling methods take for an image; even, as they come in complementary pairs.
          batch_size: rows a forward pass.
          block: images that are on the devices at a time, at most.
          seed: of all that is random.
          explorer_images: how many images (the first ones) are explained for several classes, to be looked at.
          explorer_classes: how many classes.
          exact_seconds: seconds an image of exact ground truth, so that "exact" is not computed again; else None.

        Raises:
          ValueError: if a target or label is no class.
        """
        self.model, self.subjects, self._exact_seconds = model, subjects, exact_seconds
        self._coalitions, self._batch_size = coalitions, batch_size
        for classes in (subjects.targets, subjects.labels):
            checks.require_targets(classes, subjects.probabilities.shape[1])
        self.classes = classes_to_explore(*(x[:explorer_images] for x in (
            subjects.probabilities, subjects.labels, subjects.targets)), explorer_classes)
        self._rows = len(subjects.images) + self.classes.size  # explanations that a method makes
        self._block = block = fullest_block(block, len(subjects.images), self.classes.size,
                                            devices=jax.local_device_count())
        self._keys, self._tie_keys, self._coalition_keys = (
            image_keys(use, len(subjects.images), seed=seed) for use in ("explanation", "ties", "coalitions"))
        self._explaining = functools.cache(lambda method: registry.passes(  # traces the method
            method, model, subjects.images[0], coalitions=coalitions))
        self._score, self._remove, self._evaluate = (
            OverImages(functools.partial(fn, batch_size=batch_size), block=block)
            for fn in (scoring.scores, scoring.removal_curves, scoring.shared_values))

    @functools.cached_property
    def _values(self) -> dict[str, np.ndarray]:
        """Returns the model's values that are the same for every method (`scoring.shared_values`)."""
        return self._evaluate(self.model, self.subjects.images, self.subjects.targets, self._coalition_keys)

    def passes(self, method: Method) -> float:
        """Returns roughly how many forward passes `measure` takes, those of a pair counted as one."""
        return (self._curve_passes + self._explaining_passes(method)) * self._rows + PAINTED_PASSES * len(
            self.subjects.images)

    @property
    def _curve_passes(self) -> int:
        return self.model.num_players - 1

    def _explaining_passes(self, method: Method) -> float:
        return 0 if self._is_known(method) else np.nan_to_num(self._explaining(method))  # NaN: unknown

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
        s, n, shape = self.subjects, self.model.num_players, self.classes.shape
        image, class_ = np.repeat(np.arange(shape[0]), shape[1]), self.classes.ravel()
        if self._is_known(method):
            explored = s.ground_truth[image, :, class_]
            attributions = np.take_along_axis(s.ground_truth, s.targets[:, None, None], axis=2)[..., 0]
            seconds, peak = self._exact_seconds, np.nan
        else:
            explored, attributions, seconds, peak = self._explain(
                method, image, class_, lambda rows: done(rows * self._explaining_passes(method)))
        for values in (attributions, explored):
            checks.require_finite(values, method.key)
        order, deleted = self._remove(self.model, s.images[image], class_, explored, self._tie_keys[image],
                                      {end: self._values[end][image] for end in ("whole", "empty")},
                                      done=lambda rows: done(rows * self._curve_passes))
        return self.score(attributions, done=done) | {
            "explorer/attributions": np.asarray(explored, np.float32).reshape(*shape, n),
            "explorer/deleted": deleted.reshape(*shape, n + 1),
            "explorer/order": order.reshape(*shape, n),
            "cost/passes": np.float64(self._explaining(method)),
            "cost/seconds": np.float64(seconds),
            "cost/peak_bytes": np.float64(peak),
        }

    def score(self, attributions: np.ndarray, *, done: Callable[[float], Any] = lambda passes: None
              ) -> dict[str, np.ndarray]:
        """Scores attributions of the targets, from wherever they are.

        Args:
          attributions: finite floats [n, N].
          done: as of `measure`.

        Returns:
          arrays: "attributions", "metric/KEY", "curve/NAME" and "correct", as `measure` returns them.
        """
        s = self.subjects
        found = self._score(self.model, s.images, s.targets, s.labels, s.predicted, attributions, self._tie_keys,
                            self._values, done=lambda rows: done(rows * (self._curve_passes + PAINTED_PASSES)))
        if s.ground_truth is not None:
            found |= scoring.agreement_scores(attributions, s.targets, s.ground_truth)
        if s.object_masks is not None:
            found |= scoring.localization_scores(attributions, s.object_masks, self._tie_keys, self.model.grid)
            found["correct"] = s.predicted == s.labels
        return found | {"attributions": np.asarray(attributions, np.float32)}

    def _explain(self, method: Method, image: np.ndarray, class_: np.ndarray, done: Callable[[int], Any]
                 ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Returns the attributions of the explorer's rows and of all images, and an explanation's seconds and bytes."""
        s = self.subjects
        options = {"coalitions": self._coalitions} if method.sampled else {}
        explain = OverImages(functools.partial(method.fn, batch_size=self._batch_size, **options), block=self._block)
        explain.compile(self.model, s.images, s.targets, self._keys)  # which is not timed
        explored = explain(self.model, s.images[image], class_, self._keys[image], done=done)
        begun = time.perf_counter()
        attributions = explain(self.model, s.images, s.targets, self._keys, done=done)
        taken = [time.perf_counter() - begun]
        if distributed.agreed(taken[0] < BRIEF):  # too brief to be timed once
            taken += timeit.repeat(lambda: explain(self.model, s.images, s.targets, self._keys), number=1, repeat=4)
        return explored, attributions, float(np.median(taken)) / explain.rows(len(s.images)), explain.peak_bytes


def fullest_block(most: int, *counts: int, devices: int) -> int:
    """Chooses the rows of a block: few places of the last blocks are to stay empty, and few blocks are to be run.

    Args:
      most: the block is no larger, but for being a multiple of the devices.
      counts: of rows, each of which is worked on block by block; a block is taken to cost a quarter of a row.
      devices: that share a block.
    """
    blocks = range(-(-most // devices) * devices, 0, -devices)
    return min(blocks, key=lambda block: sum(-count % block - count // -block / 4 for count in counts))


def classes_to_explore(probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Chooses classes of each image to be looked at, most probable first, always with the label and the target.

    Args:
      probabilities: float [e, K].
      labels, targets: int [e].
      count: classes an image, at least 2; all K if there are no more.

    Returns:
      int32 [e, min(count, K)].
    """
    ranked, rows = probabilities.copy(), np.arange(len(probabilities))
    ranked[rows, labels], ranked[rows, targets] = 3, 2  # ahead of all others; the rest by probability
    chosen = np.argsort(-ranked, axis=1, kind="stable")[:, :count]
    by_probability = np.argsort(-np.take_along_axis(probabilities, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, by_probability, axis=1).astype(np.int32)
