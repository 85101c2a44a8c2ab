"""From a trained module and its parameters to a game over images, and to predictions with their explanation."""

import functools
from collections.abc import Callable, Sequence

import chex
import jax
from flax import linen as nn

from shapjax.games import classifier, coalitions, error_law, shapley
from shapjax.games.classifier import Classifier
from shapjax.models import probes as model_probes
from shapjax.models.preprocessing import normalize


def classifier_of(module: nn.Module, params: chex.ArrayTree, mean: Sequence[float], std: Sequence[float]) -> Classifier:
    """Returns a module as a game: its own way to hide patches, a coalition and its complement together.

    Args:
      module: a backbone of `shapjax.models`.
      params: of the module.
      mean, std: one number a channel, in units of [0, 1]; images are normalized with them.

    Returns:
      a classifier of images float [B, H, W, C] in [0, 1], or uint8 of that shape.
    """

    def logits_fn(params: chex.ArrayTree, images: chex.Array) -> chex.Array:
        return module.without_explainer.apply({"params": params}, normalize(images, mean, std)).sum(axis=1)

    def phi_fn(params: chex.ArrayTree, images: chex.Array, segment_ids: chex.Array | None = None) -> chex.Array:
        return module.apply({"params": params}, normalize(images, mean, std), segment_ids)

    def pair_fn(params: chex.ArrayTree, images: chex.Array, mask_BN: chex.Array) -> tuple[chex.Array, chex.Array]:
        values, complements = coalitions.pair_values(functools.partial(phi_fn, params), images, mask_BN[:, None])
        return values[:, 0], complements[:, 0]

    def coalition_fn(params: chex.ArrayTree, images: chex.Array, mask_BN: chex.Array) -> chex.Array:
        if module.pair_passes == 1:  # packed: the complement comes for free
            return pair_fn(params, images, mask_BN)[0]
        patch_logits_BNK = module.apply({"params": params}, normalize(images, mean, std), mask_BN,
                                        method="visible_patch_logits")
        return shapley.coalition_sums(patch_logits_BNK, mask_BN[:, None])[0][:, 0]

    def on_pixels(fn: Callable) -> Callable:
        return lambda params, images, argument: fn(params, normalize(images, mean, std), argument)

    return classifier.wrap(
        logits_fn, params, grid=module.grid, removal=None, pair_fn=pair_fn, coalition_fn=coalition_fn,
        pair_passes=module.pair_passes, phi_fn=phi_fn, pixel_range=(0.0, 1.0),
        **{name: on_pixels(fn) for name, fn in model_probes.probes(module).items()})


def explanation(model: Classifier, images: chex.Array, masks: chex.Array | None = None,
                differences: chex.Array | None = None) -> dict[str, chex.Array]:
    """Predicts and explains in one forward pass; with coalition pairs, refines the Shapley values. For tracing.

    Args:
      model: from `classifier_of`; with an error law, if there are pairs.
      images: uint8 [B, H, W, C], or floats in [0, 1].
      masks: bool [B, M, N]; None: there are no pairs.
      differences: float [B, M, K], v(S) − v(S^c) of these.

    Returns:
      logits float32 [B, K], shapley float32 [B, gh, gw, K], which sum to the logits, and probabilities float32 [B, K];
      with an error law standard_error, as shapley, and its freedom float32 [B] (`error_law.Refined`).
    """
    phi_BNK = model.phi(images)
    (b, _, k), logits_BK = phi_BNK.shape, phi_BNK.sum(axis=1)
    out = {"logits": logits_BK, "probabilities": jax.nn.softmax(logits_BK)}
    if model.error_law is None:
        return out | {"shapley": phi_BNK.reshape(b, *model.grid, k)}
    if masks is None:
        refined = jax.vmap(functools.partial(error_law.without_pairs, model.error_law))(phi_BNK)
    else:
        refined = jax.vmap(functools.partial(error_law.refine, model.error_law))(phi_BNK, masks, differences, logits_BK)
    return out | {"shapley": refined.values.reshape(b, *model.grid, k), "freedom": refined.freedom,
                  "standard_error": refined.standard_errors.reshape(b, *model.grid, k)}
