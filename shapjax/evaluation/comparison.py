"""Compares attribution methods on images: the whole comparison as one function."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from shapjax.attribution import registry as methods_registry
from shapjax.attribution.registry import Method
from shapjax.evaluation import table
from shapjax.evaluation.files import FORMAT, Cache, origin
from shapjax.evaluation.ground_truth import GroundTruth, remembered, resolve
from shapjax.evaluation.measurement import Measurement, Subjects
from shapjax.evaluation.over_images import OverImages, default_batch_size
from shapjax.evaluation.sample_efficiency import budget_to_reach
from shapjax.games import checks, classifier, contract, error_law
from shapjax.games.classifier import Classifier
from shapjax.games.removal import Removal
from shapjax.metrics import registry as metrics_registry
from shapjax.metrics.registry import Metric

BLOCK = 16  # images on the devices at a time: a step of the progress bar
TARGETS = ("predicted", "label")
GIVEN = "given"  # the family of maps that another program has made


class Result(NamedTuple):
    """A comparison; `files.write_comparison` writes it.

    Attributes:
      summary: the table and what it rests on, JSON-able: the content of methods.json.
      arrays: maps of a few images to look at: the content of methods.npz.
    """

    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]


def compare(model: Any, images: np.ndarray, labels: np.ndarray | None, *, methods: str | Sequence[str] = "all",
            metrics: str | Sequence[str] = "all", target: str = "predicted", object_masks: np.ndarray | None = None,
            maps: Mapping[str, np.ndarray] | None = None, ground_truth: str | GroundTruth = "auto",
            removal: Removal | None = None, coalitions: int = 2048, batch_size: int | None = None, seed: int = 0,
            explorer_images: int = 8, directory: str | os.PathLike | None = None, fresh: bool = False,
            progress: bool = True) -> Result:
    """Explains images with several methods and scores each with several metrics, over images with intervals.

        model = shapjax.load("runs/mnist5k")
        summary, arrays = shapjax.evaluation.compare(model, images, labels, methods=["phi", "kernel_shap", "gradcam"])

    Args:
      model: from `shapjax.load`, or any `games.Classifier`.
      images: uint8 [n, H, W, C], which the model gets as floats in [0, 1], or floats as the model takes them.
      labels: int [n], true classes, or their names, where the model has names; None leaves out the metrics that need
        them.
      methods: names of `attribution.METHODS`, or "all" that the model can run.
      metrics: names of `metrics.registry.METRICS`, or "all" that can be measured.
      target: the class that is explained and scored, "predicted" or "label".
      object_masks: bool or int [n, H, W], positive on the object, negative where unlabeled; for localization.
      maps: by names that are no method's, float [n, gh, gw] or [n, N]: of the targets, from any other program, scored
        as further methods.
      ground_truth: "exact", "kernel_shap" (until precise), "none", "auto" (see `ground_truth.resolve`), or the values.
      removal: paints hidden patches, in place of the model's own way to hide them.
      coalitions: that sampling methods take for an image; even.
      batch_size: images, or coalition pairs, a forward pass on a device; None: 64 on a CPU, 512 on an accelerator.
      seed: of random coalitions, ties and resampling.
      explorer_images: images in `arrays`.
      directory: where to keep ground truth and the results of each method; an interrupted comparison goes on from
        these. None keeps nothing.
      fresh: measure again what an earlier comparison has left there.
      progress: show progress bars, and each method's means as it ends.

    Raises:
      ValueError: on arguments that do not fit, a name that does not exist, or a method or metric that lacks something;
        if a model of others does not keep to its contract (`games.Classifier.check`).
    """
    game = contract.as_classifier(model)
    is_wrapped = game is model  # by others
    images = np.asarray(images)
    object_masks = None if object_masks is None else np.asarray(object_masks)
    batch_size = default_batch_size() if batch_size is None else batch_size
    pixels = to_pixels(np.asarray(contract.as_images(images, game.grid)))
    contract.require_range(game, pixels)
    _require_arguments(images, object_masks, target, batch_size, coalitions, seed, explorer_images)
    options = {"batch_size": batch_size, "seed": seed}
    names = getattr(model, "class_names", ())
    num_classes = contract.num_classes(game, pixels[:1])
    if labels is not None:
        labels = contract.as_targets(labels, num_classes, what="labels", num_images=len(images), class_names=names)
    elif target == "label":
        raise ValueError("target is 'label', and there are no labels: expected 'predicted'")
    kind = resolve(ground_truth, game, pixels.shape[1:]) if isinstance(ground_truth, str) else ground_truth.kind
    if removal is not None:
        game = classifier.painted(game, removal)
    methods = methods_registry.select(methods, game, pixels.shape[1:])
    metrics = metrics_registry.select(metrics, ground_truth=kind != "none", object_masks=object_masks is not None,
                                      labels=labels is not None)

    if is_wrapped:
        game.check(pixels)
    cache = None if directory is None else Cache(directory, game, pixels, fresh=fresh)
    if isinstance(ground_truth, str):
        name = "ground_truth" if removal is None else f"ground_truth_{type(removal).__name__.lower()}"
        ground_truth = remembered(cache, name, game, pixels, kind=kind, progress=progress, **options)
    logits = OverImages(Classifier.logits, block=batch_size)(game, pixels)
    contract.require_finite_logits(logits)
    predicted = logits.argmax(axis=1).astype(np.int32)
    known = np.full_like(predicted, -1) if labels is None else labels
    labels = predicted if labels is None else labels  # what needs labels is left out
    subjects = Subjects(
        images=pixels, labels=labels, predicted=predicted, targets=predicted if target == "predicted" else labels,
        probabilities=np.asarray(jax.nn.softmax(logits)), object_masks=object_masks,
        ground_truth=ground_truth and ground_truth.values)
    work = Measurement(game, subjects, coalitions=coalitions, block=BLOCK, explorer_images=explorer_images,
                       exact_seconds=ground_truth.seconds if kind == "exact" else None, **options)
    settings = {"removal": repr(removal), "coalitions": coalitions, "seed": seed}
    measured = _measure(work, methods, metrics, cache, settings, progress)
    for name, values in (maps or {}).items():
        measured[name] = found = work.score(_given(name, values, len(labels), game.grid))
        if cache is not None:
            cache.save(name, GIVEN, found)  # to be compared with another model's; never read back
    explored = [method.key for method in methods]
    methods = [*methods, *(Method(name, name, GIVEN, "", None) for name in maps or ())]

    summary = origin() | {
        "images": len(labels), "target": target,
        "removal": "own" if removal is None else repr(removal), "ground_truth": ground_truth and kind,
        "seed": seed, "players": game.num_players, "grid": list(game.grid),
        "class_names": [str(name) for name in names or range(num_classes)], "confidence": table.CONFIDENCE,
        "metrics": [metric._asdict() | {"needs": list(metric.needs)} for metric in metrics],
        "methods": table.summarize(measured, methods, metrics, coalitions=coalitions, seed=seed),
    }
    if kind == "exact":
        summary["sample_efficiency"] = budget_to_reach(game, pixels, ground_truth.values, **options)
    e = len(work.classes)
    errors = {} if game.error_law is None or not e else {"half_width": _half_widths(game, pixels[:e], work.classes)}
    return Result(summary, errors | {
        "images": images[:e], "labels": known[:e], "probabilities": subjects.probabilities[:e],
        "classes": work.classes, "methods": np.array(explored),
        **{name: np.stack([measured[key][f"explorer/{name}"] for key in explored])
           for name in ("attributions", "deleted", "order")}})


def _given(name: str, values: np.ndarray, count: int, grid: tuple[int, int]) -> np.ndarray:
    """Returns given maps as finite floats [n, N]; raises ValueError if they are none, or have a method's name."""
    values, n = np.asarray(values), math.prod(grid)
    if name in methods_registry.METHODS:
        raise ValueError(f"maps are named {name!r} like a method; name them otherwise")
    if values.shape not in ((count, *grid), (count, n)) or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"the maps {name!r} are {values.dtype} {list(values.shape)}, expected floats "
                         f"[{count}, {grid[0]}, {grid[1]}]")
    checks.require_finite(values.reshape(count, n), name)
    return values.reshape(count, n).astype(np.float32)


