"""Checks of arguments: what does not fit becomes a `ValueError` of one line.

All but `require_finite` and `require_targets` look at shapes and types only, so they run while jit traces.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from shapjax.errors import UserError


def require_shape(what: str, array: chex.Array, expected: tuple[int | None, ...], axes: str) -> None:
    """Raises ValueError unless an array has a shape; None stands for any length.

    Args:
      what, axes: for the message: names of the array and of its axes.
    """
    try:
        chex.assert_shape(array, expected)
    except AssertionError:  # its message has several lines
        wanted = ", ".join("any" if length is None else str(length) for length in expected)
        raise ValueError(f"the {what} have shape {array.shape}, expected ({wanted}): [{axes}]") from None


def require_positive(**counts: int) -> None:
    """Raises ValueError unless every count is at least 1; the message has its name."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")


def require_arguments(num_images: int, *, key: chex.PRNGKey | None = None, batch_size: int = 1,
                      coalitions: tuple[int, ...] = ()) -> None:
    """Raises ValueError unless the arguments of an attribution method, besides images and targets, fit together.

    Args:
      num_images: B, at least 1.
      key: one typed key or [B] of them; None for deterministic methods.
      batch_size: at least 1.
      coalitions: numbers of sampled coalitions, each even.
    """
    require_positive(**{"the number of images": num_images}, batch_size=batch_size)
    if key is not None and not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
                                and key.shape in ((), (num_images,))):
        found = f"{key.dtype} {list(key.shape)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"key is {found}, expected one jax.random.key(seed), or [{num_images}] of them")
    for number in coalitions:
        if number < 2 or number % 2:
            raise ValueError(f"{number} coalitions were asked for, expected an even number: they form pairs")


def require_finite(attributions: chex.Array, name: str) -> None:
    """Raises ValueError if attributions hold NaN or infinity, which have no place in a ranking. Call it outside of jit.

    Args:
      attributions: float [B, N].
      name: of the method, for the message.
    """
    require_shape(f"attributions of {name}", attributions, (None, None), "images, patches")
    bad = np.flatnonzero(~np.isfinite(np.asarray(attributions, np.float64)).all(axis=1))
    if bad.size:
        first = ", ".join(map(str, bad[:5])) + (", …" if bad.size > 5 else "")
        raise ValueError(f"the attributions of {name} are not finite for {bad.size} of {attributions.shape[0]} images "
                         f"(rows {first}): leave these images out, or explain them with another method")


def require_targets(targets: np.ndarray, num_classes: int, *, what: str = "targets") -> None:
    """Raises UserError unless targets int [B] are classes, 0 … num_classes - 1.

    Call it outside of jit. Inside, where no value can raise, a target out of range gives NaN.
    """
    number = np.asarray(targets).astype(np.int64)
    bad = np.flatnonzero((number < 0) | (number >= num_classes))
    if bad.size:
        raise UserError(f"{what.removesuffix('s')} {targets[bad[0]]} of row {bad[0]} is no class: expected 0 to "
                        f"{num_classes - 1}")
