"""Random keys of an evaluation: each use draws from a stream of its own, so that no two share their draws.

If ground truth and the method KernelSHAP drew the same coalitions, they would have the same errors.
"""

from typing import Literal, get_args

import chex
import jax

from shapjax.games.classifier import row_keys

Use = Literal["explanation", "ties", "coalitions", "ground_truth", "sample_efficiency", "random_removal",
              "calibration"]


def image_keys(use: Use, num_images: int, *, seed: int) -> chex.Array:
    """Returns one typed key an image, [num_images]; an image's key depends on the use, the seed and its row alone."""
    stream = jax.random.fold_in(jax.random.key(seed), get_args(Use).index(use))
    return row_keys(stream, num_images)
