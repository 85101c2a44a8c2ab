"""Packed evaluation: a model's logits of a coalition and its complement in one forward pass.

A coalition S and its complement partition the patches. When tokens attend only to tokens of their own segment, one pass
gives every patch its logits in the game of its own segment, so the pass holds both v(S) and v(S^c), exactly.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# A pure function (images [B, ...], segment_ids bool [B, N] or None) -> float [B, N, K]. Without segment_ids it returns
# phi. With them it returns patch logits, each of which depends on the patches of its own segment alone.
PhiFn = Callable[[chex.Array, chex.Array | None], chex.Array]


def pair_patch_logits(phi_fn: PhiFn, images: chex.Array, masks: chex.Array) -> chex.Array:
    """Returns patch logits, each in the game of its own segment: one packed pass a pair, vmapped over the pairs.

    Args:
      phi_fn: see `PhiFn`.
      images: [B, ...], whatever phi_fn takes.
      masks: bool [B, M, N], True = member of S.

    Returns:
      float [B, M, N, K]: patch_logits(x_S)_n of the members of S, patch_logits(x_{S^c})_n of the others.
    """
    if masks.shape[1] == 1:  # a map over one pair costs a step on a CPU transposed copies, a fifth of its time
        return phi_fn(images, masks[:, 0])[:, None]
    return jax.vmap(lambda mask_BN: phi_fn(images, mask_BN), in_axes=1, out_axes=1)(masks)


def pair_sums(patch_logits_BMNK: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Returns v(S) and v(S^c), float [B, M, K] each: v(S) = Σ_{n∈S} patch_logits(x_S)_n, hence v(∅) = 0.

    Sums, not products with the masks: accelerators compute products of float32 in short formats.

    Args:
      patch_logits_BMNK: float [B, M, N, K], of `pair_patch_logits`.
      masks: bool [B, M, N].
    """
    inside_BMN1 = masks[..., None]
    return (jnp.sum(jnp.where(inside_BMN1, patch_logits_BMNK, 0), axis=2),
            jnp.sum(jnp.where(inside_BMN1, 0, patch_logits_BMNK), axis=2))


def pair_values(phi_fn: PhiFn, images: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Returns the values of coalitions and of their complements, v(S) and v(S^c), float [B, M, K] each.

    Arguments as of `pair_patch_logits`.
    """
    return pair_sums(pair_patch_logits(phi_fn, images, masks), masks)
