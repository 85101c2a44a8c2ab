"""A backbone's attention maps, features and relevance, as the functions that `games.classifier.Classifier` takes."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax.numpy as jnp

from shapjax.models import vit, vit_relevance


def probes(module: nn.Module) -> dict[str, Callable]:
    """Returns the optional functions of a `Classifier` that a backbone offers, by the name of their field.

    Each takes (params, images, …): params as `module.init` returns them under "params", images float [B, H, W, C],
    normalized. Logits are the sums of the patch logits, so the readout is "patches". L is the number of blocks, T that
    of tokens; the patches are the last of them.

    Returns:
      attention_fn: (params, images, delta) -> logits [B, K], attention maps [L, B, H, T, T]; delta of that shape or
        None. The maps are written out, which the model's ordinary pass avoids. Of a ViT.
      features_fn: (params, images, delta) -> logits [B, K], the last block's patch tokens or cells [B, gh, gw, D];
        delta likewise. Of every backbone.
      relevance_fn: (params, images, targets int [B]) -> relevance of the attention maps [L, B, H, T, T]. Of a ViT.
    """

    def attention_fn(params: chex.ArrayTree, images: chex.Array, delta: chex.Array | None
                     ) -> tuple[chex.Array, chex.Array]:
        patch_logits, maps = module.apply({"params": params}, images, delta, method="patch_logits_and_attention")
        return jnp.sum(patch_logits, axis=1), maps

    def features_fn(params: chex.ArrayTree, images: chex.Array, delta: chex.Array | None
                    ) -> tuple[chex.Array, chex.Array]:
        patch_logits, features = module.apply({"params": params}, images, delta, method="patch_logits_and_features")
        return jnp.sum(patch_logits, axis=1), features

    def relevance_fn(params: chex.ArrayTree, images: chex.Array, targets: chex.Array) -> chex.Array:
        return vit_relevance.attention_relevance(module, params, images, targets)

    if not isinstance(module, vit.ViT):
        return {"features_fn": features_fn}
    return {"attention_fn": attention_fn, "features_fn": features_fn, "relevance_fn": relevance_fn}
