"""Shared by tests of pretrained weights: torch models with random parameters, our models loaded from their files."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from flax import linen as nn

from shapjax import config, models
from shapjax.models import vit
from shapjax.pretrained import loading


@functools.partial(jax.jit, static_argnums=0)
def _features_and_logits(module: nn.Module, params: Any, images: Any) -> tuple[Any, Any]:
    """Returns the last features, of a ViT after the last norm, and the sums of the patch logits."""
    def both(module: nn.Module, images: Any) -> tuple[Any, Any]:
        patch_logits_BNK, features = module.patch_logits_and_features(images)
        if isinstance(module, vit.ViT):
            features = module.norm(features.reshape(len(images), -1, features.shape[-1]), None)
        return features, patch_logits_BNK.sum(axis=1)

    return module.apply({"params": params}, images, method=both)


class Loaded(NamedTuple):
    """A model with the parameters that weights give it."""

    architecture: Any
    module: nn.Module
    params: Any
    report: loading.Report

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the last features, of a ViT [B, N, D] after the last norm, else [B, gh, gw, D], and logits [B, K]."""
        return jax.device_get(_features_and_logits(self.module, self.params, images))


@pytest.fixture(scope="session")
def load():
    """Returns load(path, …), which loads the model of weights; a head is expected only where they have one."""

    def load(path, *, image_shape=None, num_classes=None, class_names=None, new_head=False):
        architecture = loading.describe(str(path))
        image_shape = image_shape or (*architecture.image_size, architecture.channels)
        c = config.default_config()
        config.set_model(c, architecture.settings)
        num_classes = num_classes or architecture.num_classes or 3
        module = models.build(config.model_settings(c), image_shape=image_shape, num_classes=num_classes)
        names = class_names or architecture.class_names
        names = names if names and len(names) == num_classes else [f"class {i}" for i in range(num_classes)]
        params, report = loading.load(str(path), module, image_shape=image_shape, class_names=names, new_head=new_head)
        if "head" not in params:  # zeros, as a run makes it
            shapes = models.param_shapes(module, image_shape=image_shape)["head"]
            params["head"] = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return Loaded(architecture, module, params, report)

    return load


@pytest.fixture(scope="session")
def randomized():
    """Returns a function that gives a torch module random parameters, unlike those of a new one anywhere."""

    def randomize(module: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.data = 0.2 * noise + (not name.endswith("bias"))
            else:
                parameter.data = noise * parameter[0].numel() ** -0.5
        return module.eval()

    return randomize


@pytest.fixture(scope="session")
def pixels():
    """Returns pixels(height, width, channels=3), which makes two random images [2, H, W, C]."""

    def make(height, width, channels=3):
        return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)

    return make
