"""How a model evaluates coalitions: packed, a coalition and its complement in one forward pass.

A coalition S and its complement partition the patches. When tokens attend only to tokens of their own side, one pass
gives every patch the vote that it casts in the game of its own side, so the pass holds both v(S) and v(S^c), exactly.

`phi_fn` below is any pure function (images [B, ...], sides bool [B, N] or None) -> votes [B, N, K] in which a patch's
vote depends on the patches of its own side alone.
"""

from collections.abc import Callable

import chex
import jax

from shapjax import shapley

PhiFn = Callable[[chex.Array, chex.Array | None], chex.Array]


def pair_values(phi_fn: PhiFn, images: chex.Array, masks: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Values of coalitions and of their complements, one packed pass a pair, vmapped over the pairs.

    v(S) = Σ_{n∈S} phi(x_S)_n: a hidden patch casts no vote, so v(∅) = 0.

    Args:
      phi_fn: see the module.
      images: [B, ...], whatever phi_fn takes.
      masks: bool [B, M, N], True = member of S.

    Returns:
      two float [B, M, K]: v(S) and v(S^c).
    """

    def one_pair(mask_BN):
        value_B1K, complement_B1K = shapley.coalition_sums(phi_fn(images, mask_BN), mask_BN[:, None])
        return value_B1K[:, 0], complement_B1K[:, 0]

    return jax.vmap(one_pair, in_axes=1, out_axes=1)(masks)
