"""Plans by timm's names for ViT and DeiT, which the code of DINOv2's and other authors shares."""

import re

from shapjax.errors import UserError
from shapjax.pretrained.architecture import Plan, conv_sizes
from shapjax.pretrained.recipes import torch_linear, torch_norm
from shapjax.pretrained.vit import READS_CLS, grid_from, make_plan, torch_blocks, torch_patches
from shapjax.pretrained.weights import Weights

# Attention heads and activations, by the model's name, that no tensor shows.
_HEADS = {"vit_base_patch16_gap_224": 16, "test_vit": 2, "test_vit2": 2, "test_vit3": 3}
_TANH = r"vit_(base_patch32_siglip|large_patch16_siglip(_gap)?_512|so400m_patch16_siglip|giantopt_patch16_siglip)"


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    if not {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= weights.keys():
        return None
    config = weights.config
    name, arguments = str(config.get("architecture", "")), config.get("model_args") or {}
    if "_rpn_" in name:
        raise UserError(f"weights {weights.path} are of {name}, whose norms follow the attention; use weights of a "
                        "plain ViT")
    if {"norm.weight", "fc_norm.weight"} <= weights.keys():
        raise UserError(f"weights {weights.path} have both norm and fc_norm before their head; use weights with one")
    sizes = conv_sizes(weights, "patch_embed.proj.weight")
    pool, norm = _pool(weights, name), "fc_norm" if "fc_norm.weight" in weights else "norm"
    table = torch_patches("patch_embed.proj", bias="patch_embed.proj.bias" in weights) | torch_norm("norm", norm)
    table |= torch_blocks(weights, "blocks.", norms=("norm1", "norm2"), qkv=("attn.qkv",), out="attn.proj",
                          mlp=("mlp.fc1", "mlp.fc2"), scales=("ls1.gamma", "ls2.gamma"))
    if "norm_pre.weight" in weights:
        table |= torch_norm("norm_in", "norm_pre")
    head_note = ""
    if "head.weight" in weights:
        if pool in ("avg", "token"):
            table |= torch_linear("head", "head")
            head_note = READS_CLS if pool == "token" else ""
        else:
            head_note = f"the head follows pooling by {pool} and is left out"
    return make_plan(
        weights, table, sizes=sizes, layout="timm ViT", blocks="blocks.",
        prefix_tokens=[key for key in ("cls_token", "dist_token", "reg_token") if key in weights],
        positions="pos_embed",
        grid=grid_from(arguments.get("img_size") or (config.get("pretrained_cfg") or {}).get("input_size"), sizes[-1]),
        heads=arguments.get("num_heads") or _HEADS.get(name),
        activation="quick_gelu" if "quickgelu" in name else "gelu_tanh" if re.match(_TANH, name) else "gelu",
        norm_epsilon=1e-5 if "_clip_" in name else 1e-6,
        norm_place="pooled" if norm == "fc_norm" and pool == "avg" else "token",
        ignored=r"head_dist\.|attn_pool\.|mask_token$|head\.", head_note=head_note)


def _pool(weights: Weights, name: str) -> str:
    """Returns how timm pools the tokens: "token" (CLS), "avg", "map" (by attention), …."""
    said = weights.config.get("global_pool")
    if said:
        return said
    if any(key.startswith("attn_pool.") for key in weights):
        return "map"
    return "avg" if "_gap_" in name or "fc_norm.weight" in weights or "cls_token" not in weights else "token"
