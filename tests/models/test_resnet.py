"""The residual network: its published sizes, its norms, what is refused. Its game is in test_painted.py."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from shapjax.errors import UserError
from shapjax.models import resnet


@pytest.mark.parametrize(("name", "millions"), [("ResNet-18", 11.69), ("ResNet-34", 21.80), ("ResNet-50", 25.56)])
def test_variants_have_the_published_number_of_parameters(name, millions):
    module = resnet.ResNet(num_classes=1000, image_size=(224, 224), norm="affine", **resnet.VARIANTS[name])
    assert module.grid == (7, 7)
    shapes = models.param_shapes(module, image_shape=(224, 224, 3))
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_an_affine_norm_is_a_batch_norm_whose_statistics_are_fixed(rng):
    x, mean, scale, bias = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 3, 3, 4), 4, 4, 4))
    variance = jnp.asarray(rng.uniform(0.5, 2, size=4), jnp.float32)
    factor = scale / jnp.sqrt(variance + 1e-5)
    folded = {"scale": factor, "bias": bias - mean * factor}
    y = resnet.Affine(jnp.float32).apply({"params": folded}, x)
    np.testing.assert_allclose(y, (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias, atol=1e-5)


def test_no_image_knows_what_else_is_in_its_batch(rng):
    """Why there is no batch norm: a coalition's value would depend on the other coalitions."""
    images = jnp.asarray(rng.normal(size=(3, 8, 8, 1)), jnp.float32)
    for norm in resnet.NORMS:
        module = resnet.ResNet(num_classes=2, image_size=(8, 8), patch_size=2, width=16, stages=(0, 1), norm=norm,
                               head_init="default")
        params = models.init_params(module, jax.random.key(0), image_shape=(8, 8, 1))
        apply = jax.jit(module.apply)
        alone, together = (apply({"params": params}, x)[0] for x in (images[:1], images))
        np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(("norm", "far_votes_change"), [("group", True), ("cell", False), ("affine", False)])
def test_only_group_norm_lets_a_patch_change_votes_beyond_its_receptive_field(rng, norm, far_votes_change):
    module = resnet.ResNet(num_classes=2, image_size=(32, 32), patch_size=4, width=16, stages=(0, 1), stem="4x4",
                           norm=norm, head_init="default")
    params = models.init_params(module, jax.random.key(0), image_shape=(32, 32, 1))
    image = jnp.asarray(rng.normal(size=(1, 32, 32, 1)), jnp.float32)
    images = jnp.concatenate([image, image.at[0, :4, :4].add(3.0)])  # another first patch
    first, second = jax.jit(module.apply)({"params": params}, images).reshape(2, 8, 8, 2)
    assert np.abs(first - second)[0, 0].max() > 1e-3
    assert (np.abs(first - second)[4:, 4:].max() > 1e-6) == far_votes_change  # the field is 16 pixels wide


@pytest.mark.parametrize(("changes", "message"), [
    ({"patch_size": 4}, r"model.stages=\(1, 1, 1, 1\) with model.patch_size=4: expected patches of .* = 8 pixels"),
    ({"stem": "7x7"}, "= 32 pixels with model.stem=7x7"),
    ({"stages": (1, 1, 0, 1)}, "at least one block a stage"),
    ({"stages": ()}, "at least one block a stage"),
    ({"width": 20}, "expected a multiple of 16"),
    ({"norm": "batch"}, "expected one of group, cell, affine"),
    ({"stem": "5x5"}, "expected one of 3x3, 4x4, 7x7"),
    ({"painting": "red"}, "expected one of mean, zero, blur"),
])
def test_impossible_sizes_are_explained(changes, message):
    c = config.default_config()
    c.model.update({"backbone": "resnet", "patch_size": 8, "width": 16, "stages": (1, 1, 1, 1)} | changes)
    with pytest.raises(UserError, match="--config.*" + message) as e:
        config.validate(config.resolve(c), image_shape=(16, 24, 2), num_devices=1)
    assert "\n" not in str(e.value)


def test_a_module_that_cannot_be_is_refused_as_well():
    module = resnet.ResNet(num_classes=2, image_size=(8, 8), patch_size=8)
    with pytest.raises(UserError, match="expected patches of .* = 4 pixels"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_its_stages_survive_json():
    c = config.default_config()
    c.model.stages = (0, 2)
    again = config.from_dict(json.loads(json.dumps(c.to_dict())))
    assert again.model.stages == (0, 2)
    assert config.differences(c.to_dict(), again.to_dict()) == []
