"""RISE (Petsiuk et al. 2018) on patches: the mean output over random images in which a patch is visible."""

import functools

import chex
import jax
import jax.numpy as jnp

from shapjax.attribution.arguments import check_arguments
from shapjax.games.classifier import Classifier, pair_values, row_keys, target_class


@functools.partial(jax.jit, static_argnames=("batch_size", "coalitions", "output"))
def rise(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey, *, batch_size: int = 256,
         coalitions: int = 2048, output: str = "probability") -> chex.Array:
    """Importance of a patch = Σ_m v(S_m) [n ∈ S_m] / (coalitions · 1/2), patches visible with probability 1/2 each
    (Petsiuk et al. 2018, equation 6).

    Differences from the paper's: masks hide whole patches instead of a smooth upsampled grid, and they come in
    complementary pairs (each of them is still uniform), so that a packed model needs half the passes.

    Args:
      model: the game.
      images: [B, H, W, C].
      targets: int [B].
      key: one, or [B].
      batch_size: pairs a forward pass.
      coalitions: how many masks, an even number.
      output: a key of `classifier.OUTPUTS`, the units of the result.

    Returns:
      float32 [B, N].

    Raises:
      UserError: if an argument does not fit.
    """
    check_arguments(images, targets, key=key, batch_size=batch_size, output=output, coalitions=(coalitions,))
    draw = functools.partial(jax.random.bernoulli, shape=(coalitions // 2, model.num_players))
    masks_BMN = jax.vmap(draw)(row_keys(key, images.shape[0]))
    v_BM, complement_BM = pair_values(model, images, masks_BMN, read=target_class(targets, output),
                                      batch_size=batch_size)
    seen_BMN = jnp.where(masks_BMN, v_BM[..., None], complement_BM[..., None])  # a patch is visible in one of the two
    return seen_BMN.sum(axis=1) / (coalitions / 2)
