"""Backbones whose head gives every patch its votes: pure Flax modules (images, sides) -> phi, and how to build one."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from shapjax.models import resnet, vit

BACKBONES = {"vit": vit.ViT, "resnet": resnet.ResNet}


def build(settings: Any, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The module that a config's `model` part describes.

    Args:
      settings: `config.model`, resolved.
      image_shape: (H, W, C) of the images.
      num_classes: K.
    """
    backbone = BACKBONES[settings.backbone]
    known = {field.name for field in dataclasses.fields(backbone)} - {"dtype"}
    sizes = {key: value for key, value in settings.items() if key in known}
    return backbone(num_classes=num_classes, image_size=tuple(image_shape[:2]), dtype=jnp.dtype(settings.dtype),
                    **sizes)


def init_params(module: nn.Module, key: chex.PRNGKey, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Fresh parameters, float32."""
    return jax.jit(module.init)(key, jnp.zeros((1, *image_shape)))["params"]


def param_shapes(module: nn.Module, *, image_shape: tuple[int, int, int]) -> chex.ArrayTree:
    """Shapes and dtypes of the parameters (`jax.ShapeDtypeStruct`), without computing any."""
    return jax.eval_shape(lambda: init_params(module, jax.random.key(0), image_shape=image_shape))
