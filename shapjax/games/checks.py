"""Checks of arguments: what does not fit becomes a `ValueError` of one line.

All but `require_finite` and `require_targets` look at shapes and types only, so they run while jit traces.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np


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


def require_arguments(images: chex.Array, targets: chex.Array | None = None, *, key: chex.PRNGKey | None = None,
                      batch_size: int = 1, coalitions: tuple[int, ...] = ()) -> None:
    """Raises ValueError unless the arguments of an attribution method fit together.

    Args:
      images: [B, H, W, C], B of at least 1.
      targets: int [B]; None for methods that explain all classes.
      key: one typed key or [B] of them; None for deterministic methods.
      batch_size: at least 1.
      coalitions: numbers of sampled coalitions, each even.
    """
    require_shape("images", images, (None,) * 4, "images, height, width, channels")
    b = images.shape[0]
    require_positive(**{"the number of images": b}, batch_size=batch_size)
    if targets is not None:
        require_shape("targets", targets, (b,), "images")
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise ValueError(f"the targets are {targets.dtype}, expected class numbers, int [{b}]")
    if key is not None and not (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape in ((), (b,))):
        raise ValueError(f"key is {key.dtype} {list(key.shape)}, expected one jax.random.key(seed), or [{b}] of them")
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


def require_targets(targets: np.ndarray, num_classes: int) -> None:
    """Raises ValueError unless targets int [B] are classes, 0 … num_classes - 1.

    Call it outside of jit. Inside, where no value can raise, a target out of range gives NaN.
    """
    bad = np.flatnonzero((np.asarray(targets) < 0) | (np.asarray(targets) >= num_classes))
    if bad.size:
        raise ValueError(f"target {targets[bad[0]]} of row {bad[0]} is no class: expected 0 to {num_classes - 1}")
