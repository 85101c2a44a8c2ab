"""Metrics of a prediction as patches are revealed or removed in the order of their importance.

`curves` runs the model once for most of these metrics; they are pure functions of its result. `road` and
`random_removal` run the model themselves. Probabilities are softmax probabilities of a target class, by default the
class ŷ predicted on the whole image. Metrics over fractions q use q = 0.1 … 0.9 and remove q·N patches, rounded (halves
up).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.games import classifier, outputs
from shapjax.games.checks import require_shape
from shapjax.games.classifier import Classifier
from shapjax.games.contract import NO_CLASS, as_targets, of_images
from shapjax.games.removal import NoisyLinear
from shapjax.metrics import ranking


class Curves(NamedTuple):
    """Logits of an image along an order of its patches.

    Attributes:
      inserted: float [B, N+1, K]; [:, k] sees the first k patches of the order only.
      deleted: float [B, N+1, K]; [:, k] sees all but the first k patches.
    """

    inserted: chex.Array
    deleted: chex.Array


def removed_counts(num_players: int) -> np.ndarray:
    """Returns the number of patches removed at the fractions 0, 0.1 … 0.9: q·N rounded, halves up; int [10]."""
    return (np.arange(10) * num_players + 5) // 10


@of_images("batch_size")
def curves(model: Classifier, images: chex.Array, order: chex.Array, *, batch_size: int = 256,
           ends: tuple[chex.Array, chex.Array] | None = None) -> Curves:
    """Evaluates both curves from N coalition pairs an image: the first k patches and the rest are complements.

    Args:
      model: the game.
      images: [B, H, W, C].
      order: int [B, N], from `ranking.order`.
      batch_size: coalitions a forward pass; bounds the memory.
      ends: logits of the whole and of the empty images, [B, K] each, if they are known: a pair less is evaluated.

    Raises:
      ValueError: if the order's shape does not fit the images and the model.
    """
    n = model.num_players
    require_shape("orders", order, (images.shape[0], n), "images, patches")
    sizes = jnp.arange(n) if ends is None or n == 1 else jnp.arange(1, n)  # N is the complement of 0
    first_BSN = ranking.ranks(order)[:, None, :] < sizes[:, None]
    first, rest = classifier.pair_values(
        model, images, first_BSN, read=outputs.all_classes(), batch_size=batch_size)
    if len(sizes) == n:
        ends, first, rest = (rest[:, 0], first[:, 0]), first[:, 1:], rest[:, 1:]
    whole, empty = (logits[:, None] for logits in ends)
    return Curves(jnp.concatenate([empty, first, whole], axis=1), jnp.concatenate([whole, rest, empty], axis=1))


def at_fractions(curves: Curves) -> Curves:
    """Returns logits without the 0, 10 … 90 % least important (inserted) or most important (deleted): [B, 10, K] each.
    """
    n = curves.deleted.shape[1] - 1
    counts = removed_counts(n)
    return Curves(inserted=curves.inserted[:, n - counts], deleted=curves.deleted[:, counts])


def target_log_probability(curves: Curves, targets: chex.Array | None = None) -> Curves:
    """Computes log p_target along both curves, [B, N+1] each; targets int [B] or one-hot [B, K], ŷ by default.

    A target that is no class raises UserError; inside of jit it gives NaN.
    """
    targets = _classes(curves.deleted, targets, "targets")
    return jax.tree.map(
        lambda logits: jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None, None], axis=-1)[..., 0], curves)


def insertion(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Computes the area under p_target as patches are revealed, most important first; higher is better.

    Trapezoids over N+1 points of the revealed fraction in [0, 1] (RISE, Petsiuk et al. 2018).

    Args:
      curves: of an order, most important first.
      targets: int [B]; ŷ by default.

    Returns:
      float [B], in [0, 1].
    """
    return _fraction_area(jnp.exp(target_log_probability(curves, targets).inserted))


