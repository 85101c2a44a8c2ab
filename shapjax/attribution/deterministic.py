"""Methods that draw nothing and explain images in passes: `method` makes one of a function of the images of a pass."""

import functools
from collections.abc import Callable

import chex

from shapjax.games.classifier import Classifier
from shapjax.games.contract import of_images
from shapjax.games.passes import in_passes


def method(explain: Callable[[Classifier, chex.Array, chex.Array], chex.Array]) -> Callable[..., chex.Array]:
    """Makes an attribution method that checks its arguments, compiles, and takes its images in passes.

    Args:
      explain: (model, images [R, H, W, C], targets int [R]) -> [R, N], each row depending on its own image alone.

    Returns:
      (model, images [B, H, W, C], targets int [B], key=None, *, batch_size=256) -> [B, N], with the docstring of
      `explain`. A pass takes at most batch_size images, and bounds the memory; key is ignored. Raises ValueError if an
      argument does not fit.
    """
    def explain_all(model: Classifier, images: chex.Array, targets: chex.Array, key: chex.PRNGKey | None = None, *,
                    batch_size: int = 256) -> chex.Array:
        return in_passes(functools.partial(explain, model), images, targets, batch_size=batch_size)

    functools.update_wrapper(explain_all, explain, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    del explain_all.__wrapped__  # the signature is that of explain_all
    return of_images("batch_size")(explain_all)
