"""What happens to a prediction as patches are revealed or removed in the order of their importance.

`curves` runs the model once for all of these metrics; they are then pure functions of its result. Probabilities are
softmax probabilities of a target class, by default the class ŷ predicted on the whole image. Metrics over fractions q
use q = 0.1 … 0.9 and remove the q·N patches, rounded (halves up).
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import classifier
from shapjax.games.checks import require_shape
from shapjax.games.classifier import Classifier
from shapjax.metrics import ranking

FRACTIONS = np.arange(10) / 10  # 0 and the q of the definitions


class Curves(NamedTuple):
    """Logits of an image along an order of its patches.

    Attributes:
      inserted: float [B, N+1, K]; [:, k] sees the first k patches of the order only.
      deleted: float [B, N+1, K]; [:, k] sees all but the first k patches.
    """

    inserted: chex.Array
    deleted: chex.Array


def removed_counts(num_players: int) -> np.ndarray:
    """Number of patches removed at each of `FRACTIONS`: q·N rounded to whole patches, halves up; int [10]."""
    return (np.arange(10) * num_players + 5) // 10


@functools.partial(jax.jit, static_argnames="batch_size")
def curves(model: Classifier, images: chex.Array, order: chex.Array, *, batch_size: int = 256) -> Curves:
    """Both curves from N coalition pairs an image: the first k patches and the rest are complements.

    Args:
      model: the game.
      images: [B, H, W, C].
      order: int [B, N], from `ranking.order`.
      batch_size: coalitions a forward pass; bounds the memory.

    Raises:
      UserError: if the order's shape does not fit the images and the model.
    """
    n = model.num_players
    require_shape("orders", order, (images.shape[0], n), "images, patches")
    first_BNN = ranking.ranks(order)[:, None, :] < jnp.arange(n)[:, None]  # the first 0 … N-1; N is the complement of 0
    first, rest = classifier.pair_values(
        model, images, first_BNN, read=classifier.all_classes(), batch_size=batch_size)
    return Curves(jnp.concatenate([first, rest[:, :1]], axis=1), jnp.concatenate([rest, first[:, :1]], axis=1))


def predicted(curves: Curves) -> chex.Array:
    """ŷ, the class with the largest logit when all patches are visible: int [B]."""
    return jnp.argmax(curves.deleted[:, 0], axis=-1)


def target_log_probability(curves: Curves, targets: chex.Array | None = None) -> Curves:
    """log p_target along both curves, [B, N+1] each; targets int [B], ŷ by default."""
    targets = predicted(curves) if targets is None else targets
    return jax.tree.map(
        lambda logits: jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None, None], axis=-1)[..., 0], curves)


def insertion_auc(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Area under p_target as patches are revealed, most important first (RISE, Petsiuk et al. 2018); higher is better.

    Trapezoids over N+1 points of the revealed fraction in [0, 1].

    Args:
      curves: of an order, most important first.
      targets: int [B]; ŷ by default.

    Returns:
      float [B], in [0, 1].
    """
    return _fraction_area(jnp.exp(target_log_probability(curves, targets).inserted))


def deletion_auc(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """As `insertion_auc`, as patches are removed; lower is better."""
    return _fraction_area(jnp.exp(target_log_probability(curves, targets).deleted))


def _fraction_area(p: chex.Array) -> chex.Array:
    """Trapezoids of [B, N+1] over [0, 1]: [B]."""
    return jnp.trapezoid(p, axis=1) / (p.shape[1] - 1)


def _log_without(curves: Curves, targets: chex.Array | None) -> tuple[chex.Array, chex.Array]:
    """log p_target of the whole image [B, 1] and without the most important 10 … 90 % [B, 9]."""
    log_p = target_log_probability(curves, targets).deleted[:, removed_counts(curves.deleted.shape[1] - 1)]
    return log_p[:, :1], log_p[:, 1:]


def full_probability(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """p_target of the whole image, the ceiling of `aopc`: float [B]."""
    return jnp.exp(_log_without(curves, targets)[0][:, 0])


def aopc(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Mean over q of p_target(x) - p_target(x without the most important q), signed; higher is better: float [B].

    Samek et al. 2017, equation 12, at the fractions of Chen et al. 2020.
    """
    whole, without = _log_without(curves, targets)
    return jnp.mean(jnp.exp(whole) - jnp.exp(without), axis=1)


def aopc_absolute(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """As `aopc`, of the absolute values of the differences, as some papers have it: float [B]."""
    whole, without = _log_without(curves, targets)
    return jnp.mean(jnp.abs(jnp.exp(whole) - jnp.exp(without)), axis=1)


def lodds(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Mean over q of log(p_target(x without the most important q) / p_target(x)), nats; lower is better: float [B].

    Shrikumar et al. 2017, in the form of Chen et al. 2020.
    """
    whole, without = _log_without(curves, targets)
    return jnp.mean(without - whole, axis=1)


def accuracy_auc(correct: chex.Array) -> chex.Array:
    """100 times the trapezoid of 0/1 curves over `FRACTIONS`, [0, 0.9]; their mean is that of the accuracy curve.

    Args:
      correct: bool or float [B, 10].

    Returns:
      float [B], in [0, 90].
    """
    return 100 * jnp.trapezoid(jnp.asarray(correct, jnp.float32), jnp.asarray(FRACTIONS, jnp.float32), axis=1)


def correct(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """Whether each of an image's predictions is its label: logits [B, Q, K], labels int [B] -> bool [B, Q]."""
    return jnp.argmax(logits, axis=-1) == labels[:, None]


def positive_perturbation_auc(curves: Curves, labels: chex.Array | None = None) -> chex.Array:
    """Accuracy as the most important 0 … 90 % are removed (Chefer et al. 2021); lower is better.

    Args:
      curves: of an order, most important first.
      labels: int [B], the classes that count as correct: ŷ by default, or the true ones.

    Returns:
      float [B], each image's share in the area, 0 to 90: see `accuracy_auc`.
    """
    labels = predicted(curves) if labels is None else labels
    counts = removed_counts(curves.deleted.shape[1] - 1)
    return accuracy_auc(correct(curves.deleted[:, counts], labels))


def negative_perturbation_auc(curves: Curves, labels: chex.Array | None = None) -> chex.Array:
    """As `positive_perturbation_auc`, as the least important are removed; higher is better."""
    labels = predicted(curves) if labels is None else labels
    n = curves.deleted.shape[1] - 1
    return accuracy_auc(correct(curves.inserted[:, n - removed_counts(n)], labels))


@functools.partial(jax.jit, static_argnames="batch_size")
def removed_logits(model: Classifier, images: chex.Array, order: chex.Array, *, batch_size: int = 256) -> chex.Array:
    """Logits without the first 0, 10 … 90 % of an order: int [B, N] -> float [B, 10, K]."""
    n = model.num_players
    require_shape("orders", order, (images.shape[0], n), "images, patches")
    visible_BQN = ranking.ranks(order)[:, None, :] >= removed_counts(n)[:, None]
    return classifier.values(model, images, visible_BQN, read=classifier.all_classes(), batch_size=batch_size)