def deletion(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Computes the area under p_target as patches are removed, most important first; lower is better.

    Arguments and result as in `insertion`.
    """
    return _fraction_area(jnp.exp(target_log_probability(curves, targets).deleted))


def _fraction_area(p: chex.Array) -> chex.Array:
    """Sums trapezoids of [B, N+1] over [0, 1]: [B]."""
    return jnp.trapezoid(p, axis=1) / (p.shape[1] - 1)


def _log_without(curves: Curves, targets: chex.Array | None) -> tuple[chex.Array, chex.Array]:
    """Returns log p_target of the whole image [B, 1] and without the most important 10 … 90 % [B, 9]."""
    log_p = target_log_probability(at_fractions(curves), targets).deleted
    return log_p[:, :1], log_p[:, 1:]


def aopc(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Averages p_target(x) - p_target(x without the most important q) over q; higher is better.

    The differences are signed (Samek et al. 2017, equation 12, at the fractions of Chen et al. 2020). The ceiling is
    p_target(x).

    Args:
      curves: of an order, most important first.
      targets: int [B]; ŷ by default.

    Returns:
      float [B].
    """
    whole, without = _log_without(curves, targets)
    return jnp.mean(jnp.exp(whole) - jnp.exp(without), axis=1)


def aopc_absolute(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Averages absolute values of the differences of `aopc`, as some papers do: float [B]."""
    whole, without = _log_without(curves, targets)
    return jnp.mean(jnp.abs(jnp.exp(whole) - jnp.exp(without)), axis=1)


def lodds(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Averages log(p_target(x without the most important q) / p_target(x)) over q, in nats; lower is better.

    Shrikumar et al. 2017, in the form of Chen et al. 2020. Arguments and result as in `aopc`.
    """
    whole, without = _log_without(curves, targets)
    return jnp.mean(without - whole, axis=1)


def accuracy_area(correct: chex.Array) -> chex.Array:
    """Computes 100 times the area under 0/1 curves; the mean over images is that of the accuracy.

    Args:
      correct: bool or float [B, 10], at the removed fractions 0, 0.1 … 0.9.

    Returns:
      float [B], in [0, 90].
    """
    return 100 * jnp.trapezoid(jnp.asarray(correct, jnp.float32), dx=0.1, axis=1)


def correct(logits: chex.Array, labels: chex.Array | None = None) -> chex.Array:
    """Returns 1 where an image's predictions are its label, else 0: logits [B, Q, K] -> float32 [B, Q].

    Labels are int [B] or one-hot [B, K]; by default, the first prediction of each image. One that is no class raises
    UserError; inside of jit it gives NaN.
    """
    labels_B1 = _classes(logits, labels, "labels")[:, None]
    right_BQ = (jnp.argmax(logits, axis=-1) == labels_B1).astype(jnp.float32)
    return jnp.where(labels_B1 == NO_CLASS, jnp.nan, right_BQ)


def _classes(logits: chex.Array, classes: chex.Array | None, what: str) -> chex.Array:
    """Returns class numbers int [B], by default those predicted first: logits [B, Q, K]."""
    if classes is None:
        return jnp.argmax(logits[:, 0], axis=-1)
    return jnp.asarray(as_targets(classes, logits.shape[-1], what=what, num_images=len(logits)))


def positive_perturbation(curves: Curves, labels: chex.Array | None = None) -> chex.Array:
    """Computes the area under the accuracy as the most important 0 … 90 % are removed; lower is better.

    Chefer et al. 2021.

    Args:
      curves: of an order, most important first.
      labels: int [B], the classes that count as correct: ŷ by default, or the labels.

    Returns:
      float [B], each image's share in the area, 0 to 90: see `accuracy_area`.
    """
    return accuracy_area(correct(at_fractions(curves).deleted, labels))


def negative_perturbation(curves: Curves, labels: chex.Array | None = None) -> chex.Array:
    """Computes the area under the accuracy as the least important 0 … 90 % are removed; higher is better.

    Arguments and result as in `positive_perturbation`.
    """
    return accuracy_area(correct(at_fractions(curves).inserted, labels))


@of_images("batch_size")
def correct_without(model: Classifier, images: chex.Array, order: chex.Array, labels: chex.Array, *,
                    batch_size: int = 256, whole: chex.Array | None = None) -> chex.Array:
    """Tests whether the label is predicted without the first 0, 10 … 90 % of an order.

    Args:
      model: the game.
      images: [B, H, W, C].
      order: int [B, N].
      labels: int [B].
      batch_size: coalitions a forward pass; bounds the memory.
      whole: logits [B, K] of the images, if they are known: one pass an image less.

    Returns:
      float32 [B, 10] of 0 and 1.
    """
    n = model.num_players
    require_shape("orders", order, (images.shape[0], n), "images, patches")
    counts = removed_counts(n) if whole is None else removed_counts(n)[1:]
    visible_BQN = ranking.ranks(order)[:, None, :] >= counts[:, None]
    logits = classifier.values(model, images, visible_BQN, read=outputs.all_classes(), batch_size=batch_size)
    return correct(logits if whole is None else jnp.concatenate([whole[:, None], logits], axis=1), labels)


def monotonicity(curves: Curves, targets: chex.Array | None = None) -> chex.Array:
    """Returns 1 if p_target never falls as patches are revealed, least important first, else 0; higher is better.

    As in Arya et al. 2019, the first value is with one patch visible, not with none.

    Args:
      curves: of an order, most important first.
      targets: int [B]; ŷ by default.

    Returns:
      float32 [B].
    """
    p = jnp.exp(target_log_probability(curves, targets).deleted)
    revealed = p[:, -2::-1]  # without the first N-1 of the order (the least important alone) … without none
    rises = jnp.all(jnp.diff(revealed, axis=1) >= 0, axis=1).astype(jnp.float32)
    return jnp.where(jnp.isnan(revealed).any(axis=1), jnp.nan, rises)


@of_images("batch_size", "imputation")
def road(model: Classifier, images: chex.Array, order: chex.Array, targets: chex.Array, *, batch_size: int = 256,
         whole: chex.Array | None = None, imputation: NoisyLinear = NoisyLinear()  # noqa: B008 (frozen)
         ) -> chex.Array:
    """Tests whether the target class is predicted without the first 0, 10 … 90 % of an order (ROAD, Rong et al. 2022).

    Removed patches are imputed, whatever the model's own removal is: they are filled in so that their outline tells
    little about them.

    Args:
      model: only its `logits` are used.
      images: [B, H, W, C].
      order: int [B, N], most important first (MoRF, lower is better), or reversed, `order[:, ::-1]`, least important
        first (LeRF, higher is better).
      targets: int [B].
      batch_size: images a forward pass; bounds the memory.
      whole: logits [B, K] of the images, if they are known: one pass an image less.
      imputation: fills in the removed patches; its noise is in the units of the images.

    Returns:
      float32 [B, 10] of 0 and 1; ROAD is the mean over images, and over the columns from the second on.
    """
    return correct_without(classifier.painted(model, imputation), images, order, targets, batch_size=batch_size,
                           whole=whole)


@of_images("batch_size")
def random_removal(model: Classifier, images: chex.Array, labels: chex.Array, key: chex.PRNGKey, *,
                   batch_size: int = 256) -> chex.Array:
    """Tests whether the label is predicted without a random 0, 10 … 90 % of the patches, by the model's own removal.

    Args:
      model: the game.
      images: [B, H, W, C].
      labels: int [B].
      key: one typed key or [B] of them. An image's removed sets are nested, uniform at each fraction.
      batch_size: images a forward pass; bounds the memory.

    Returns:
      float32 [B, 10] of 0 and 1; in column i, `removed_counts`[i] patches are removed.
    """
    order = ranking.order(jnp.zeros((images.shape[0], model.num_players), jnp.float32), key)  # all tied: a random order
    return correct_without(model, images, order, labels, batch_size=batch_size)
