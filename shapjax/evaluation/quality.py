"""Measures a model on a dataset split: accuracy, efficiency, and how close its phi is to the Shapley values."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from shapjax.data import pipeline
from shapjax.data.sources import Source
from shapjax.evaluation.comparison import to_pixels
from shapjax.evaluation.ground_truth import GroundTruth
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.over_images import OverImages
from shapjax.games import contract
from shapjax.games.classifier import Classifier
from shapjax.metrics import accuracy, perturbation, shapley_agreement

REMOVAL_IMAGES = 1000  # images whose patches are removed at random


def evaluate(model: Classifier, source: Source, *, images: int, ground_truth: GroundTruth | None = None,
             batch_size: int = 256, seed: int = 0, progress: bool = True
             ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures a self-explaining model.

    Args:
      model: takes images as floats in [0, 1].
      source: the images; accuracy is over all of them, and None where they are not labeled.
      images: number of images to explain, the first ones.
      ground_truth: of these images; None leaves out the metrics that need it.
      batch_size: images a forward pass on a device.
      seed: of random removal.
      progress: show a progress bar.

    Returns:
      JSON-able metrics (keys in docs/metrics.md), and arrays of the explained images: images uint8 [n, H, W, C], labels
      int32 [n], logits float32 [n, K], shapley float32 [n, gh, gw, K], and ground_truth of that shape if there is any;
      of all images, if labeled, correct bool [N] and cross_entropies float64 [N], and correct_under_removal
      float32 [m, 10] of `random_removal`.

    Raises:
      ValueError: if the split has fewer images, the ground truth belongs to others, or logits are not finite.
    """
    if not 1 <= images <= len(source):
        raise ValueError(f"{images} images were asked for; the split has {len(source)}: give 1 to {len(source)}")
    logits, labels = predictions(model, source, batch_size=batch_size, progress=progress)
    contract.require_finite_logits(logits)
    chosen, arrays = source.read(np.arange(images)), {}
    if source.labeled:
        arrays = {"correct": accuracy.top_k_correct(logits, labels, k=1),
                  "cross_entropies": accuracy.cross_entropy(logits, labels),
                  "correct_under_removal": random_removal(model, source, batch_size=batch_size, seed=seed)}
    phi, totals, empty = OverImages(_explain, block=batch_size)(model, to_pixels(chosen["image"]))
    values = {
        "images": len(labels),
        "accuracy_top1": float(arrays["correct"].mean()) if arrays else None,
        "accuracy_top5": float(accuracy.top_k_correct(logits, labels, k=5).mean()) if arrays else None,
        "cross_entropy": float(arrays["cross_entropies"].mean()) if arrays else None,
        "accuracy_under_removal": np.mean(arrays["correct_under_removal"], axis=0, dtype=np.float64).tolist()
                                  if arrays else None,
        "efficiency_gap": shapley_agreement.efficiency_gap(totals, empty, phi),
        "players": model.num_players,
        "classes": logits.shape[1],
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        "shapley_error": ground_truth and shapley_error(phi, ground_truth),
    }
    arrays |= {"images": chosen["image"], "labels": chosen["label"], "logits": logits[:images],
              "shapley": phi.reshape(images, *model.grid, -1)}
    if ground_truth is not None:
        arrays["ground_truth"] = ground_truth.values.reshape(images, *model.grid, -1)
    return values, arrays


def predictions(model: Classifier, source: Source, *, batch_size: int, progress: bool = False
                ) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits float32 [n, K] and labels int32 [n] of all images of a source, in its order.

    Of several processes, each reads its own images.

    Args:
      model: takes images as floats in [0, 1].
      source: the images.
      batch_size: images a forward pass on a device.
      progress: show a progress bar.
    """
    processes = jax.process_count()
    rows = min(-(-len(source) // processes), batch_size * jax.local_device_count())
    over, found = OverImages(Classifier.logits, block=rows), []
    batches = pipeline.evaluation_batches(source, batch_size=rows, process_index=jax.process_index(),
                                          process_count=processes)
    for batch in tqdm.tqdm(batches, total=-(-len(source) // (rows * processes)), desc="test images", unit="batch",
                           disable=not progress):
        found.append((over.local(model, to_pixels(batch["image"])), batch["label"]))
    stacked = tuple(np.stack(parts) for parts in zip(*found, strict=True))
    whole = multihost_utils.process_allgather(stacked)  # [processes, batches, rows, ...]
    return tuple(np.moveaxis(x, 0, 1).reshape(-1, *x.shape[3:])[: len(source)] for x in whole)


def random_removal(model: Classifier, source: Source, *, batch_size: int, seed: int = 0) -> np.ndarray:
    """Tests whether the first `REMOVAL_IMAGES` images are classified right without a random 0, 10 … 90 % of patches.

    Arguments as of `evaluate`.

    Returns:
      float32 [m, 10] of 0 and 1.
    """
    chosen = source.read(np.arange(min(len(source), REMOVAL_IMAGES)))
    keys = image_keys("random_removal", len(chosen["label"]), seed=seed)
    over = OverImages(functools.partial(perturbation.random_removal, batch_size=batch_size), block=batch_size)
    return over(model, to_pixels(chosen["image"]), chosen["label"], keys)


def shapley_error(phi: np.ndarray, ground_truth: GroundTruth) -> dict[str, Any]:
    """Computes the errors of phi against ground truth, and the precision of the ground truth.

    Args:
      phi: float [n, N, K].
      ground_truth: of the same images.

    Returns:
      JSON-able: "ground_truth" (its kind), "images", "coalitions_per_image", "standard_error" (the largest, over the
      spread of the image's values), "r2_ceiling" (the R² of exact values; 1 if ground truth is exact),
      "seconds" (of all images), and the measures of `shapley_agreement.shapley_error`.

    Raises:
      ValueError: if the shapes differ.
    """
    ceiling = shapley_agreement.r2_ceiling(ground_truth.values, ground_truth.standard_errors)
    return {
        "ground_truth": ground_truth.kind, "images": len(phi), "standard_error": float(ground_truth.ratio.max()),
        "coalitions_per_image": round(float(ground_truth.coalitions.mean())),
        "r2_ceiling": ceiling if ceiling is not None and np.isfinite(ceiling) else None,
        "seconds": round(ground_truth.seconds * len(phi), 2),
        **shapley_agreement.shapley_error(phi, ground_truth.values)}


def _explain(model: Classifier, images: chex.Array) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Returns phi [B, N, K] and, from a coalition pass, f(x) and v(∅), [B, K] each."""
    return model.phi(images), *model.pair_logits(images, jnp.ones((len(images), model.num_players), bool))
