"""Backbones whose head gives every patch its logits: pure Flax modules (images, segment_ids) -> phi."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.models import blocks, convnext, layers, resnet, vit

AUTO = "auto"  # of dtype and remat: `training.machine` chooses for a run; else float32, and nothing computed again
# name -> format of activations, and how tokens are multiplied with kernels
DTYPES = {AUTO: (jnp.float32, None), "float32": (jnp.float32, None), "bfloat16": (jnp.bfloat16, None),
          "bfloat16_products": (jnp.float32, layers.bfloat16_dot_general)}
BACKBONES = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt}
CHOICES = {"backbone": BACKBONES, "dtype": DTYPES, "remat": (AUTO, *blocks.REMAT_POLICIES),
           "activation": layers.ACTIVATIONS, "norm_place": layers.NORM_PLACES, "head_scale": layers.HEAD_SCALES}
HEADS = ("head", "explainer")  # names of the parts that depend on the classes
_CONV_VARIANTS = {name: {"backbone": backbone} | sizes
                  for backbone, table in (("resnet", resnet.VARIANTS), ("convnext", convnext.VARIANTS))
                  for name, sizes in table.items()}


def variant(name: str) -> dict[str, Any]:
    """Returns the settings of a variant such as "S/16" or "ResNet-50": the backbone and its sizes.

    Raises:
      ValueError: if there is none of this name.
    """
    if name in _CONV_VARIANTS:
        return dict(_CONV_VARIANTS[name])
    if sizes := vit.variant(name):
        return {"backbone": "vit"} | sizes
    raise ValueError(f'variant={name}: expected one of {", ".join(vit.VARIANTS)} with a patch size, such as "S/16", or '
                     f"one of {', '.join(_CONV_VARIANTS)}")


def variant_of(settings: Mapping[str, Any]) -> str | None:
    """Returns the name of the variant whose backbone and sizes these settings have, None if there is none."""
    names = [*_CONV_VARIANTS, *(f"{name}/{settings['patch_size']}" for name in vit.VARIANTS)]
    return next((name for name in names
                 if all(settings.get(key) == value for key, value in variant(name).items())), None)


def build(settings: Mapping[str, Any], *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Returns the module that settings describe.

    Args:
      settings: those of `model` and `loaded` in `shapjax.config`, in one dict. A backbone takes those that it has.
      image_shape: (H, W, C) of the images.
      num_classes: K.

    Raises:
      ValueError: on the first setting that cannot work, "key=value …"; says why and which value would work.
    """
    for key, allowed in CHOICES.items():
        if settings[key] not in allowed:
            raise ValueError(f"{key}={settings[key]}: expected one of {', '.join(allowed)}")
    backbone = BACKBONES[settings["backbone"]]
    known = {field.name for field in dataclasses.fields(backbone)} - {"dtype"}
    dtype, dot_general = DTYPES[settings["dtype"]]
    if settings["remat"] == AUTO:
        settings = {**settings, "remat": "none"}
    module = backbone(num_classes=num_classes, image_size=tuple(image_shape[:2]), dtype=jnp.dtype(dtype),
                      dot_general=dot_general, **{key: value for key, value in settings.items() if key in known})
    module.check()
    return module


def init_params(module: nn.Module, key: chex.PRNGKey, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Returns new parameters, float32."""
    return jax.jit(module.init)(key, jnp.zeros((1, *image_shape), jnp.float32))["params"]


def param_shapes(module: nn.Module, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Returns shapes and dtypes of the parameters (`jax.ShapeDtypeStruct`), without computing any."""
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0), image_shape=image_shape))
