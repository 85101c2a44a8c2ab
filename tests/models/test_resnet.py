"""The residual network: the game of painted patches, its shapes, what is refused."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import coalitions, config, models
from shapjax.errors import UserError
from shapjax.models import vit_probes

SHAPE = (16, 24, 2)


@pytest.fixture(scope="module")
def net():
    """A small network of 2 x 3 patches of 8 pixels, its votes (images, sides), and images."""
    c = config.default_config()
    c.model.update({"backbone": "resnet", "patch_size": 8, "width": 16, "stages": (1, 1, 1, 1), "head_init": "default"})
    module = models.build(config.resolve(c).model, image_shape=SHAPE, num_classes=3)
    params = models.init_params(module, jax.random.key(0), image_shape=SHAPE)
    images = jax.random.normal(jax.random.key(1), (4, *SHAPE))
    return module, params, images


@pytest.fixture(scope="module")
def votes(net):
    module, params, _ = net
    return jax.jit(lambda *arguments, method=None: module.apply({"params": params}, *arguments, method=method),
                   static_argnames="method")


def test_it_votes_for_every_patch_and_class(net, votes):
    module, _, images = net
    phi = votes(images, None)
    assert module.grid == (2, 3) and phi.shape == (4, 6, 3) and phi.dtype == jnp.float32
    np.testing.assert_allclose(phi.sum(axis=-1), 0, atol=1e-6)  # centred over the classes
    assert np.std(phi) > 1e-3


def test_hidden_pixels_do_not_matter(net, votes):
    _, _, images = net
    mask = jnp.array([[True, False, True, False, False, True]] * 4)
    hidden = ~jnp.repeat(jnp.repeat(mask.reshape(4, 2, 3), 8, axis=1), 8, axis=2)[..., None]
    seen = votes(images, mask, method="visible_votes")
    other = votes(jnp.where(hidden, 7.0, images), mask, method="visible_votes")
    np.testing.assert_array_equal(seen, other)
    assert np.abs(seen - votes(images, None)).max() > 1e-3  # but hiding them does


def test_a_pass_with_sides_is_two_painted_passes(net, votes):
    _, _, images = net
    sides = jax.random.bernoulli(jax.random.key(2), 0.5, (4, 6))
    ours, others = (votes(images, side, method="visible_votes") for side in (sides, ~sides))
    np.testing.assert_allclose(votes(images, sides), jnp.where(sides[..., None], ours, others), atol=1e-5)


def test_the_game_starts_at_zero_and_ends_at_the_prediction(net, votes):
    _, _, images = net
    whole, empty = coalitions.pair_values(votes, images, jnp.ones((4, 1, 6), bool))
    np.testing.assert_array_equal(empty, 0)
    np.testing.assert_allclose(whole[:, 0], votes(images, None).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_rematerialisation_changes_no_gradient(net, remat):
    module, params, images = net

    def gradient(module):
        return jax.jit(jax.grad(lambda p: jnp.sum(module.apply({"params": p}, images) ** 2)))(params)

    chex.assert_trees_all_close(gradient(module), gradient(module.clone(remat=remat)), rtol=1e-4, atol=1e-4)


def test_its_features_lead_to_its_votes(net):
    module, params, images = net
    probes = vit_probes.probes(module)
    assert probes.keys() == {"features_fn"}  # nothing attends
    logits, features = probes["features_fn"](params, images, None)
    assert features.shape == (4, 2, 3, 128)
    moved, _ = probes["features_fn"](params, images, jnp.ones_like(features))
    np.testing.assert_allclose(logits, module.apply({"params": params}, images).sum(axis=1), atol=1e-5)
    assert np.abs(moved - logits).max() > 1e-3


def test_images_of_another_size_are_refused(net):
    module, params, _ = net
    with pytest.raises(UserError, match=r"takes images \[B, 16, 24, C\], got \[1, 24, 16, 2\]"):
        module.apply({"params": params}, jnp.zeros((1, 24, 16, 2)))


@pytest.mark.parametrize(("changes", "message"), [
    ({"patch_size": 4}, r"stages=\(1, 1, 1, 1\) with --config.model.patch_size=4: expected 3 stages"),
    ({"stages": (1, 1, 0, 1)}, "at least one block each"),
    ({"width": 20}, "expected a multiple of 16"),
])
def test_impossible_sizes_are_explained(changes, message):
    c = config.default_config()
    c.model.update({"backbone": "resnet", "patch_size": 8, "width": 16, "stages": (1, 1, 1, 1)} | changes)
    with pytest.raises(UserError, match=message):
        config.validate(config.resolve(c), image_shape=SHAPE, num_devices=1)


def test_its_stages_survive_json():
    c = config.default_config()
    c.model.stages = (0, 2)
    again = config.from_dict(json.loads(json.dumps(c.to_dict())))
    assert again.model.stages == (0, 2)
    assert config.differences(c.to_dict(), again.to_dict()) == []
