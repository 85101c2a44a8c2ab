"""ConvNeXt: its published sizes, its pooled classifier as patch logits. Its game is in test_masked_conv.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import models
from shapjax.models import convnext
from tests.conftest import random_tree


@pytest.mark.parametrize(("name", "millions"), [
    ("ConvNeXt-T", 28.59), ("ConvNeXt-S", 50.22), ("ConvNeXt-B", 88.59), ("ConvNeXt-L", 197.77)])
def test_variants_have_the_published_number_of_parameters(name, millions):
    module = convnext.ConvNeXt(num_classes=1000, image_size=(224, 224), **convnext.VARIANTS[name])
    assert module.grid == (7, 7)
    shapes = models.param_shapes(module, image_shape=(224, 224, 3))
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_the_value_of_a_coalition_is_what_the_published_head_makes_of_its_cells():
    module = convnext.ConvNeXt(num_classes=3, image_size=(8, 12), patch_size=4, width=4, stages=(1,),
                               head_scale="mean", center=False)
    params = random_tree(models.param_shapes(module, image_shape=(8, 12, 1)), scale=0.3)
    apply = jax.jit(module.apply, static_argnames="method")
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 1))
    mask = jnp.array([[True, False, True, False, True, True], [True] * 6])
    patch_logits = apply({"params": params}, images, mask, method="visible_patch_logits")
    cells = apply({"params": params}, images, mask, method="features")
    for image, seen in enumerate(mask):
        pooled = nn.LayerNorm(1e-6).apply({"params": params["norm"]}, cells[image, seen].mean(axis=0))
        logits = pooled @ params["head"]["kernel"] + params["head"]["bias"]
        np.testing.assert_allclose(patch_logits[image, seen].sum(axis=0), logits * seen.sum() / 6, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(patch_logits[1], apply({"params": params}, images)[1], rtol=1e-4, atol=1e-5)
