"""How a model evaluates coalitions: packed, a coalition and its complement in one forward pass.

A coalition S and its complement partition the patches. When tokens attend only to tokens of their own side, one pass
gives every patch the vote that it casts in the game of its own side, so the pass holds both v(S) and v(S^c), exactly.

`phi_fn` below is any pure function (images [B, ...], segment_ids bool [B, N] or None) -> votes [B, N, K] in which a patch's
vote depends on the patches of its own side alone.
"""

from collections.abc import Callable

import chex
import jax

from shapjax.games import shapley

PhiFn = Callable[[chex.Array, chex.Array | None], chex.Array]


def pair_patch_logits(phi_fn: PhiFn, images: chex.Array, masks: chex.Array) -> chex.Array:
    """Votes of the patches, each in the game of its own side, one packed pass a pair, vmapped over the pairs.

    Args:
      phi_fn: see the module.
      images: [B, ...], whatever phi_fn takes.
      masks: bool [B, M, N], True = member of S.

    Returns:
      float [B, M, N, K]: phi(x_S)_n of the members of S, phi(x_{S^c})_n of the others.
    """
    return jax.vmap(lambda mask_BN: phi_fn(images, mask_BN), in_axes=1, out_axes=1)(masks)


def pair_sums(votes: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """v(S) and v(S^c), float [B, M, K] each, of votes [B, M, N, K] as `pair_patch_logits` gives them for masks [B, M, N].

    v(S) = Σ_{n∈S} phi(x_S)_n: a hidden patch casts no vote, so v(∅) = 0.
    """
    return jax.tree.map(lambda x: x[:, :, 0], jax.vmap(shapley.coalition_sums, in_axes=1, out_axes=1)(
        votes, masks[:, :, None]))


def pair_values(phi_fn: PhiFn, images: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Values of coalitions and of their complements, v(S) and v(S^c), float [B, M, K]; arguments as of `pair_patch_logits`."""
    return pair_sums(pair_patch_logits(phi_fn, images, masks), masks)
