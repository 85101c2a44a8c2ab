"""Plans by the names of Hugging Face's transformers for ViT, DeiT, DINOv2 and SigLIP, in old and new files."""

import re
from typing import Any

from shapjax.pretrained import architecture
from shapjax.pretrained.architecture import normalization
from shapjax.pretrained.recipes import Recipes, torch_linear, torch_norm
from shapjax.pretrained.vit_plan import READS_CLS, Plan, torch_patch_sizes, torch_patches, torch_qkv
from shapjax.pretrained.weights import Weights

_VIT_PATCHES, _SIGLIP_PATCHES = "embeddings.patch_embeddings.projection", "embeddings.patch_embedding"
_LAYOUTS = {"vit": "ViT", "deit": "DeiT", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2 with registers",
            "siglip": "SigLIP", "siglip_vision_model": "SigLIP"}


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    for name in weights:
        for patches, of_model in ((_VIT_PATCHES, _vit), (_SIGLIP_PATCHES, _siglip)):
            if name.endswith(f"{patches}.weight"):
                return of_model(weights, name.removesuffix(f"{patches}.weight"))
    return None


def _vit(weights: Weights, prefix: str) -> Plan | None:
    """Returns the plan of ViT, DeiT, DINOv2; prefix: of the names, "vit.", "deit.", …, or "" without a classifier."""
    embeddings = f"{prefix}embeddings."
    block = next((block for block in (f"{prefix}encoder.layer.{{}}.", f"{prefix}layers.{{}}.")
                  if any(name.startswith(block.format(0)) for name in weights)), None)
    if block is None:
        return None
    has = {name.removeprefix(block.format(0)) for name in weights}
    attention, out = ((f"{block}attention.attention.", f"{block}attention.output.dense")
                      if "attention.attention.query.weight" in has else
                      (f"{block}attention.", f"{block}attention.o_proj"))
    parts = ("query", "key", "value") if "attention.attention.query.weight" in has else ("q_proj", "k_proj", "v_proj")
    norms = ("norm1", "norm2") if "norm1.weight" in has else ("layernorm_before", "layernorm_after")
    mlp = ("mlp.fc1", "mlp.fc2") if "intermediate.dense.weight" not in has else ("intermediate.dense", "output.dense")
    scales = [f"{block}layer_scale{i}.lambda1" if "layer_scale1.lambda1" in has else None for i in (1, 2)]
    dino = bool(scales[0])

    prefix_tokens = [f"{embeddings}cls_token"]
    prefix_tokens += [f"{embeddings}{name}" for name in ("distillation_token", "register_tokens")
               if f"{embeddings}{name}" in weights]
    sizes = torch_patch_sizes(f"{prefix}{_VIT_PATCHES}", weights.shapes[f"{prefix}{_VIT_PATCHES}.weight"])
    head, head_note = _head(weights, sizes["width"])
    return Plan(
        **_known(weights.config, "vit", sizes["patch_size"], norm_epsilon=1e-6 if dino else 1e-12, activation="gelu"),
        **sizes, mean=normalization(weights)[0], std=normalization(weights)[1],
        top=torch_patches(f"{prefix}{_VIT_PATCHES}") | torch_norm(("norm",), f"{prefix}layernorm") | head,
        block=torch_norm(("norm1",), block + norms[0]) | torch_norm(("norm2",), block + norms[1])
        | torch_qkv(tuple(attention + part for part in parts), bias=f"{attention}{parts[0]}.bias".format(0) in weights)
        | torch_linear(("attention", "out"), out, scale=scales[0])
        | torch_linear(("mlp_in",), block + mlp[0]) | torch_linear(("mlp_out",), block + mlp[1], scale=scales[1]),
        block_prefix=block, prefix_tokens=tuple(prefix_tokens), class_token=True,
        positions=f"{embeddings}position_embeddings",
        ignored=rf"({re.escape(prefix)})?pooler\.|{re.escape(embeddings)}mask_token|distillation_classifier\.",
        head_note=head_note)


def _siglip(weights: Weights, prefix: str) -> Plan | None:
    """Returns the plan of SigLIP's vision tower: no CLS token; a classifier reads the mean of the tokens."""
    block, patches = f"{prefix}encoder.layers.{{}}.", f"{prefix}{_SIGLIP_PATCHES}"
    if f"{prefix}embeddings.class_embedding" in weights or f"{block.format(0)}self_attn.q_proj.weight" not in weights:
        return None  # CLIP's tower
    config = weights.config.get("vision_config", weights.config)
    sizes = torch_patch_sizes(patches, weights.shapes[f"{patches}.weight"])
    return Plan(
        **_known(config, "siglip", sizes["patch_size"], norm_epsilon=1e-6, activation="gelu_tanh"), **sizes,
        mean=normalization(weights)[0], std=normalization(weights)[1],
        top=torch_patches(patches) | torch_norm(("norm",), f"{prefix}post_layernorm")
        | (torch_linear(("head",), "classifier") if "classifier.weight" in weights else {}),
        block=torch_norm(("norm1",), f"{block}layer_norm1") | torch_norm(("norm2",), f"{block}layer_norm2")
        | torch_qkv(tuple(f"{block}self_attn.{part}_proj" for part in "qkv"), bias=True)
        | torch_linear(("attention", "out"), f"{block}self_attn.out_proj")
        | torch_linear(("mlp_in",), f"{block}mlp.fc1") | torch_linear(("mlp_out",), f"{block}mlp.fc2"),
        block_prefix=block, prefix_tokens=(), class_token=False,
        positions=f"{prefix}embeddings.position_embedding.weight",
        ignored=rf"{re.escape(prefix)}(head|embeddings\.position_ids)|text_model\.|logit_(scale|bias)$")


def _head(weights: Weights, width: int) -> tuple[Recipes, str]:
    """Returns the recipes of the classifier, none if there is none, and the note on it."""
    name = next((name for name in ("classifier", "cls_classifier") if f"{name}.weight" in weights), None)
    if name is None:
        return {}, ""
    head = torch_linear(("head",), name)
    if weights.shapes[f"{name}.weight"][-1] == 2 * width:  # DINOv2's reads CLS and the mean of the patches
        kernel = head["head", "kernel"]
        head["head", "kernel"] = kernel._replace(make=lambda x: (x[:, :width] + x[:, width:]).T)
    return head, READS_CLS


def _known(config: dict[str, Any], default: str, patch_size: int, *, norm_epsilon: float, activation: str
           ) -> dict[str, Any]:
    """Returns fields of `Plan` from the config, or else the model's defaults."""
    kind = str(config.get("model_type", default))
    size = config.get("image_size")
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    grid = (height // patch_size, width // patch_size) if isinstance(height, int) and isinstance(width, int) else None
    return dict(layout=f"Hugging Face {_LAYOUTS.get(kind, kind)}", grid=grid, heads=config.get("num_attention_heads"),
                activation=architecture.activation(config, activation),
                norm_epsilon=config.get("layer_norm_eps", norm_epsilon))
