"""The positions of a ViT: which of them belong to which tokens, and on another grid."""

import math
from collections.abc import Sequence

import jax
import numpy as np


def grid_of(rows: int, *, silent: int, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]] | None:
    """How many of the rows of positions belong to prefix tokens, and the grid (gh, gw) of the others.

    Args:
      rows: of the array of positions.
      silent: tokens before the patches (CLS, registers). The rows are of all of them, of the first, or of none.
      grid: (gh, gw) that the weights' config speaks of; None: it does not. Without, or where it does not fit, a square.

    Returns:
      None if no number fits.
    """
    candidates = [(prefix, rows - prefix) for prefix in (silent, min(silent, 1), 0) if rows > prefix]
    for prefix, patches in candidates:
        if grid and math.prod(grid) == patches:
            return prefix, grid
    for prefix, patches in candidates:
        if (side := math.isqrt(patches)) ** 2 == patches:
            return prefix, (side, side)
    return None


def interpolate(positions_ND: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Positions [N, D] of a grid on another, by bicubic interpolation, antialiased where the grid gets coarser.

    As torch's `interpolate(mode="bicubic", antialias=True)`: Keys 1981 with a = -0.5.
    """
    if tuple(old) == tuple(new):
        return positions_ND
    d = positions_ND.shape[-1]
    resized = jax.image.resize(positions_ND.reshape(*old, d), (*new, d), method="cubic", antialias=True)
    return np.asarray(resized).reshape(-1, d)


def sincos(grid: Sequence[int], width: int) -> np.ndarray:
    """Fixed positions [N, D], as of MoCo v3 (Chen et al. 2021) in big_vision, which does not store them: sin and cos of
    the column, then of the row, at D/4 frequencies from 1 to 1/10 000."""
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    angles = columns * frequencies, rows * frequencies
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
