"""What attribution methods check of their arguments: shapes and types only, so it happens while jit traces."""

import chex
import jax
import jax.numpy as jnp

from shapjax.errors import UserError
from shapjax.games.classifier import OUTPUTS


def check_arguments(images: chex.Array, targets: chex.Array | None = None, *, key: chex.PRNGKey | None = None,
                    batch_size: int = 1, output: str = "logit", coalitions: tuple[int, ...] = ()) -> None:
    """Raises UserError unless these fit together.

    Args:
      images: [B, H, W, C], B of at least 1.
      targets: int [B]; None for methods of all classes.
      key: one typed key or [B] of them; None for deterministic methods.
      batch_size: at least 1.
      output: a key of `classifier.OUTPUTS`.
      coalitions: numbers of sampled coalitions, each even.
    """
    if images.ndim != 4 or not images.shape[0]:
        raise UserError(f"images are {list(images.shape)}, expected [B, H, W, C] with B of at least 1")
    b = images.shape[0]
    if targets is not None and (targets.shape != (b,) or not jnp.issubdtype(targets.dtype, jnp.integer)):
        raise UserError(f"targets are {targets.dtype} {list(targets.shape)}, expected one class number an image, "
                        f"int [{b}]")
    if key is not None and (not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in ((), (b,))):
        raise UserError(f"key is {key.dtype} {list(key.shape)}, expected one jax.random.key(seed), or one for each of "
                        f"the {b} image(s)")
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1")
    if output not in OUTPUTS:
        raise UserError(f"output is {output!r}, expected one of {', '.join(OUTPUTS)}")
    for number in coalitions:
        if number < 2 or number % 2:
            raise UserError(f"{number} coalitions were asked for, expected an even number of at least 2: they come in "
                            "complementary pairs")
