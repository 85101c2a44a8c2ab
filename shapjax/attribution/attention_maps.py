"""Attributions from the attention maps of a transformer.

A map's row holds what its token attends to. `Classifier.attention_readout` says which rows the logits are read from:
"class_token" the row of token 0; "patches" the mean of the rows of all N patches. An attribution is the columns of the
N patches (the last of the T tokens) in that row.

Only this row of the product of the maps is needed, so a row vector is multiplied through the layers, last to first:
T² instead of T³ operations a layer.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution import deterministic
from shapjax.attribution.gradients import values_and_gradient
from shapjax.games.classifier import Classifier


@deterministic.method
def attention(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Returns raw attention: the last layer's map, mean over the heads. It is the same for every class.

    Args:
      model: a classifier with `attention_fn`.
      images: float [B, H, W, C].
      targets: int [B], ignored.
      key: ignored.
      batch_size: images a forward pass; bounds the memory.

    Returns:
      float32 [B, N], never negative.

    Raises:
      ValueError: if the model has no attention maps.
    """
    mean_BTT = jnp.mean(model.attention(images)[1][-1], axis=1)
    return jnp.einsum("t,bts->bs", _readout(model, mean_BTT.shape[-1]), mean_BTT)[:, -model.num_players:]


@deterministic.method
def rollout(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes attention rollout, Â_L ⋯ Â_1 with Â = (A + I) / 2 (Abnar and Zuidema 2020, equation 1).

    A is the mean over the heads, and I stands for the residual connection. It is the same for every class. Arguments,
    result and errors as in `attention`.
    """
    mean_LBTT = jnp.mean(model.attention(images)[1], axis=2)
    return _through_layers(model, mean_LBTT, lambda row, attended: (row + attended) / 2)


@deterministic.method
def gradient_rollout(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes gradient-weighted rollout: R ← R + Ā R from R = I, layer by layer, with Ā = E_heads[(∇A ⊙ A)⁺].

    Chefer, Gur and Wolf, "Generic attention-model explainability" (ICCV 2021), equations 5 and 6. ∇A is the gradient of
    the target class's logit with respect to the map. Arguments, result and errors as in `attention`, but each image's
    target is explained, and a pass is forward and backward.
    """
    maps_LBHTT, gradient_LBHTT = values_and_gradient(model.attention, images, targets)
    return _through_layers(model, jnp.mean(jax.nn.relu(gradient_LBHTT * maps_LBHTT), axis=2), jnp.add)


@deterministic.method
def relevance(model: Classifier, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes transformer attribution: the product over the layers of I + E_heads[(∇A ⊙ R)⁺].

    Chefer, Gur and Wolf, "Transformer interpretability beyond attention visualization" (CVPR 2021), equations 13 and
    14, multiplied last layer first as in the authors' code. R is the relevance of the map, `Classifier.relevance`.
    Arguments, result and errors as in `gradient_rollout`; the model needs `relevance_fn` too.
    """
    relevance_LBHTT = model.relevance(images, targets)
    _, gradient_LBHTT = values_and_gradient(model.attention, images, targets)
    return _through_layers(model, jnp.mean(jax.nn.relu(gradient_LBHTT * relevance_LBHTT), axis=2), jnp.add)


def _readout(model: Classifier, num_tokens: int) -> chex.Array:
    """Returns the weight of each token's row: [T]."""
    if model.attention_readout == "class_token":
        return jax.nn.one_hot(0, num_tokens, dtype=jnp.float32)
    is_patch = jnp.arange(num_tokens) >= num_tokens - model.num_players
    return is_patch.astype(jnp.float32) / model.num_players


def _through_layers(model: Classifier, maps_LBTT: chex.Array, combine: Callable) -> chex.Array:
    """Takes the readout row through all layers, row ← combine(row, row · map), last layer first: [B, N]."""
    def layer(row_BT: chex.Array, map_BTT: chex.Array) -> tuple[chex.Array, None]:
        return combine(row_BT, jnp.einsum("bt,bts->bs", row_BT, map_BTT)), None

    _, b, t, _ = maps_LBTT.shape
    row_BT, _ = jax.lax.scan(layer, jnp.broadcast_to(_readout(model, t), (b, t)), maps_LBTT, reverse=True)
    return row_BT[:, -model.num_players:]
