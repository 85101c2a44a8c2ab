"""What tests of pretrained weights share: torch models with random parameters, ours made of their files."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch

from shapjax import models
from shapjax.config import default_config
from shapjax.models import vit
from shapjax.pretrained import loading


class Loaded(NamedTuple):
    """A model with the parameters that weights give it."""

    architecture: Any
    module: vit.ViT
    params: Any
    report: loading.Report

    def features_and_logits(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The patch tokens [B, N, D] after the last norm, and the sums of the votes [B, K]."""
        def both(module: vit.ViT, images: Any) -> Any:
            x, _ = module.blocks(*module.sequence(module.embed(images)), None)
            x = x[:, -module.num_patches:]
            return module.norm(x), module.read(x).sum(axis=1)

        return jax.device_get(jax.jit(functools.partial(self.module.apply, method=both))({"params": self.params},
                                                                                         images))


@pytest.fixture(scope="session")
def load():
    """load(path, image_shape=None, num_classes=None, new_head=False): the model that the weights describe, loaded; a
    head is only expected where they have one."""

    def load(path, *, image_shape=None, num_classes=None, new_head=False):
        architecture = loading.describe(str(path))
        image_shape = image_shape or (*architecture.image_size, architecture.channels)
        settings = default_config().model
        with settings.unlocked():
            settings.update(architecture.settings)
        num_classes = num_classes or architecture.num_classes or 3
        module = models.build(settings, image_shape=image_shape, num_classes=num_classes,
                              mean=(0.5,) * image_shape[2], std=(0.25,) * image_shape[2])
        params, report = loading.load(str(path), module, image_shape=image_shape, num_classes=num_classes,
                                      new_head=new_head)
        if "head" not in params:  # as a run makes it anew: zeros
            shapes = models.param_shapes(module, image_shape=image_shape)["head"]
            params["head"] = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return Loaded(architecture, module, params, report)

    return load


@pytest.fixture(scope="session")
def randomised():
    """A torch module with random parameters, none of them what a fresh one has anywhere: norms, biases, tokens."""

    def randomise(module: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.data = 0.2 * noise + (not name.endswith("bias"))
            else:
                parameter.data = noise * parameter[0].numel() ** -0.5
        return module.eval()

    return randomise


@pytest.fixture(scope="session")
def pixels():
    """pixels(height, width, channels=3): two random images [2, H, W, C]."""

    def make(height, width, channels=3):
        return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype(np.float32)

    return make
