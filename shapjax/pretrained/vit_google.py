"""Plans by the names in Google's .npz files, of vision_transformer (AugReg, …) or big_vision; blocks may be stacked."""

import numpy as np

from shapjax.errors import UserError
from shapjax.pretrained.recipes import Recipe, Recipes
from shapjax.pretrained.vit_plan import READS_CLS, Plan
from shapjax.pretrained.weights import Weights

# Before the names: nothing, or their place in the training state of big_vision or of its SigLIP.
_PREFIXES = ("", "params/", "opt/target/", "params/img/", "opt/target/img/")


def plan(weights: Weights) -> Plan | None:
    """Returns the plan; None: the names follow another scheme."""
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}embedding/kernel" in weights and any(
        name.startswith(f"{prefix}Transformer/encoderblock") for name in weights)), None)
    if prefix is None:
        return None
    encoder = f"{prefix}Transformer/"
    stacked = any(name.startswith(f"{encoder}encoderblock/") for name in weights)
    block = f"{encoder}encoderblock/" if stacked else f"{encoder}encoderblock_{{}}/"
    first = {name.removeprefix(block.format(0)) for name in weights}
    # vision_transformer numbers a block's parts together, big_vision each kind by itself.
    attention, norm2, mlp = (("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
                             if "LayerNorm_2/scale" in first else
                             ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"))
    kernel, query = weights.shapes[f"{prefix}embedding/kernel"], f"{block.format(0)}{attention}/query/kernel"
    if len(kernel) != 4 or kernel[0] != kernel[1]:
        raise UserError(f"tensor {prefix}embedding/kernel is {list(kernel)}, expected [p, p, channels, width] for "
                        "square patches")
    positions = next((name for name in (f"{encoder}posembed_input/pos_embedding", f"{prefix}pos_embedding")
                      if name in weights), None)
    cls, head = f"{prefix}cls" in weights, f"{prefix}head/kernel" in weights
    between = next((part for part in ("pre_logits", "MAPHead_0") if any(
        name.startswith(f"{prefix}{part}/") for name in weights)), None)
    return Plan(
        layout="Google ViT", mean=(0.5,) * kernel[2], std=(0.5,) * kernel[2], patch_size=kernel[0], channels=kernel[2],
        width=kernel[3],
        top={("embedding", "kernel"): Recipe((f"{prefix}embedding/kernel",), lambda x: x.reshape(-1, x.shape[-1])),
             ("embedding", "bias"): Recipe((f"{prefix}embedding/bias",))}
        | _norm(("norm",), f"{encoder}encoder_norm")
        | (_dense(("head",), f"{prefix}head") if head and not between else {}),
        block=_norm(("norm1",), f"{block}LayerNorm_0") | _norm(("norm2",), f"{block}{norm2}")
        | _attention(f"{block}{attention}", kernel[3])
        | _dense(("mlp_in",), f"{block}{mlp}/Dense_0") | _dense(("mlp_out",), f"{block}{mlp}/Dense_1"),
        block_prefix=block, prefix_tokens=(f"{prefix}cls",) if cls else (), class_token=cls, positions=positions,
        grid=None, heads=weights.shapes[query][-2] if query in weights else None, activation="gelu_tanh",
        norm_epsilon=1e-6,
        ignored=rf"{prefix}(pre_logits|MAPHead_0|head)/|(params|opt/target)/(txt/|[tb]$)|opt/(?!target/)",
        head_note=f"the head follows {between}, which is not linear, and is left out" if head and between else
        READS_CLS if head and cls else "",
        stacked=stacked)


def _norm(path: tuple[str, ...], name: str) -> Recipes:
    """Returns the recipes of Flax's LayerNorm."""
    return {(*path, part): Recipe((f"{name}/{part}",)) for part in ("scale", "bias")}


def _dense(path: tuple[str, ...], name: str) -> Recipes:
    """Returns the recipes of Flax's Dense."""
    return {(*path, part): Recipe((f"{name}/{part}",)) for part in ("kernel", "bias")}


def _attention(name: str, width: int) -> Recipes:
    """Returns the recipes of kernels [D, H, d] of queries, keys, values and [H, d, D] of the output, and of biases."""
    parts = ("query", "key", "value")
    return {
        ("attention", "qkv", "kernel"): Recipe(
            tuple(f"{name}/{part}/kernel" for part in parts),
            lambda *x: np.concatenate([part.reshape(width, -1) for part in x], axis=1)),
        ("attention", "qkv", "bias"): Recipe(
            tuple(f"{name}/{part}/bias" for part in parts), lambda *x: np.concatenate([part.ravel() for part in x])),
        ("attention", "out", "kernel"): Recipe((f"{name}/out/kernel",), lambda x: x.reshape(-1, width)),
        ("attention", "out", "bias"): Recipe((f"{name}/out/bias",))}
