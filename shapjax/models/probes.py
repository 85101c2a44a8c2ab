"""What a backbone shows of its inside, in the form that `shapjax.classifier.Classifier` takes."""

from collections.abc import Callable

import chex
import flax.linen as nn

from shapjax.models import vit, vit_relevance


def probes(module: nn.Module) -> dict[str, Callable]:
    """The optional functions of a `Classifier` that a backbone offers, by the name of their field.

    Each takes (params, images, …): params as `module.init` returns them under "params", images float [B, H, W, C],
    normalized. Logits are the sums of the votes, so the readout is "patches". L blocks, T tokens, the patches last.

    Returns:
      attention_fn: (params, images, delta) -> logits [B, K], attention maps [L, B, H, T, T]; delta of that shape or
        None. The maps are written out, which the model's ordinary pass avoids.
      features_fn: (params, images, delta) -> logits [B, K], the last block's patch tokens or cells [B, gh, gw, D];
        delta likewise. Of every backbone; the others are a ViT's.
      relevance_fn: (params, images, targets int [B]) -> relevance of the attention maps [L, B, H, T, T].
    """

    def attention_fn(params: chex.ArrayTree, images: chex.Array, delta: chex.Array | None
                     ) -> tuple[chex.Array, chex.Array]:
        votes, maps = module.apply({"params": params}, images, delta, method="patch_logits_and_attention")
        return votes.sum(axis=1), maps

    def features_fn(params: chex.ArrayTree, images: chex.Array, delta: chex.Array | None
                    ) -> tuple[chex.Array, chex.Array]:
        votes, features = module.apply({"params": params}, images, delta, method="patch_logits_and_features")
        return votes.sum(axis=1), features

    def relevance_fn(params: chex.ArrayTree, images: chex.Array, targets: chex.Array) -> chex.Array:
        return vit_relevance.attention_relevance(module, params, images, targets)

    if not isinstance(module, vit.ViT):
        return {"features_fn": features_fn}
    return {"attention_fn": attention_fn, "features_fn": features_fn, "relevance_fn": relevance_fn}
