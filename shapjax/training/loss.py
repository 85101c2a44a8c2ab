"""The joint loss: classify the image, classify its coalitions, share out the votes as Shapley values.

L = CE(f(x), y) + masked_weight · L_masked + shapley_weight · L_shapley [+ own_weight · L_own], a pure function of
parameters, batch and keys.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from shapjax import effects
from shapjax.games import coalitions, shapley


class LossSettings(NamedTuple):
    """What the joint loss is made of; each field is explained in `shapjax.config`."""

    num_pairs: int
    masked_weight: float
    masked_target: str  # one of MASKED_TARGETS
    label_smoothing: float
    shapley_gradient: str  # one of SHAPLEY_GRADIENTS
    shapley_scale: str  # one of SHAPLEY_SCALES
    own_weight: float


# phi and its own part, float [B, N, K] each, and effects on the votes of others (`shapjax.effects`) or None.
Parts = tuple[chex.Array, chex.Array, chex.Array | None]
PartsFn = Callable[[chex.Array], Parts]  # whole images -> theirs
MASKED_TARGETS = ("label", "prediction")
SHAPLEY_GRADIENTS = ("allocation", "game", "full")
SHAPLEY_SCALES = ("variance", "none")
MIN_VARIANCE = 1e-2  # squared logits; a zero-initialized head has v = 0, where nothing can be divided by the variance


class LossParts(NamedTuple):
    """The joint loss and its parts, scalars, averaged over the batch."""

    loss: chex.Array
    loss_classification: chex.Array
    loss_masked: chex.Array
    loss_shapley: chex.Array
    loss_own: chex.Array
    accuracy: chex.Array
    masked_accuracy: chex.Array


def shapley_loss(
    phi: chex.Array, masks: chex.Array, values: chex.Array, complement_values: chex.Array, *,
    gradient: str, scale: str, axis_name: str | None = None,
) -> chex.Array:
    """The Shapley task: mean square of the regression's residuals (docs/method.md, equation 4).

    Args:
      phi: float [B, N, K].
      masks: bool [B, M, N], from the Shapley kernel.
      values, complement_values: float [B, M, K], v(S) and v(S^c).
      gradient: "allocation": v(S) is a constant and the total of phi is held (`shapley.allocation_only`), so the task
        moves votes between patches only; "game": besides, it moves v(S) - v(S^c), the part of the game that the
        Shapley values depend on, towards an additive game; "full": through everything, the total of phi too.
      scale: "variance" divides by the values' own variance (a constant for the gradient), so that the task does not
        grow with the logits; "none" leaves it in squared logits.
      axis_name: of the devices that share the batch, so that the variance is that of the whole batch.

    Returns:
      float32 scalar.
    """
    if gradient != "full":
        phi = shapley.allocation_only(phi)
    if gradient == "allocation":
        values, complement_values = jax.lax.stop_gradient((values, complement_values))
    elif gradient == "game":
        values, complement_values = shapley.difference_only(values, complement_values)
    loss = jnp.mean(jnp.square(shapley.regression_residuals(phi, masks, values, complement_values)))
    if scale == "variance":
        both = jnp.concatenate([values, complement_values], axis=1)
        moments = jnp.mean(both, axis=(0, 1)), jnp.mean(jnp.square(both), axis=(0, 1))
        mean_K, square_K = jax.lax.pmean(moments, axis_name) if axis_name else moments
        variance = jnp.mean(square_K - jnp.square(mean_K))
        loss = loss / jax.lax.stop_gradient(jnp.maximum(variance, MIN_VARIANCE))
    return loss


def own_loss(own: chex.Array, masks: chex.Array, votes: chex.Array, changes: chex.Array | None = None, *,
             axis_name: str | None = None) -> chex.Array:
    """The task of the own parts of Shapley values (`shapjax.models.allocation`): a vote, averaged over contexts.

    Its minimum is the mean of the vote over contexts of 1 … N - 1 patches, each size alike (`shapley.context_weights`).

    Args:
      own: float [B, N, K].
      masks: bool [B, M, N], from the Shapley kernel.
      votes: float [B, M, N, K], as of `coalitions.pair_patch_logits`; constants for the gradient.
      changes: float [B, M, N, K], what is said of each context besides (`effects.in_context`). Whatever it is, it does
        not move the minimum in own, as its mean over contexts is 0. Its own minimum is the least squares of the votes
        on who is seen.
      axis_name: as of `shapley_loss`.

    Returns:
      float32 scalar: the weighted mean square of what is missing, over that of the votes.
    """
    votes = jax.lax.stop_gradient(votes)
    weight_BMN1 = shapley.context_weights(masks)[..., None]
    power = jnp.mean(weight_BMN1 * jnp.square(votes))
    power = jax.lax.pmean(power, axis_name) if axis_name else power
    said = own[:, None] if changes is None else own[:, None] + changes
    loss = jnp.mean(weight_BMN1 * jnp.square(votes - said))
    return loss / jnp.maximum(power, MIN_VARIANCE / own.shape[1] ** 2)


def joint_loss(
    phi_fn: coalitions.PhiFn,
    images: chex.Array,
    targets: chex.Array,
    keys: chex.Array,
    *,
    shapley_weight: chex.Numeric,
    settings: LossSettings,
    axis_name: str | None = None,
    parts_fn: PartsFn | None = None,
) -> tuple[chex.Array, LossParts]:
    """The joint loss of a batch.

    Args:
      phi_fn: the model with its parameters, see `shapjax.coalitions`.
      images: float32 [B, H, W, C], normalized.
      targets: float32 [B, K], what the classes should have for probabilities; one-hot, or mixed by augmentation.
      keys: PRNG keys [B], one an example: an example's coalitions depend on its own key alone.
      shapley_weight: of L_shapley, at this step.
      settings: the rest. Without pairs no coalition is looked at, and the loss is that of an ordinary classifier.
      axis_name: of the devices that share the batch, if any.
      parts_fn: of a model with an allocation head, gives phi and its parts for whole images; None: there is none.

    Returns:
      the loss (float32 scalar) and its parts.
    """
    phi, own, others = parts_fn(images) if parts_fn else (phi_fn(images, None), None, None)
    logits, labels_B = jnp.sum(phi, axis=1), jnp.argmax(targets, axis=-1)
    targets_BK = optax.smooth_labels(targets, settings.label_smoothing)
    loss_classification = jnp.mean(optax.softmax_cross_entropy(logits, targets_BK))
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels_B)
    if settings.num_pairs == 0:
        zero = jnp.zeros(())
        return loss_classification, LossParts(loss_classification, loss_classification, zero, zero, zero, accuracy,
                                              zero)

    masks = jax.vmap(
        lambda key: shapley.sample_coalitions(key, num_players=phi.shape[1], num_pairs=settings.num_pairs)
    )(keys)
    votes = coalitions.pair_patch_logits(phi_fn, images, masks)
    values, complement_values = coalitions.pair_sums(votes, masks)
    coalition_logits = jnp.concatenate([values, complement_values], axis=1)  # [B, 2M, K]
    wanted_BK = targets_BK
    if settings.masked_target == "prediction":  # what can be seen need not show what the label says
        wanted_BK = jax.lax.stop_gradient(jax.nn.softmax(logits))
    loss_masked = jnp.mean(optax.softmax_cross_entropy(coalition_logits, wanted_BK[:, None]))
    loss_shapley = shapley_loss(phi, masks, values, complement_values,
                                gradient=settings.shapley_gradient, scale=settings.shapley_scale,
                                axis_name=axis_name)
    loss = loss_classification + settings.masked_weight * loss_masked + shapley_weight * loss_shapley
    loss_own = jnp.zeros(())
    if own is not None:
        changes = None if others is None else effects.in_context(others, masks)
        loss_own = own_loss(own, masks, votes, changes, axis_name=axis_name)
    loss += settings.own_weight * loss_own
    return loss, LossParts(
        loss=loss,
        loss_classification=loss_classification,
        loss_masked=loss_masked,
        loss_shapley=loss_shapley,
        loss_own=loss_own,
        accuracy=accuracy,
        masked_accuracy=jnp.mean(jnp.argmax(coalition_logits, axis=-1) == labels_B[:, None]),
    )
