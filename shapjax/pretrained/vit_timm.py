"""Plans by timm's names for ViT and DeiT, which the code of DINOv2's and other authors shares."""

import re
from typing import Any

from shapjax.errors import UserError
from shapjax.pretrained.architecture import normalization
from shapjax.pretrained.recipes import Recipe, torch_linear, torch_norm
from shapjax.pretrained.vit_plan import READS_CLS, Plan, torch_patch_sizes, torch_patches, zeros
from shapjax.pretrained.weights import Weights

_BLOCK = "blocks.{}."
# Attention heads and activations, by the model's name, that no tensor shows.
_HEADS = {"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2, "test_vit3": 3}
_TANH = r"vit_(base_patch32_siglip|large_patch16_siglip(_gap)?_512|so400m_patch16_siglip|giantopt_patch16_siglip)"


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    if "patch_embed.proj.weight" not in weights or f"{_BLOCK.format(0)}attn.qkv.weight" not in weights:
        return None
    config = weights.config
    name, arguments = str(config.get("architecture", "")), config.get("model_args") or {}
    if "_rpn_" in name:
        raise UserError(f"weights {weights.path} are of {name}, whose norms follow the attention; use weights of a "
                        "plain ViT")
    first = {key.removeprefix(_BLOCK.format(0)) for key in weights}
    qkv, scales = f"{_BLOCK}attn.qkv", [f"{_BLOCK}ls{i}.gamma" if "ls1.gamma" in first else None for i in (1, 2)]
    sizes = torch_patch_sizes("patch_embed.proj", weights.shapes["patch_embed.proj.weight"])
    pool = _pool(weights, name)
    norm, place = ("fc_norm", "pooled" if pool == "avg" else "token") if "fc_norm.weight" in weights else (
        "norm", "token")
    if {"norm.weight", "fc_norm.weight"} <= weights.keys():
        raise UserError(f"weights {weights.path} have both norm and fc_norm before their head; use weights with one")
    kept = "head.weight" in weights and pool in ("avg", "token")
    lost = "head.weight" in weights and not kept
    return Plan(
        layout="timm ViT", mean=normalization(weights)[0], std=normalization(weights)[1], **sizes,
        top=torch_patches("patch_embed.proj", bias="patch_embed.proj.bias" in weights) | torch_norm(("norm",), norm)
        | (torch_norm(("norm_in",), "norm_pre") if "norm_pre.weight" in weights else {})
        | (torch_linear(("head",), "head") if kept else {}),
        block=torch_norm(("norm1",), f"{_BLOCK}norm1") | torch_norm(("norm2",), f"{_BLOCK}norm2")
        | {("attention", "qkv", "kernel"): Recipe((f"{qkv}.weight",), lambda x: x.T),
           ("attention", "qkv", "bias"): Recipe((f"{qkv}.bias",)) if "attn.qkv.bias" in first else zeros(
               f"{qkv}.weight")}
        | torch_linear(("attention", "out"), f"{_BLOCK}attn.proj", scale=scales[0])
        | torch_linear(("mlp_in",), f"{_BLOCK}mlp.fc1")
        | torch_linear(("mlp_out",), f"{_BLOCK}mlp.fc2", scale=scales[1]),
        block_prefix=_BLOCK,
        prefix_tokens=tuple(key for key in ("cls_token", "dist_token", "reg_token") if key in weights),
        class_token="cls_token" in weights, positions="pos_embed",
        grid=_grid(config, arguments, sizes["patch_size"]), heads=arguments.get("num_heads") or _HEADS.get(name),
        activation="quick_gelu" if "quickgelu" in name else "gelu_tanh" if re.match(_TANH, name) else "gelu",
        norm_epsilon=1e-5 if "_clip_" in name else 1e-6, norm_place=place,
        ignored=r"head_dist\.|attn_pool\.|mask_token$|head\.",
        head_note=READS_CLS if kept and pool == "token" else
        f"the head follows pooling by {pool} and is left out" if lost else "")


def _pool(weights: Weights, name: str) -> str:
    """Returns how timm pools the tokens: "token" (CLS), "avg", "map" (by attention), …."""
    said = weights.config.get("global_pool")
    if said:
        return said
    if any(key.startswith("attn_pool.") for key in weights):
        return "map"
    return "avg" if "_gap_" in name or "fc_norm.weight" in weights or "cls_token" not in weights else "token"


def _grid(config: dict[str, Any], arguments: dict[str, Any], patch_size: int) -> tuple[int, int] | None:
    """Returns the grid (gh, gw) according to the config; None: unknown."""
    size = arguments.get("img_size") or (config.get("pretrained_cfg") or {}).get("input_size")
    if isinstance(size, int):
        size = [size, size]
    return (size[-2] // patch_size, size[-1] // patch_size) if isinstance(size, list) and len(size) > 1 else None
