"""Perturbation metrics that black out single pixels, as in Chefer et al. (2021)."""

import chex

from shapjax.games import classifier
from shapjax.games.classifier import Classifier
from shapjax.games.contract import of_images
from shapjax.games.removal import Constant
from shapjax.metrics import localization, perturbation, ranking


@of_images("batch_size")
def positive_perturbation_pixels(model: Classifier, images: chex.Array, attributions: chex.Array, labels: chex.Array,
                                 key: chex.PRNGKey, *, batch_size: int = 256,
                                 whole: chex.Array | None = None) -> chex.Array:
    """Computes `perturbation.positive_perturbation` with pixels as players; lower is better.

    Pixels are ranked by the attributions upsampled bilinearly to the image's size. Removed pixels are set to 0 in the
    units that the model takes, before any normalization of its own.

    Args:
      model: takes images whose black is 0.
      images: [B, H, W, C].
      attributions: float [B, N].
      labels: int [B], the classes that count as correct.
      key: breaks ties; one typed key or [B] of them.
      batch_size: images a forward pass; bounds the memory.
      whole: logits [B, K] of the images, if they are known: one pass an image less.

    Returns:
      float [B], each image's share in the area, 0 to 90.

    Raises:
      ValueError: if the attributions' shape does not fit the images and the model.
    """
    return _area(model, images, _pixel_order(model, images, attributions, key), labels, batch_size, whole)


@of_images("batch_size")
def negative_perturbation_pixels(model: Classifier, images: chex.Array, attributions: chex.Array, labels: chex.Array,
                                 key: chex.PRNGKey, *, batch_size: int = 256,
                                 whole: chex.Array | None = None) -> chex.Array:
    """Computes `perturbation.negative_perturbation` with pixels as players; higher is better.

    Arguments, result and errors as in `positive_perturbation_pixels`.
    """
    return _area(model, images, _pixel_order(model, images, attributions, key)[:, ::-1], labels, batch_size, whole)


def _pixel_order(model: Classifier, images: chex.Array, attributions: chex.Array, key: chex.PRNGKey) -> chex.Array:
    """Ranks pixels from the most to the least important: int [B, H·W]."""
    b, h, w, _ = images.shape
    return ranking.order(localization.upsample(attributions, model.grid, (h, w), num_images=b).reshape(b, h * w), key)


def _area(model: Classifier, images: chex.Array, order: chex.Array, labels: chex.Array, batch_size: int,
          whole: chex.Array | None) -> chex.Array:
    pixels = classifier.painted(model.replace(grid=images.shape[1:3]), Constant(0.0))
    correct = perturbation.correct_without(pixels, images, order, labels, batch_size=batch_size, whole=whole)
    return perturbation.accuracy_area(correct)
