"""Attribution methods beside each other: the same model, images, targets and coalitions, one run.

`Comparison` explains the images with one method after the other and scores each with every metric, image by image
(`comparison_table` makes the table). What does not depend on the method (the model's values of random coalitions, the
true Shapley values) is computed once.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.attribution import registry
from shapjax.attribution.registry import Method
from shapjax.evaluation.over_images import OverImages
from shapjax.games import checks, classifier
from shapjax.games.classifier import Classifier
from shapjax.metrics import (
    correlation,
    infidelity,
    localization,
    monotonicity,
    perturbation,
    pixel_perturbation,
    ranking,
    road,
    shapley_error,
    sparseness,
)

RANDOM_PAIRS = 128  # pairs of coalitions an image for each of the three kinds of sizes
BRIEF = 0.5  # seconds
SCORING_PASSES = 60  # roughly the passes that scoring costs beside explaining; for the progress bar only


@dataclasses.dataclass(frozen=True)
class Subjects:
    """The images that are compared on.

    Attributes:
      images: float32 [n, H, W, C] in [0, 1].
      labels: int32 [n], true classes.
      predicted: int32 [n], ŷ.
      targets: int32 [n], the classes that are explained: `predicted` or `labels`.
      probabilities: float32 [n, K] of whole images.
      masks: bool or int [n, H, W], see `metrics.localization`; None if there are none.
      truth: float [n, N, K], true Shapley values; None if not computed.
    """

    images: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    masks: np.ndarray | None = None
    truth: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How it is computed.

    Attributes:
      coalitions: of the methods that sample them, an image.
      batch_size: rows a forward pass.
      block: images that are on the devices at a time.
      seed: of all that is random.
      explorer_images, explorer_classes: how many images (the first ones) are explained for how many classes, for
        looking at.
    """

    coalitions: int = 2048
    batch_size: int = 256
    block: int = 32
    seed: int = 0
    explorer_images: int = 8
    explorer_classes: int = 5


