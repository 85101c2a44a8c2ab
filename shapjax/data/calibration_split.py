"""Training images that are left out of training, to calibrate the errors of explanations on."""

import numpy as np

from shapjax.data.sources import Source

MIN_IMAGES = 64  # or a hundredth of the images, if that is more; a tenth at most
SCAN = 10_000  # labels that are looked at to have all classes, or as many as images are held out


def size(n: int) -> int:
    """Returns how many of n images are held out: max(64, n/100), but at most n/10."""
    return min(max(MIN_IMAGES, n // 100), n // 10)


def draw(source: Source, *, seed: int) -> np.ndarray:
    """Draws the positions of the images to hold out, int [m], sorted; m is `size` of their number.

    One image of each class that is found among the first `SCAN` of a random order, if m allows; the others at random.
    A class whose only image is found there keeps it.

    Args:
      source: of the training images.
      seed: non-negative.
    """
    n = len(source)
    count = size(n)
    order = np.random.default_rng([seed, n]).permutation(n)[: max(SCAN, count)]
    labels = source.read_labels(order)
    _, first, inverse, frequency = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    may_leave = frequency[inverse] > 1
    is_first = np.zeros(len(order), bool)
    is_first[first] = True
    one_a_class, others = (np.flatnonzero(may_leave & which) for which in (is_first, ~is_first))
    return np.sort(order[np.concatenate([one_a_class, others])[:count]])
