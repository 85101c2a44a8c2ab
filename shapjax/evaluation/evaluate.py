"""Figures of a model on a dataset split: accuracy, efficiency, and how close its values are to the Shapley values."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from shapjax.attribution import shapley_values
from shapjax.attribution.registry import MAX_UNASKED_EXACT_PLAYERS
from shapjax.data import pipeline, sources
from shapjax.errors import UserError
from shapjax.evaluation.over_images import OverImages
from shapjax.games import shapley
from shapjax.games.classifier import Classifier, row_keys
from shapjax.games.estimators import Estimate
from shapjax.metrics import accuracy, robustness, shapley_error
from shapjax.model import SelfExplainingModel
from shapjax.version import __version__

TRUTHS = ("exact", "kernel_shap", "none")
TOLERANCE = 0.02  # of estimated true values: standard error over the spread of an image's values
MAX_COALITIONS = 65_536  # an image, for estimated true values
REMOVAL_IMAGES = 1000  # test images whose patches are removed at random


@dataclasses.dataclass(frozen=True)
class Truth:
    """True Shapley values of a model's game, for every class.

    Attributes:
      kind: "exact" (enumeration) or "kernel_shap" (estimated until precise).
      values: float32 [n, N, K], logits.
      coalitions: int [n], evaluated an image.
      precision: float [n], the largest standard error over the spread of the image's values; 0 if exact.
      seconds: an image.
    """

    kind: str
    values: np.ndarray
    coalitions: np.ndarray
    precision: np.ndarray
    seconds: float


def truth_kind(asked: str, num_players: int) -> str:
    """What "auto" means for so many players: enumeration while it takes seconds, else estimation.

    Raises:
      UserError: on a kind that does not exist, or enumeration of too many players.
    """
    if asked not in ("auto", *TRUTHS):
        raise UserError(f"true values {asked!r} are unknown; expected auto, {', '.join(TRUTHS)}")
    if asked == "exact":
        shapley.require_enumerable(num_players)
    return asked if asked != "auto" else "exact" if num_players <= MAX_UNASKED_EXACT_PLAYERS else "kernel_shap"


def true_values(model: Classifier, images: np.ndarray, *, kind: str, batch_size: int = 256, seed: int = 0) -> Truth:
    """True Shapley values, with a progress bar.

    Args:
      model: the game.
      images: float32 [n, H, W, C], as the model takes them.
      kind: "exact" or "kernel_shap".
      batch_size: coalition pairs a forward pass.
      seed: of the sampled coalitions.

    Raises:
      UserError: if the game has too many players to enumerate.
    """
    truth_kind(kind, model.num_players)

    def fn(model: Classifier, images: chex.Array, keys: chex.Array) -> Estimate:
        if kind == "kernel_shap":
            return shapley_values.kernel_shap_all(model, images, keys, batch_size=batch_size, tolerance=TOLERANCE,
                                                  max_coalitions=MAX_COALITIONS, round_coalitions=2048)
        values = shapley_values.exact_all(model, images, batch_size=batch_size)
        b = len(images)
        return Estimate(values, jnp.zeros_like(values), jnp.zeros(b), jnp.full(b, 2**model.num_players),
                        jnp.ones(b, bool))

    keys = row_keys(jax.random.key(seed), len(images))
    what = f"exact Shapley values, {2**model.num_players:,} coalitions an image" if kind == "exact" else (
        f"Shapley values by KernelSHAP, at most {MAX_COALITIONS:,} coalitions an image")
    begun = time.perf_counter()
    with tqdm.tqdm(total=len(images), desc=what, unit="image") as bar:
        estimate = OverImages(fn, block=1)(model, images, keys, done=bar.update)
    return Truth(kind, estimate.values, np.asarray(estimate.coalitions), np.asarray(estimate.ratio),
                 (time.perf_counter() - begun) / len(images))


def collect_logits(logits_fn: Callable[[np.ndarray], np.ndarray], source: sources.Source, *, batch_size: int,
                   progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all images of a source, in its order.

    Args:
      logits_fn: uint8 [batch_size, H, W, C] -> float [batch_size, K].
      source: the images.
      batch_size: of every call, the last one included (it is padded).
      progress: show a progress bar.

    Returns:
      float [n, K] logits and int [n] labels.
    """
    logits, labels = [], []
    batches = -(-len(source) // batch_size)
    for batch in tqdm.tqdm(pipeline.evaluation_batches(source, batch_size=batch_size), total=batches,
                           desc="test images", unit="batch", disable=not progress):
        logits.append(np.asarray(logits_fn(batch["image"]))[batch["valid"]])
        labels.append(batch["label"][batch["valid"]])
    return np.concatenate(logits), np.concatenate(labels)


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """accuracy_top1, accuracy_top5 and cross_entropy (nats) of logits [n, K] against labels [n]."""
    return {
        "accuracy_top1": accuracy.top_k_accuracy(logits, labels, k=1),
        "accuracy_top5": accuracy.top_k_accuracy(logits, labels, k=5),
        "cross_entropy": accuracy.cross_entropy(logits, labels),
    }


def load_test_source(model: SelfExplainingModel, moved: Mapping[str, str] | None = None) -> sources.Source:
    """The test split of the dataset that a model was trained on.

    Args:
      model: from `shapjax.load`.
      moved: settings that say where the dataset lies now, by their dotted keys, such as "data.data_dir".

    Raises:
      UserError: if it cannot be loaded, or is not what it was then: of other classes, or images of another size.
    """
    config = model.config.copy_and_resolve_references()
    config.update_from_flattened_dict(moved or {})
    source = sources.load_source(config, "test")
    for what, then, now in (("classes", tuple(model.class_names), source.class_names),
                            ("image size", tuple(model.image_shape), source.image_shape)):
        if then != now:
            raise UserError(f"{model.config.dataset} has changed since {model.directory} was trained: its {what} was "
                            f"{_brief(then)}, and is {_brief(now)}; restore it, or train again")
    return source


def _brief(values: tuple) -> str:
    text = ", ".join(map(str, values))
    return text if len(text) <= 120 else f"{text[:100]}… ({len(values)})"


def evaluate(model: SelfExplainingModel, source: sources.Source, *, images: int,
             truth: Callable[[np.ndarray], Truth] | None, batch_size: int
             ) -> tuple[dict[str, Any], dict[str, np.ndarray], Truth | None]:
    """All figures of a model on the test split of its dataset.

    Args:
      model: from `shapjax.load`.
      source: from `load_test_source`.
      images: how many test images, the first ones, are compared with true Shapley values.
      truth: finds the true values of images float32 [n, H, W, C] (`true_values`); None leaves them out.
      batch_size: of a forward pass.

    Returns:
      the figures (JSON-able; keys in docs/metrics.md), the arrays of those images, and their true values.

    Raises:
      UserError: if there are not so many images.
    """
    start = time.monotonic()
    if not 1 <= images <= len(source):
        raise UserError(f"{images} images were asked for; the test split of {model.config.dataset} has {len(source)}: "
                        f"give 1 to {len(source)}")
    logits, labels = collect_logits(lambda images: model.explain(images, batch_size=batch_size).logits,
                                    source, batch_size=batch_size, progress=True)
    chosen = source.read(np.arange(images))
    phi = _flat(model.explain(chosen["image"], batch_size=batch_size).shapley)
    totals, empty = model.pair_values(chosen["image"], np.ones((images, 1, model.num_players), bool),
                                      batch_size=batch_size)
    true = truth and truth(pixels(chosen["image"]))
    figures = {
        "checkpoint": str(model.directory),
        "step": model.step,
        "dataset": model.config.dataset,
        "split": "test",
        "shapley_weight": model.config.shapley_weight,
        "masked_weight": model.config.masked_weight,
        "images": len(labels),
        **classification_metrics(logits, labels),
        "accuracy_under_removal": _accuracy_under_removal(model, source, batch_size),
        "efficiency_gap": shapley_error.efficiency_gap(totals[:, 0], empty[:, 0], phi),
        "players": model.num_players,
        "classes": len(model.class_names),
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        "shapley_error": true and {
            "truth": true.kind, "images": images, "coalitions_per_image": round(float(true.coalitions.mean())),
            "standard_error": float(true.precision.max()), **shapley_error.shapley_error(phi, true.values),
            "seconds": round(true.seconds * images, 2)},
    }
    arrays = {"images": chosen["image"], "labels": chosen["label"], "logits": logits[:images],
              "shapley": _grid(phi, model), "class_names": np.array(model.class_names)}
    if true is not None:
        arrays["truth"] = _grid(true.values, model)
    figures |= {"seconds": round(time.monotonic() - start, 2),
                "device": f"{jax.default_backend()} x {jax.device_count()}",
                "versions": {"shapjax": __version__, "jax": jax.__version__}}
    return figures, arrays, true


def _accuracy_under_removal(model: SelfExplainingModel, source: sources.Source, batch_size: int) -> list[float]:
    """Accuracy without a random 0, 10 … 90 % of the patches, of the first `REMOVAL_IMAGES` images."""
    chosen = source.read(np.arange(min(len(source), REMOVAL_IMAGES)))
    keys = jax.random.split(jax.random.key(0), len(chosen["label"]))
    correct = OverImages(
        lambda model, *arrays: robustness.random_removal(model, *arrays, batch_size=batch_size), block=batch_size)(
            model.classifier, pixels(chosen["image"]), chosen["label"], keys)
    return np.mean(correct, axis=0, dtype=np.float64).tolist()


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 in [0, 1], as a `SelfExplainingModel.classifier` takes them."""
    return images.astype(np.float32) / 255


def _flat(shapley_values: np.ndarray) -> np.ndarray:
    """[B, gh, gw, K] -> [B, N, K]."""
    return shapley_values.reshape(len(shapley_values), math.prod(shapley_values.shape[1:3]), -1)


def _grid(phi: np.ndarray, model: SelfExplainingModel) -> np.ndarray:
    """[B, N, K] -> [B, gh, gw, K]."""
    return phi.reshape(len(phi), *model.grid, -1)
