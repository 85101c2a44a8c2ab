"""What metrics ask of their input; each check is a line where a metric begins."""

import chex
import numpy as np

from shapjax.errors import UserError


def require_shape(what: str, array: chex.Array, expected: tuple[int | None, ...], axes: str) -> None:
    """Raises UserError unless an array has a shape; None stands for any length. Usable while tracing.

    Args:
      what, axes: for the message: what the array is, what its axes are.
    """
    shape = tuple(array.shape)
    if len(shape) != len(expected) or any(e not in (None, s) for s, e in zip(shape, expected, strict=True)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise UserError(f"the {what} have shape {shape}, expected ({wanted}): [{axes}]")


def require_finite(attributions: chex.Array, name: str) -> None:
    """Raises UserError if attributions hold NaN or infinity, which have no place in a ranking. Call it outside of jit.

    Args:
      attributions: float [B, N].
      name: of the method, for the message.
    """
    require_shape(f"attributions of {name}", attributions, (None, None), "images, patches")
    bad = np.flatnonzero(~np.isfinite(np.asarray(attributions, np.float64)).all(axis=1))
    if bad.size:
        first = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
        raise UserError(f"the attributions of {name} are not finite for {bad.size} of {attributions.shape[0]} images "
                        f"(rows {first}): leave these images out, or explain them with another method")


def require_targets(targets: np.ndarray, num_classes: int) -> None:
    """Raises UserError unless targets int [B] are classes, 0 … num_classes - 1. Call it outside of jit, where a target
    out of range would only show as NaN."""
    bad = np.flatnonzero((np.asarray(targets) < 0) | (np.asarray(targets) >= num_classes))
    if bad.size:
        raise UserError(f"target {targets[bad[0]]} of row {bad[0]} is no class: expected 0 to {num_classes - 1}")
