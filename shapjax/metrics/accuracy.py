"""Classification metrics, image by image."""

import numpy as np

from shapjax.games.contract import as_targets


def top_k_correct(logits: np.ndarray, labels: np.ndarray, *, k: int) -> np.ndarray:
    """Tests whether the label is among the k largest logits (all K classes where k is larger): bool [B].

    Args:
      logits: float [B, K].
      labels: int [B].
      k: at least 1.
    """
    labels = as_targets(labels, logits.shape[1], what="labels", num_images=len(logits))
    own_B1 = np.take_along_axis(logits, labels[:, None], axis=1)
    return (np.sum(logits > own_B1, axis=1) < k) & ~np.isnan(own_B1[:, 0])


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes -log softmax(logits)[label], in nats: float64 [B].

    Args:
      logits: float [B, K].
      labels: int [B].
    """
    from scipy import special  # loads slowly, and most users of the package do without it

    labels = as_targets(labels, logits.shape[1], what="labels", num_images=len(logits))
    log_p_BK = special.log_softmax(np.asarray(logits, np.float64), axis=1)
    return -np.take_along_axis(log_p_BK, labels[:, None], axis=1)[:, 0]
