"""Plans by the names of Hugging Face's transformers for ViT, DeiT, DINOv2 and SigLIP, in old and new files."""

import re
from typing import Any

from shapjax.pretrained import architecture
from shapjax.pretrained.architecture import Plan, conv_sizes, size
from shapjax.pretrained.recipes import prefix_of, torch_linear, torch_norm
from shapjax.pretrained.vit import READS_CLS, grid_from, make_plan, torch_blocks, torch_patches
from shapjax.pretrained.weights import Weights

_VIT_PATCHES, _SIGLIP_PATCHES = "embeddings.patch_embeddings.projection", "embeddings.patch_embedding"
_LAYOUTS = {"vit": "ViT", "deit": "DeiT", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2 with registers",
            "siglip": "SigLIP", "siglip_vision_model": "SigLIP"}


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    for patches, of_model in ((_VIT_PATCHES, _vit), (_SIGLIP_PATCHES, _siglip)):
        if (prefix := prefix_of(weights, f"{patches}.weight")) is not None:
            return of_model(weights, prefix)
    return None


def _vit(weights: Weights, prefix: str) -> Plan | None:
    """Returns the plan of ViT, DeiT, DINOv2; prefix: of the names, "vit.", "deit.", …, or "" without a classifier."""
    blocks = next((start for start in (f"{prefix}encoder.layer.", f"{prefix}layers.")
                   if any(name.startswith(f"{start}0.") for name in weights)), None)
    if blocks is None:
        return None

    def has(layer: str) -> bool:
        return f"{blocks}0.{layer}" in weights

    old = has("attention.attention.query.weight")
    qkv = tuple(f"attention.attention.{part}" for part in ("query", "key", "value")) if old else tuple(
        f"attention.{part}_proj" for part in "qkv")
    table = torch_patches(prefix + _VIT_PATCHES) | torch_norm("norm", f"{prefix}layernorm") | torch_blocks(
        weights, blocks, qkv=qkv, out="attention.output.dense" if old else "attention.o_proj",
        norms=("norm1", "norm2") if has("norm1.weight") else ("layernorm_before", "layernorm_after"),
        mlp=("intermediate.dense", "output.dense") if has("intermediate.dense.weight") else ("mlp.fc1", "mlp.fc2"),
        scales=("layer_scale1.lambda1", "layer_scale2.lambda1"))
    sizes = conv_sizes(weights, f"{prefix}{_VIT_PATCHES}.weight")
    head = next((name for name in ("classifier", "cls_classifier") if f"{name}.weight" in weights), None)
    if head:
        table |= torch_linear("head", head)
        if size(weights, f"{head}.weight") == 2 * sizes[0]:  # DINOv2's reads CLS and the mean of the patches
            table["head/kernel"] = table["head/kernel"]._replace(make=lambda x: (x[:, :sizes[0]] + x[:, sizes[0]:]).T)
    embeddings, dino = f"{prefix}embeddings.", has("layer_scale1.lambda1")
    prefix_tokens = [f"{embeddings}{part}" for part in ("distillation_token", "register_tokens")
                     if f"{embeddings}{part}" in weights]
    return make_plan(
        weights, table, sizes=sizes, blocks=blocks, positions=f"{embeddings}position_embeddings",
        prefix_tokens=[f"{embeddings}cls_token", *prefix_tokens],
        antialias=f"{embeddings}register_tokens" in weights,  # of transformers' models only DINOv2 with registers does
        ignored=rf"({re.escape(prefix)})?pooler\.|{re.escape(embeddings)}mask_token|distillation_classifier\.",
        head_note=READS_CLS if head else "",
        **_of_config(weights.config, "vit", sizes, norm_epsilon=1e-6 if dino else 1e-12, activation="gelu"))


def _siglip(weights: Weights, prefix: str) -> Plan | None:
    """Returns the plan of SigLIP's vision tower: no CLS token; a classifier reads the mean of the tokens."""
    blocks, patches = f"{prefix}encoder.layers.", f"{prefix}{_SIGLIP_PATCHES}"
    if f"{prefix}embeddings.class_embedding" in weights or f"{blocks}0.self_attn.q_proj.weight" not in weights:
        return None  # CLIP's tower
    sizes = conv_sizes(weights, f"{patches}.weight")
    table = torch_patches(patches) | torch_norm("norm", f"{prefix}post_layernorm") | torch_blocks(
        weights, blocks, norms=("layer_norm1", "layer_norm2"), qkv=tuple(f"self_attn.{part}_proj" for part in "qkv"),
        out="self_attn.out_proj", mlp=("mlp.fc1", "mlp.fc2"))
    if "classifier.weight" in weights:
        table |= torch_linear("head", "classifier")
    return make_plan(
        weights, table, sizes=sizes, blocks=blocks, positions=f"{prefix}embeddings.position_embedding.weight",
        prefix_tokens=[], antialias=False,
        ignored=rf"{re.escape(prefix)}(head|embeddings\.position_ids)|text_model\.|logit_(scale|bias)$",
        **_of_config(weights.config.get("vision_config", weights.config), "siglip", sizes, norm_epsilon=1e-6,
                     activation="gelu_tanh"))


def _of_config(config: dict[str, Any], default: str, sizes: tuple[int, int, int], *, norm_epsilon: float,
               activation: str) -> dict[str, Any]:
    """Returns arguments of `make_plan` from the config, or else the model's defaults."""
    kind = str(config.get("model_type", default))
    return dict(layout=f"Hugging Face {_LAYOUTS.get(kind, kind)}", grid=grid_from(config.get("image_size"), sizes[-1]),
                heads=config.get("num_attention_heads"), activation=architecture.activation(config, activation),
                norm_epsilon=config.get("layer_norm_eps", norm_epsilon))
