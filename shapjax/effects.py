"""What the presence of one patch does to the vote of another, within a window of the patch grid.

t[m, n] is the change of m's vote when n is seen beside it, on average over who else is. Beyond `reach` patches down or
across it is taken to be nothing: a vote depends on what its receptive field holds, most on what is near.

An array of effects is float [B, gh, gw, 2r+1, 2r+1, K]: at [b, y, x, r+i, r+j], what the patch at (y+i, x+j) does to
the vote of the patch at (y, x). Its middle and what lies outside of the grid mean nothing.
"""

import chex
import jax.numpy as jnp
import numpy as np


def on_others(effects: chex.Array) -> chex.Array:
    """Σ_m t[m, n], what each patch does to all other votes together: float [B, N, K]."""
    b, height, width, side, _, k = effects.shape
    r = side // 2
    total = jnp.zeros((b, height + 2 * r, width + 2 * r, k), effects.dtype)
    for i in range(side):
        for j in range(side):
            if (i, j) != (r, r):
                total = total.at[:, i:i + height, j:j + width].add(effects[:, :, :, i, j])
    return total[:, r:r + height, r:r + width].reshape(b, height * width, k)


def in_context(effects: chex.Array, masks: chex.Array) -> chex.Array:
    """How far a context moves a vote from its mean over contexts: Σ_n (z_n - q) t[m, n], z_n = 1 for n on m's side.

    q is the mean of z_n over contexts of 1 … N - 1 patches, each size alike, so that the mean of the result is 0.

    Args:
      effects: see the module.
      masks: bool [B, M, N], one coalition of each pair.

    Returns:
      float [B, M, N, K]: for every patch, in the coalition that it is in, of S and S^c.
    """
    b, height, width, side, _, k = effects.shape
    r, n, sign = side // 2, height * width, jnp.where(masks, 1.0, -1.0).reshape(b, -1, height, width)
    padded = jnp.pad(sign, ((0, 0), (0, 0), (r, r), (r, r)))
    near = jnp.stack([padded[:, :, i:i + height, j:j + width] for i in range(side) for j in range(side)], axis=-1)
    near *= sign[..., None] * (np.arange(side**2) != side**2 // 2)  # 1: on the same side, -1: not, 0: there is no such
    presence = (near > 0) - (n - 2) / (2 * (n - 1)) * jnp.abs(near)
    moved = jnp.einsum("bpyxo,byxok->bpyxk", presence, effects.reshape(b, height, width, side**2, k))
    return moved.reshape(b, -1, n, k)
