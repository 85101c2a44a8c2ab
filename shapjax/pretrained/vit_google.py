"""Plans by the names of Google's vision_transformer and big_vision, written by Flax; blocks may be stacked."""

import numpy as np

from shapjax.pretrained.architecture import Plan, conv_sizes
from shapjax.pretrained.recipes import Recipe, Recipes, count_blocks, of_blocks
from shapjax.pretrained.vit import READS_CLS, make_plan
from shapjax.pretrained.weights import Weights

# Before the names: nothing, or their place in the training state of big_vision or of its SigLIP.
_PREFIXES = ("", "params/", "opt/target/", "params/img/", "opt/target/img/")


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embedding/kernel" in weights and any(
        name.startswith(f"{prefix}Transformer/encoderblock") for name in weights)), None)
    if prefix is None:
        return None
    blocks = f"{prefix}Transformer/encoderblock"
    depth = count_blocks(weights, f"{blocks}_") or None  # None: the tensors are [L, ...], those of all blocks
    block, first = (f"{blocks}_{{}}/", f"{blocks}_0/") if depth else (f"{blocks}/", f"{blocks}/")
    # vision_transformer numbers a block's parts together, big_vision each kind by itself.
    attention, norm2, mlp = (("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
                             if f"{first}LayerNorm_2/scale" in weights else
                             ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"))
    width, channels, patch_size = conv_sizes(weights, f"{prefix}embedding/kernel", flax=True)
    table = {"embedding/kernel": Recipe((f"{prefix}embedding/kernel",), lambda x: x.reshape(-1, x.shape[-1])),
             "embedding/bias": Recipe((f"{prefix}embedding/bias",))}
    table |= _norm("norm", f"{prefix}Transformer/encoder_norm")
    table |= of_blocks(
        _norm("norm1", f"{block}LayerNorm_0") | _norm("norm2", block + norm2) | _attention(block + attention)
        | _dense("mlp_in", f"{block}{mlp}/Dense_0") | _dense("mlp_out", f"{block}{mlp}/Dense_1"), "blocks", depth)
    between = next((part for part in ("pre_logits", "MAPHead_0") if any(
        name.startswith(f"{prefix}{part}/") for name in weights)), None)
    prefix_tokens = [name for name in (f"{prefix}cls",) if name in weights]
    head_note = ""
    if f"{prefix}head/kernel" in weights:
        if between:
            head_note = f"the head follows {between}, which is not linear, and is left out"
        else:
            table |= _dense("head", f"{prefix}head")
            head_note = READS_CLS if prefix_tokens else ""
    made = make_plan(
        weights, table, sizes=(width, channels, patch_size), layout="Google ViT", blocks=blocks,
        prefix_tokens=prefix_tokens,
        positions=next((name for name in (f"{prefix}Transformer/posembed_input/pos_embedding",
                                          f"{prefix}pos_embedding") if name in weights), None),
        grid=None, heads=weights.shapes.get(f"{first}{attention}/query/kernel", (None, None))[-2],
        activation="gelu_tanh", norm_epsilon=1e-6,
        ignored=rf"{prefix}(pre_logits|MAPHead_0|head)/|(params|opt/target)/(txt/|[tb]$)|opt/(?!target/)",
        head_note=head_note)
    half = (0.5,) * channels
    return made._replace(architecture=made.architecture._replace(mean=half, std=half))


def _norm(path: str, name: str) -> Recipes:
    """Returns the recipes of Flax's LayerNorm."""
    return {f"{path}/{part}": Recipe((f"{name}/{part}",)) for part in ("scale", "bias")}


def _dense(path: str, name: str) -> Recipes:
    """Returns the recipes of Flax's Dense."""
    return {f"{path}/{part}": Recipe((f"{name}/{part}",)) for part in ("kernel", "bias")}


def _attention(name: str) -> Recipes:
    """Returns the recipes of kernels [D, H, d] of queries, keys, values and [H, d, D] of the output, and of biases.

    All may have a first axis [L, ...], that of the blocks.
    """
    def joined(*heads: np.ndarray) -> np.ndarray:
        return np.concatenate([x.reshape(*x.shape[:-2], -1) for x in heads], axis=-1)

    return {f"attention/qkv/{part}": Recipe(tuple(f"{name}/{x}/{part}" for x in ("query", "key", "value")), joined)
            for part in ("kernel", "bias")} | {
        "attention/out/kernel": Recipe((f"{name}/out/kernel",), lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1])),
        "attention/out/bias": Recipe((f"{name}/out/bias",))}
