"""Running a classifier over a whole dataset split: every image counted exactly once."""

from collections.abc import Callable

import numpy as np
import tqdm

from shapjax.data import pipeline, sources
from shapjax.metrics import accuracy


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