def _half_widths(model: Classifier, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns half of phi's 95 % intervals for some classes of each image, int [e, C] -> float32 [e, C, N]."""
    def fn(model: Classifier, images: chex.Array) -> error_law.Refined:
        return jax.vmap(functools.partial(error_law.without_pairs, model.error_law))(model.phi(images))

    half = OverImages(fn, block=BLOCK)(model, images).half_width(table.CONFIDENCE)
    return np.take_along_axis(half, classes[:, None], axis=2).transpose(0, 2, 1).astype(np.float32)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images uint8 as float32 in [0, 1], and floats as float32."""
    return images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)


def _require_arguments(images: np.ndarray, object_masks: np.ndarray | None, target: str, batch_size: int,
                       coalitions: int, seed: int, explorer_images: int) -> None:
    """Raises ValueError unless the arguments of `compare` fit together."""
    checks.require_arguments(len(images), batch_size=batch_size, coalitions=(coalitions,))
    if object_masks is not None:
        checks.require_shape("object masks", object_masks, images.shape[:3], "images, height, width")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are {images.dtype}, expected uint8 or floats")
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(TARGETS)}")
    for name, number in (("seed", seed), ("explorer_images", explorer_images)):
        if number < 0:
            raise ValueError(f"{name} is {number}, expected at least 0")


def _measure(work: Measurement, methods: Sequence[Method], metrics: Sequence[Metric], cache: Cache | None,
             settings: dict[str, Any], progress: bool) -> dict[str, dict[str, np.ndarray]]:
    """Measures one after the other the methods that the cache lacks, and stores each; returns results by key.

    Results depend on the settings: JSON-able, the removal, coalitions and seed.
    """
    s, measured = work.subjects, {}
    if cache is not None:
        arrays = [x for x in (s.images, s.targets, s.labels, s.object_masks, s.ground_truth) if x is not None]
        mark = cache.mark({"format": FORMAT, "explorer": work.classes.tolist(), **settings}, *arrays)
        measured = {method.key: found for method in methods if (found := cache.load(method.key, mark)) is not None}
        if measured and progress:
            print(f"\ngoing on: {', '.join(measured)} already measured")
    todo = [method for method in methods if method.key not in measured]
    total = math.ceil(sum(map(work.passes, todo)) + 1)  # its parts are rounded when they are added up
    with tqdm.tqdm(total=total, unit="pass", unit_scale=True, disable=not (todo and progress)) as bar:
        for method in todo:
            bar.set_description(method.key)
            measured[method.key] = found = work.measure(method, done=bar.update)
            if cache is not None:
                cache.save(method.key, mark, found)
            if progress:
                shown = [metric for metric in metrics if metric.key in table.SHOWN]
                (row,) = table.summarize({method.key: found}, [method], shown, coalitions=settings["coalitions"])
                bar.write(table.line(row))
    return measured
