"""The position embeddings of a ViT: their grid, interpolation to another grid, and fixed ones."""

import math
from collections.abc import Sequence

import jax
import numpy as np


def grid_of(rows: int, *, prefix_tokens: int, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]] | None:
    """Returns how many rows of an array of positions belong to prefix tokens, and the grid (gh, gw) of the others.

    Args:
      rows: of the array.
      prefix_tokens: number of tokens before the patches (CLS, registers). All of them have positions, or only the first
        one, or none.
      grid: (gh, gw) according to the weights' config; None: unknown. If it is unknown or does not fit, the grid is
        taken to be square.

    Returns:
      None if no grid fits.
    """
    candidates = [(prefix, rows - prefix) for prefix in (prefix_tokens, min(prefix_tokens, 1), 0) if rows > prefix]
    for prefix, patches in candidates:
        if grid and math.prod(grid) == patches:
            return prefix, grid
    for prefix, patches in candidates:
        if (side := math.isqrt(patches)) ** 2 == patches:
            return prefix, (side, side)
    return None


def interpolate(positions_ND: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Interpolates positions to another grid: bicubic, antialiased where the grid gets coarser.

    The same as torch's `interpolate(mode="bicubic", antialias=True)`: Keys 1981 with a = -0.5.

    Args:
      positions_ND: float [N, D], N = gh·gw of the old grid.
      old, new: grids (gh, gw).

    Returns:
      float [N, D], N of the new grid.
    """
    if tuple(old) == tuple(new):
        return positions_ND
    d = positions_ND.shape[-1]
    resized = jax.image.resize(positions_ND.reshape(*old, d), (*new, d), method="cubic", antialias=True)
    return np.asarray(resized).reshape(-1, d)


def sincos(grid: Sequence[int], width: int) -> np.ndarray:
    """Returns the fixed positions float32 [N, D] of MoCo v3 (Chen et al. 2021), which big_vision does not store.

    They are sin and cos of the column, then of the row, at D/4 frequencies from 1 to 1/10 000.
    """
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    angles = columns * frequencies, rows * frequencies
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
