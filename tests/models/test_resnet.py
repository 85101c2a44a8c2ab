"""The residual network: its published sizes, its norms. Its game is in test_masked_conv.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import models
from shapjax.models import resnet
from tests.conftest import random_tree


@pytest.mark.parametrize(("name", "millions"), [("ResNet-18", 11.69), ("ResNet-34", 21.80), ("ResNet-50", 25.56)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_variants_have_the_published_number_of_parameters(name, millions, batch_norm):
    module = resnet.ResNet(num_classes=1000, image_size=(224, 224), batch_norm=batch_norm, **resnet.VARIANTS[name])
    assert module.grid == (7, 7)
    shapes = models.param_shapes(module, image_shape=(224, 224, 3))
    assert shapes["stem"]["kernel"].shape == (7, 7, 3, 64)
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_the_small_form_halves_the_image_in_its_stem_and_once_a_stage():
    module = resnet.ResNet(num_classes=2, image_size=(32, 32), patch_size=8, width=16, stages=(1, 1, 1))
    shapes = models.param_shapes(module, image_shape=(32, 32, 3))
    assert not module.published and shapes["stem"]["kernel"].shape == (4, 4, 3, 16)
    assert module.clone(patch_size=16).published


def test_an_affine_norm_is_a_batch_norm_whose_statistics_are_fixed(rng):
    x, mean, scale, bias = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 3, 3, 4), 4, 4, 4))
    variance = jnp.asarray(rng.uniform(0.5, 2, size=4), jnp.float32)
    factor = scale / jnp.sqrt(variance + 1e-5)
    folded = {"scale": factor, "bias": bias - mean * factor}
    y = resnet.Affine(jnp.float32).apply({"params": folded}, x)
    np.testing.assert_allclose(y, (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias, atol=1e-5)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_patch_changes_nothing_beyond_its_receptive_field_and_no_other_image(rng, batch_norm):
    """A norm over the map or the batch would break this: a coalition's value would depend on others."""
    module = resnet.ResNet(num_classes=2, image_size=(32, 32), patch_size=4, width=16, stages=(0, 1),
                           batch_norm=batch_norm)
    params = random_tree(models.param_shapes(module, image_shape=(32, 32, 1)), scale=0.3)
    image = jnp.asarray(rng.normal(size=(1, 32, 32, 1)), jnp.float32)
    images = jnp.concatenate([image, image.at[0, :4, :4].add(3.0)])  # another first patch
    apply = jax.jit(module.apply)
    first, second = apply({"params": params}, images).reshape(2, 8, 8, 2)
    assert np.abs(first - second)[0, 0].max() > 1e-3
    np.testing.assert_allclose(first[4:, 4:], second[4:, 4:], atol=1e-6)  # the field is 16 pixels wide
    np.testing.assert_allclose(first, apply({"params": params}, images[::-1])[1].reshape(8, 8, 2), atol=1e-5)


def test_a_module_that_cannot_be_is_refused_when_it_is_first_used():
    module = resnet.ResNet(num_classes=2, image_size=(16, 8), patch_size=4)
    with pytest.raises(ValueError, match="expected .* = 8 pixels, or 16 as published"):
        module.init(jax.random.key(0), jnp.zeros((1, 16, 8, 1)))
