"""The joint loss: classify the image, classify its coalitions, learn the Shapley values.

L = CE(f(x), y) + masked_weight · CE(v(S), y) + weight · L_shapley / Var(v), a pure function of parameters, batch and
keys (docs/method.md, equation 5).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from shapjax.games import coalitions, shapley

MIN_VARIANCE = 1e-2  # squared logits; a zero-initialized head has v = 0, where nothing can be divided by the variance


class LossSettings(NamedTuple):
    """Holds the settings of the joint loss; `shapjax.config` explains each field under `shapley`."""

    num_pairs: int
    weight: float
    masked_weight: float


class LossParts(NamedTuple):
    """The joint loss and its parts, scalars, averaged over the batch."""

    loss: chex.Array
    loss_classification: chex.Array
    loss_masked: chex.Array
    loss_shapley: chex.Array
    accuracy: chex.Array
    masked_accuracy: chex.Array


def shapley_loss(phi_BNK: chex.Array, mask_BMN: chex.Array, value_BMK: chex.Array, complement_BMK: chex.Array, *,
                 axis_name: str | None = None) -> chex.Array:
    """Computes the Shapley task: the regression's mean squared residual over the variance of the values.

    Equation 4 of docs/method.md. The gradient moves phi between patches and holds its total
    (`shapley.allocation_only`). Of the game it moves v(S) - v(S^c), the part that the Shapley values depend on, towards
    an additive game (`shapley.difference_only`). The variance is a constant for it, so that the task does not grow with
    the logits.

    Args:
      phi_BNK: float [B, N, K].
      mask_BMN: bool [B, M, N], from the Shapley kernel.
      value_BMK, complement_BMK: float [B, M, K], v(S) and v(S^c).
      axis_name: of the devices that share the batch, so that the variance is that of the whole batch.

    Returns:
      float32 scalar.
    """
    phi_BNK = shapley.allocation_only(phi_BNK)
    value_BMK, complement_BMK = shapley.difference_only(value_BMK, complement_BMK)
    residuals = shapley.regression_residuals(phi_BNK, mask_BMN, value_BMK, complement_BMK)
    both = jnp.concatenate([value_BMK, complement_BMK], axis=1)
    moments = jnp.mean(both, axis=(0, 1)), jnp.mean(jnp.square(both), axis=(0, 1))
    mean_K, square_K = jax.lax.pmean(moments, axis_name) if axis_name else moments
    variance = jnp.mean(square_K - jnp.square(mean_K))
    return jnp.mean(jnp.square(residuals)) / jax.lax.stop_gradient(jnp.maximum(variance, MIN_VARIANCE))


def joint_loss(phi_fn: coalitions.PhiFn, images: chex.Array, targets_BK: chex.Array, keys_B: chex.Array, *,
               settings: LossSettings, axis_name: str | None = None) -> tuple[chex.Array, LossParts]:
    """Computes the joint loss of a batch.

    Args:
      phi_fn: the model with its parameters, see `shapjax.games.coalitions`.
      images: float32 [B, H, W, C], normalized.
      targets_BK: float32 [B, K], the probabilities that the classes should have; one-hot, or mixed by augmentation.
      keys_B: PRNG keys [B], one an example: an example's coalitions depend on its own key alone.
      settings: with 0 pairs no coalition is evaluated, and the loss is that of an ordinary classifier.
      axis_name: of the devices that share the batch, if any.

    Returns:
      the loss (float32 scalar) and its parts.
    """
    phi_BNK = phi_fn(images, None)
    logits_BK, labels_B = jnp.sum(phi_BNK, axis=1), jnp.argmax(targets_BK, axis=-1)
    loss_classification = jnp.mean(optax.softmax_cross_entropy(logits_BK, targets_BK))
    accuracy = jnp.mean(jnp.argmax(logits_BK, axis=-1) == labels_B)
    if settings.num_pairs == 0:
        zero = jnp.zeros(())
        return loss_classification, LossParts(loss_classification, loss_classification, zero, zero, accuracy, zero)
    mask_BMN = jax.vmap(lambda key: shapley.sample_coalitions(
        key, num_players=phi_BNK.shape[1], num_pairs=settings.num_pairs))(keys_B)
    value_BMK, complement_BMK = coalitions.pair_values(phi_fn, images, mask_BMN)
    both = jnp.concatenate([value_BMK, complement_BMK], axis=1)  # [B, 2M, K]
    loss_masked = jnp.mean(optax.softmax_cross_entropy(both, targets_BK[:, None]))
    loss_shapley = shapley_loss(phi_BNK, mask_BMN, value_BMK, complement_BMK, axis_name=axis_name)
    loss = loss_classification + settings.masked_weight * loss_masked + settings.weight * loss_shapley
    masked_accuracy = jnp.mean(jnp.argmax(both, axis=-1) == labels_B[:, None])
    return loss, LossParts(loss, loss_classification, loss_masked, loss_shapley, accuracy, masked_accuracy)
