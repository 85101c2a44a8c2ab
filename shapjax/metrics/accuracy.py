"""How well a model classifies."""

import numpy as np


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Share of examples whose label is among the k largest logits (all K classes where k is larger).

    Args:
      logits: float [B, K].
      labels: int [B].
      k: at least 1.
    """
    own_B1 = np.take_along_axis(logits, labels[:, None], axis=1)
    better_B = np.sum(logits > own_B1, axis=1)
    return float(np.mean(better_B < k))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log softmax(logits)[label], in nats.

    Args:
      logits: float [B, K].
      labels: int [B].
    """
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_norm_B = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_norm_B - np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]))
