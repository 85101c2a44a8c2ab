"""Runs a model on a few images, to find what its shapes and types cannot tell."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from shapjax.errors import UserError
from shapjax.games import checks, contract

CHECKED_IMAGES = 4
CHANGE = 0.01  # of the largest logit: more than half precision makes of the order of summation
OTHER_PROGRAM = 0.05  # likewise, of the coalition of all patches: more than it makes of another program


def require_values(model: Any, images: Any) -> None:
    """Raises UserError on what shapes cannot tell; see `Classifier.check`."""
    images = contract.as_images(images, model.grid)[:CHECKED_IMAGES]
    checks.require_arguments(len(images))
    contract.require_range(model, images)
    if len(images) == 1:
        images = jnp.concatenate([images, (images[:, ::-1, ::-1] / 2).astype(images.dtype)])
    contract.num_classes(model, images)
    copies = jnp.repeat(images[:1], len(images), axis=0)
    first, again, alike = (np.asarray(model.logits(x)) for x in (images, images, copies))
    contract.require_finite_logits(first)
    tolerance = CHANGE * np.abs(first).max()
    if (change := np.abs(again - first).max()) > tolerance:
        raise UserError(f"two evaluations of the same images differ by up to {change:.2g}: wrap the model in "
                        f"evaluation mode, without dropout; {contract.WRAPPING}")
    if (change := np.abs(alike - first[:1]).max()) > tolerance:
        raise UserError(f"the logits of an image change by up to {change:.2g} with the other images of its batch, or "
                        "with its place: wrap the model in evaluation mode, without dropout and with the stored "
                        f"averages of batch normalization; {contract.WRAPPING}")
    if (first >= 0).all() and np.abs(first.sum(axis=1) - 1).max() < CHANGE:
        raise UserError("the model returns probabilities, expected logits: take what it has before the softmax, or "
                        f"wrap lambda p, x: jnp.log(f(p, x)); {contract.WRAPPING}")
    visible = np.ones((len(images), model.num_players), bool)
    visible[-1, ::2] = False
    values = np.asarray(model.coalition_logits(images, jnp.asarray(visible)))
    contract.require_finite_logits(values, "logits of coalitions")
    if (change := np.abs(values[:-1] - first[:-1]).max()) > OTHER_PROGRAM * np.abs(first).max():
        raise UserError(f"the coalition of all patches has other logits than the image, by up to {change:.2g}: True in "
                        "a mask is a visible patch, and both are of one model; of a surrogate for coalitions, wrap its "
                        f"own logits; {contract.WRAPPING}")
