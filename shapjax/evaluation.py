"""All figures of a trained model on a dataset split: every image counted once, some enumerated exactly."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from shapjax import shapley
from shapjax.data import pipeline, sources
from shapjax.errors import UserError
from shapjax.inference import SelfExplainingModel
from shapjax.metrics import accuracy, shapley_error
from shapjax.version import __version__

MAX_DEFAULT_PLAYERS = 16  # enumerated unasked: 65 536 coalitions an image take seconds; each further patch doubles that


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


def evaluate(model: SelfExplainingModel, *, exact_images: int, batch_size: int
             ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures of a model on the test split of its dataset.

    Args:
      model: from `shapjax.load`.
      exact_images: how many of the first test images to enumerate.
      batch_size: of a forward pass.

    Returns:
      the figures (JSON-able; keys in docs/metrics.md) and the arrays of the enumerated images.

    Raises:
      UserError: if the game has too many players to enumerate.
    """
    start = time.monotonic()
    source = sources.load_source(model.config.dataset, "test")
    if exact_images and model.num_players > shapley.MAX_EXACT_PLAYERS:
        raise UserError(f"the model has {model.num_players} patches: exact enumeration would take "
                        f"2^{model.num_players - 1} forward passes an image; use --exact_images 0")
    logits, labels = collect_logits(lambda images: model.explain(images, batch_size=batch_size).logits,
                                    source, batch_size=batch_size, progress=True)
    chosen = source.read(np.arange(min(exact_images or 16, len(source))))
    images, phi = chosen["image"], _flat(model.explain(chosen["image"]).shapley)
    totals, empty = model.pair_values(images, np.ones((len(images), 1, model.num_players), bool))
    figures = {
        "checkpoint": str(model.directory),
        "step": model.step,
        "dataset": model.config.dataset,
        "split": "test",
        "shapley_weight": model.config.shapley_weight,
        "masked_weight": model.config.masked_weight,
        "images": len(labels),
        **classification_metrics(logits, labels),
        "efficiency_gap": shapley_error.efficiency_gap(totals[:, 0], empty[:, 0], phi),
        "players": model.num_players,
        "classes": len(model.class_names),
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
    }
    arrays = {"images": images, "labels": chosen["label"], "logits": logits[: len(images)],
              "shapley": _grid(phi, model), "class_names": np.array(model.class_names)}
    if exact_images:
        begun = time.monotonic()
        exact = exact_values(model, images, batch_size=batch_size)
        figures["shapley_error"] = {
            "images": len(images), "coalitions_per_image": 2**model.num_players,
            **shapley_error.shapley_error(phi, exact), "seconds": round(time.monotonic() - begun, 2)}
        arrays["exact"] = _grid(exact, model)
    else:
        figures["shapley_error"] = None
    figures |= {"seconds": round(time.monotonic() - start, 2),
                "device": f"{jax.default_backend()} x {jax.device_count()}",
                "versions": {"shapjax": __version__, "jax": jax.__version__}}
    return figures, arrays


def exact_values(model: SelfExplainingModel, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Exact Shapley values of images by enumeration, with a progress bar.

    Args:
      model: from `shapjax.load`.
      images: uint8 [B, H, W, C].
      batch_size: coalition pairs a forward pass.

    Returns:
      float64 [B, N, K].
    """
    def game(image: np.ndarray) -> Callable:
        def pairs(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            values, complements = model.pair_values(image[None], masks[None], batch_size=batch_size)
            return values[0], complements[0]
        return pairs

    description = f"exact Shapley values, {2**model.num_players:,} coalitions an image"
    return np.stack([shapley_error.exact_shapley_values(game(image), model.num_players)
                     for image in tqdm.tqdm(images, desc=description, unit="image")])


def _flat(shapley_values: np.ndarray) -> np.ndarray:
    """[B, gh, gw, K] -> [B, N, K]."""
    return shapley_values.reshape(len(shapley_values), math.prod(shapley_values.shape[1:3]), -1)


def _grid(phi: np.ndarray, model: SelfExplainingModel) -> np.ndarray:
    """[B, N, K] -> [B, gh, gw, K]."""
    return phi.reshape(len(phi), *model.grid, -1)
