"""Relevance propagation through the vision transformer: its forward pass again, in operations that carry relevance."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.models import relevance, vit
from shapjax.models.layers import ACTIVATIONS, PatchHead, final_norm


def attention_relevance(module: vit.ViT, params: chex.ArrayTree, images: chex.Array, targets: chex.Array) -> chex.Array:
    """Computes the relevance of every attention map for the target class, in float32.

    Chefer, Gur and Wolf, CVPR 2021, sections 3.1 and 3.2. The logit of the target is the sum of N patch logits, each a
    linear layer's output at that patch's token. Every one of them starts with relevance 1, as the class token's logit
    does in the paper. (Splitting a single 1 among them in proportion would divide by a logit of either sign.) An image
    thus has N in total, in every layer.

    Args:
      module: the model.
      params: its parameters, as `module.init` returns them under "params".
      images: float [B, H, W, C], normalized.
      targets: int [B].

    Returns:
      float32 [L, B, H, T, T], of the maps as `ViT.patch_logits_and_attention` orders them.
    """
    module = module.clone(dtype=jnp.float32)
    tokens, _ = module.apply({"params": params}, images, method=lambda module, x: module.sequence(module.embed(x)))
    b, t, _ = tokens.shape
    delta = jnp.zeros((module.depth, b, module.heads, t, t), jnp.float32)
    _, pullback = jax.vjp(lambda delta: patch_logits(module, params, tokens, delta), delta)
    one_hot_BK = jax.nn.one_hot(targets, module.num_classes, dtype=jnp.float32)
    return pullback(jnp.broadcast_to(one_hot_BK[:, None], (b, module.num_patches, module.num_classes)))[0]


def patch_logits(module: vit.ViT, params: chex.ArrayTree, tokens: chex.Array, delta: chex.Array) -> chex.Array:
    """Returns patch logits float32 [B, N, K]; `jax.vjp` of this function propagates relevance instead of gradients.

    Args:
      module, params: as of `attention_relevance`, of float32.
      tokens: float32 [B, T, D], of `ViT.sequence`.
      delta: float32 [L, B, H, T, T], added to the attention maps; receives their relevance.
    """
    block = jax.checkpoint(functools.partial(_block, module=module), prevent_cse=False)
    x, _ = jax.lax.scan(block, tokens, (params["blocks"], delta))
    last = final_norm(module.norm_place, epsilon=module.norm_epsilon)
    x = _norm(last, x[:, -module.num_patches:], params["norm"])
    return relevance.linear(x, *_head(module, params["head"]))


def _block(x_BTD: chex.Array, layer: tuple, *, module: vit.ViT) -> tuple[chex.Array, None]:
    """Computes `transformer.Block`, as the body of a scan over the layers' (params, delta)."""
    params, delta_BHTT = layer
    norm = nn.LayerNorm(module.norm_epsilon)
    attention = params["attention"] | {"out": _scaled(params["attention"]["out"], params.get("layer_scale1"))}
    y = _attention(_norm(norm, x_BTD, params["norm1"]), attention, delta_BHTT, module.heads)
    x_BTD = relevance.add(x_BTD, y)
    y = _linear(_norm(norm, x_BTD, params["norm2"]), params["mlp_in"])
    y = relevance.elementwise(ACTIVATIONS[module.activation], y)
    y = _linear(y, _scaled(params["mlp_out"], params.get("layer_scale2")))
    return relevance.add(x_BTD, y), None


def _attention(x_BTD: chex.Array, params: chex.ArrayTree, delta_BHTT: chex.Array, heads: int) -> chex.Array:
    b, t, d = x_BTD.shape
    q, k, v = jnp.moveaxis(_linear(x_BTD, params["qkv"]).reshape(b, t, 3, heads, d // heads), 2, 0)
    scores_BHTT = relevance.product("bthd,bshd->bhts", q, k)
    maps_BHTT = relevance.elementwise(lambda scores: jax.nn.softmax(scores * (d // heads) ** -0.5), scores_BHTT)
    y = relevance.product("bhts,bshd->bthd", maps_BHTT + delta_BHTT, v)
    return _linear(y.reshape(b, t, d), params["out"])


def _linear(x: chex.Array, params: chex.ArrayTree) -> chex.Array:
    return relevance.linear(x, params["kernel"], params["bias"])


def _scaled(params: chex.ArrayTree, layer_scale_D: chex.Array | None) -> chex.ArrayTree:
    """Returns a linear layer's parameters times those of the LayerScale after it."""
    return params if layer_scale_D is None else {name: x * layer_scale_D for name, x in params.items()}


def _norm(norm: nn.Module, x: chex.Array, params: chex.ArrayTree) -> chex.Array:
    return relevance.elementwise(lambda x: norm.apply({"params": params}, x), x)


def _head(module: vit.ViT, params: chex.ArrayTree) -> tuple[chex.Array, chex.Array]:
    """Returns kernel [D, K] and bias [K] of the head together with its scale and centering."""
    head = PatchHead(module.num_classes, scale=module.head_scale, center=module.center)
    return tuple(head.follow(params[name], module.num_patches) for name in ("kernel", "bias"))