class Comparison:
    """Methods on the same images. See the module; `measure` does the work for one method."""

    def __init__(self, model: Classifier, subjects: Subjects, settings: Settings, *,
                 exact_seconds: float | None = None):
        """exact_seconds: what an image's true values took, if they are exact: "exact" is then not computed again.

        Raises UserError if a target or label is no class.
        """
        self.model, self.subjects, self.settings, self._exact_seconds = model, subjects, settings, exact_seconds
        for classes in (subjects.targets, subjects.labels):
            checks.require_targets(classes, subjects.probabilities.shape[1])
        explored = min(settings.explorer_images, len(subjects.images))
        self.classes = explorer_classes(subjects.probabilities[:explored], subjects.labels[:explored],
                                        subjects.targets[:explored], settings.explorer_classes)
        self._keys = classifier.row_keys(jax.random.key(settings.seed), len(subjects.images))
        self._explaining = functools.cache(lambda method: registry.passes(  # traces the method
            method, model, subjects.images[0], coalitions=settings.coalitions))
        self._score = OverImages(_score_fn(settings.batch_size), block=settings.block)
        self._deleted = OverImages(_deleted_fn(settings.batch_size), block=settings.block)
        self._values: dict[str, np.ndarray] | None = None

    @property
    def rows(self) -> int:
        """Explanations that a method makes: of all images, and of the explorer's images and classes."""
        return len(self.subjects.images) + self.classes.size

    def passes(self, method: Method) -> float:
        """Forward passes that `measure` takes, roughly."""
        return (SCORING_PASSES + (0 if self._is_known(method) else self._explaining(method))) * self.rows

    def _is_known(self, method: Method) -> bool:
        return method.key == "exact" and self._exact_seconds is not None

    def measure(self, method: Method, *, done: Callable[[float], Any] = lambda passes: None) -> dict[str, np.ndarray]:
        """Explains and scores all images with one method.

        Args:
          method: from the registry; the model has what it needs.
          done: called as the work goes on, with the passes done since.

        Returns:
          arrays: "attributions" float32 [n, N]; "metric/KEY" [n, ...], each image's share in a metric (those of
          segmentations are counts), and with masks "correct" bool [n]; "curve/NAME" float32 [n, points];
          "explorer/attributions" [e, C, N], "explorer/deleted" [e, C, N+1], "explorer/order" [e, C, N] int32;
          "cost/passes", "cost/seconds", "cost/peak_bytes" (NaN if unknown), an explanation's.

        Raises:
          UserError: if attributions are not finite.
        """
        s, share = self.subjects, self.passes(method) / self.rows
        image, class_ = np.repeat(np.arange(len(self.classes)), self.classes.shape[1]), self.classes.ravel()

        def tick(rows: int) -> None:
            done(rows * share)

        if self._is_known(method):
            shown, attributions = s.truth[image, :, class_], np.take_along_axis(
                s.truth, s.targets[:, None, None], axis=2)[..., 0]
            seconds, peak = self._exact_seconds, np.nan
            tick(self.rows)
        else:
            options = {"coalitions": self.settings.coalitions} if method.sampled else {}
            explain = OverImages(
                lambda model, images, targets, keys: method.fn(
                    model, images, targets, keys, batch_size=self.settings.batch_size, **options),
                block=self.settings.block)
            # The explorer's first: it compiles and warms up what is then timed.
            shown = explain(self.model, s.images[image], class_, self._keys[image], done=tick)
            begun = time.perf_counter()
            attributions = explain(self.model, s.images, s.targets, self._keys, done=tick)
            taken = [time.perf_counter() - begun]
            while taken[0] < BRIEF and len(taken) < 5:  # too brief to be timed once
                begun = time.perf_counter()
                explain(self.model, s.images, s.targets, self._keys)
                taken.append(time.perf_counter() - begun)
            seconds, peak = float(np.median(taken)) / len(s.images), explain.peak_bytes
        for values in (attributions, shown):
            checks.require_finite(values, method.key)
        scores = self._score(self.model, s.images, s.targets, s.labels, s.predicted, attributions, self._keys,
                             self._random_values())
        scores |= self._on_host(attributions)
        order, deleted = self._deleted(self.model, s.images[image], class_, shown, self._keys[image])
        shape, n = self.classes.shape, self.model.num_players
        return scores | {
            "attributions": np.asarray(attributions, np.float32),
            "explorer/attributions": np.asarray(shown, np.float32).reshape(*shape, n),
            "explorer/deleted": deleted.reshape(*shape, n + 1),
            "explorer/order": order.reshape(*shape, n),
            "cost/passes": np.float64(self._explaining(method)),
            "cost/seconds": np.float64(seconds),
            "cost/peak_bytes": np.float64(peak),
        }

    def _random_values(self) -> dict[str, np.ndarray]:
        """The model's values of random coalitions, the same for every method."""
        if self._values is None:
            fn = OverImages(_random_values_fn(self.settings.batch_size), block=self.settings.block)
            masks_key = jax.random.fold_in(jax.random.key(self.settings.seed), 2**31)
            keys = classifier.row_keys(masks_key, len(self.subjects.images))
            self._values = fn(self.model, self.subjects.images, self.subjects.targets, keys)
        return self._values

    def _on_host(self, attributions: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics against the true values and against masks."""
        s, out = self.subjects, {}
        if s.truth is not None:
            truth = np.take_along_axis(s.truth, s.targets[:, None, None], axis=2)
            agreement = shapley_error.agreement(attributions[..., None], truth)
            out |= {f"metric/shapley_{name}": agreement[name] for name in ("pearson", "spearman")}
        if s.masks is not None:
            where = {"grid": self.model.grid, "image_size": s.images.shape[1:3]}
            counts = localization.segmentation_counts(attributions, s.masks, **where)
            precision = np.asarray(localization.segmentation_average_precision(attributions, s.masks, **where))
            segmentation = np.concatenate([np.asarray(count, np.float64).reshape(len(precision), -1)
                                           for count in counts], axis=1)
            out |= {
                "metric/pixel_accuracy": segmentation, "metric/miou": segmentation, "metric/map": precision,
                "metric/pointing": np.asarray(localization.pointing_game(
                    attributions, s.masks, self._keys, grid=self.model.grid)),
                "correct": s.predicted == s.labels,
            }
        return out


def explorer_classes(probabilities: np.ndarray, labels: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Classes on offer for each image, most probable first, always with the label and the target.

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


def _random_values_fn(batch_size: int) -> Callable:
    """p_target of random coalitions, of every size, of a quarter of the patches and of half, with their complements."""
    def fn(model: Classifier, images: chex.Array, targets: chex.Array, keys: chex.Array) -> dict[str, chex.Array]:
        n = model.num_players
        read = classifier.target_class(targets, "probability")
        out = {}
        for i, (name, size) in enumerate({"any": None, "quarter": max(1, n // 4), "half": max(1, n // 2)}.items()):
            masks = jax.vmap(lambda key, i=i, size=size: correlation.sample_masks(
                jax.random.fold_in(key, i), num_players=n, num_masks=RANDOM_PAIRS, size=size))(keys)
            inside, outside = classifier.pair_values(model, images, masks, read=read, batch_size=batch_size)
            out |= {f"{name}/masks": masks, f"{name}/inside": inside, f"{name}/outside": outside}
        return out

    return fn


def _score_fn(batch_size: int) -> Callable:
    """Every metric that the model or its random values are needed for, image by image."""
    def fn(model: Classifier, images: chex.Array, targets: chex.Array, labels: chex.Array, predicted: chex.Array,
           attributions: chex.Array, keys: chex.Array, values: dict[str, chex.Array]) -> dict[str, chex.Array]:
        order = ranking.order(attributions, keys)
        curves = perturbation.curves(model, images, order, batch_size=batch_size)
        p = jax.tree.map(jnp.exp, perturbation.target_log_probability(curves, targets))
        counts = perturbation.removed_counts(model.num_players)
        full = perturbation.full_probability(curves, targets)
        any_size = (jnp.concatenate([values["any/masks"], ~values["any/masks"]], axis=1),
                    jnp.concatenate([values["any/inside"], values["any/outside"]], axis=1))
        fixed = [correlation.sensitivity_n(attributions, masks, inside) for masks, inside in (
            (values["quarter/masks"], values["quarter/inside"]),
            (values["half/masks"], values["half/inside"]),
            (~values["quarter/masks"], values["quarter/outside"]))]
        pixels = (images, attributions, predicted, keys)
        road_curve = road.road(model, images, order, targets, batch_size=batch_size)
        return {
            "metric/deletion": perturbation.deletion_auc(curves, targets),
            "metric/insertion": perturbation.insertion_auc(curves, targets),
            "metric/aopc": perturbation.aopc(curves, targets),
            "metric/aopc_absolute": perturbation.aopc_absolute(curves, targets),
            "metric/lodds": perturbation.lodds(curves, targets),
            "metric/positive": perturbation.positive_perturbation_auc(curves),
            "metric/negative": perturbation.negative_perturbation_auc(curves),
            "metric/positive_label": perturbation.positive_perturbation_auc(curves, labels),
            "metric/negative_label": perturbation.negative_perturbation_auc(curves, labels),
            "metric/positive_pixels": pixel_perturbation.positive_perturbation_pixels(
                model, *pixels, batch_size=batch_size),
            "metric/negative_pixels": pixel_perturbation.negative_perturbation_pixels(
                model, *pixels, batch_size=batch_size),
            "metric/sensitivity_n": correlation.sensitivity_n(attributions, *any_size),
            "metric/sensitivity_n_fixed": jnp.mean(jnp.stack(fixed), axis=0),
            "metric/faithfulness": correlation.faithfulness_correlation(
                attributions, values["quarter/masks"], full, values["quarter/outside"]),
            "metric/infidelity": infidelity.infidelity(
                attributions, ~any_size[0], full, any_size[1], normalize=True),
            "metric/monotonicity": monotonicity.monotonicity(curves, targets),
            "metric/road": jnp.mean(road_curve[:, 1:], axis=1),
            "metric/sparseness": sparseness.gini(attributions),
            "curve/insertion": p.inserted,
            "curve/deletion": p.deleted,
            "curve/positive": perturbation.correct(curves.deleted[:, counts], predicted).astype(jnp.float32),
            "curve/negative": perturbation.correct(
                curves.inserted[:, model.num_players - counts], predicted).astype(jnp.float32),
        }

    return fn


def _deleted_fn(batch_size: int) -> Callable:
    """The order of removal, and p_target along it."""
    def fn(model: Classifier, images: chex.Array, targets: chex.Array, attributions: chex.Array, keys: chex.Array
           ) -> tuple[chex.Array, chex.Array]:
        order = ranking.order(attributions, keys)
        curves = perturbation.curves(model, images, order, batch_size=batch_size)
        return order, jnp.exp(perturbation.target_log_probability(curves, targets).deleted)

    return fn
