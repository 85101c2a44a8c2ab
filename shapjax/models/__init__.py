"""Backbones whose head gives every patch its votes: pure Flax modules (images, segment_ids) -> phi, and how to build one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.errors import UserError
from shapjax.models import convnext, resnet, vit
from shapjax.models.masked_conv import PAINTINGS, PaintedBackbone

BACKBONES = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt}
PAINTED = tuple(name for name, backbone in BACKBONES.items() if issubclass(backbone, PaintedBackbone))
_VARIANTS = {name: sizes | {"backbone": backbone}
             for backbone in PAINTED for name, sizes in BACKBONES[backbone].variants.items()}


def variant(name: str) -> dict[str, Any]:
    """What a named variant stands for: settings of `config.model`, the backbone and its sizes.

    Raises:
      UserError: if there is none of this name.
    """
    if name in _VARIANTS:
        return dict(_VARIANTS[name])
    try:
        return {"backbone": "vit"} | vit.variant(name)
    except UserError as e:
        raise UserError(f"{e}; without a patch size there are {', '.join(_VARIANTS)}") from e


def variant_of(settings: Mapping[str, Any]) -> str | None:
    """The named variant whose backbone and sizes these settings of `config.model` have; None: there is none."""
    names = [*_VARIANTS, *(f"{name}/{settings['patch_size']}" for name in vit.VARIANTS)]
    return next((name for name in names
                 if all(settings.get(key) == value for key, value in variant(name).items())), None)


def build(settings: Any, *, image_shape: tuple[int, int, int], num_classes: int, mean: Sequence[float],
          std: Sequence[float]) -> nn.Module:
    """The module that a config's `model` part describes.

    Args:
      settings: `config.model`, resolved.
      image_shape: (H, W, C) of the images.
      num_classes: K.
      mean, std: per channel, that the images are normalized with; they say what black is, where patches are painted.
    """
    backbone = BACKBONES[settings.backbone]
    known = {field.name for field in dataclasses.fields(backbone)} - {"dtype"}
    sizes = {key: value for key, value in settings.items() if key in known}
    if settings.backbone in PAINTED:
        sizes["removal"] = PAINTINGS[settings.painting](mean, std)
    return backbone(num_classes=num_classes, image_size=tuple(image_shape[:2]), dtype=jnp.dtype(settings.dtype),
                    **sizes)


def init_params(module: nn.Module, key: chex.PRNGKey, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Fresh parameters, float32."""
    return jax.jit(module.init)(key, jnp.zeros((1, *image_shape)))["params"]


def param_shapes(module: nn.Module, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Shapes and dtypes of the parameters (`jax.ShapeDtypeStruct`), without computing any."""
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0), image_shape=image_shape))
