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


def interpolate(positions_ND: np.ndarray, old: tuple[int, int], new: tuple[int, int], *, antialias: bool
                ) -> np.ndarray:
    """Interpolates positions to another grid as torch's `interpolate(mode="bicubic")` does, which weights were made by.

    Args:
      positions_ND: float [N, D], N = gh·gw of the old grid.
      old, new: grids (gh, gw).
      antialias: average where the grid gets coarser, with Keys's (1981) a = -0.5; else take the four nearest positions
        each way, with a = -0.75.

    Returns:
      float [N, D], N of the new grid.
    """
    if tuple(old) == tuple(new):
        return positions_ND
    d = positions_ND.shape[-1]
    positions = positions_ND.reshape(*old, d)
    if antialias:
        return np.asarray(jax.image.resize(positions, (*new, d), method="cubic", antialias=True)).reshape(-1, d)
    rows, columns = (_bicubic(*sizes) for sizes in zip(old, new, strict=True))
    return np.einsum("Yy,Xx,yxd->YXd", rows, columns, positions, optimize=True).astype(np.float32).reshape(-1, d)


def _bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Returns the weights [new, old] of bicubic interpolation without antialiasing; the border is repeated."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((new, old))
    for tap in (-1, 0, 1, 2):
        x = np.abs(place - first - tap)
        value = np.where(x <= 1, ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), value)
    return weights


def sincos(grid: Sequence[int], width: int) -> np.ndarray:
    """Returns the fixed positions float32 [N, D] of MoCo v3 (Chen et al. 2021), which big_vision does not store.

    They are sin and cos of the column, then of the row, at D/4 frequencies from 1 to 1/10 000.
    """
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    angles = columns * frequencies, rows * frequencies
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)
