"""A sequence of blocks is the same function whether it is one compiled block or many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import config, models
from tests.conftest import PIXELS, random_tree

BACKBONES = {"vit": dict(patch_size=4, width=16, depth=3, heads=2, class_token=True),
             "convnext": dict(backbone="convnext", patch_size=4, width=8, stages=(1, 2))}


@pytest.mark.parametrize(("backbone", "remat"), [("vit", "none"), ("vit", "full"), pytest.param(
    "convnext", "dots", marks=pytest.mark.slow)])
def test_one_by_one_equals_scanned(backbone, remat, monkeypatch, rng):
    c = config.default_config()
    config.set_model(c, BACKBONES[backbone] | {"remat": remat})
    module = models.build(config.model_settings(c), image_shape=PIXELS, num_classes=3)
    params = random_tree(models.param_shapes(module, image_shape=PIXELS), scale=0.3)
    images = jnp.asarray(rng.normal(size=(2, *PIXELS)), jnp.float32)
    segment_ids = jnp.asarray(rng.random((2, module.num_patches)) < 0.5)

    def gradient():
        def total(params):
            phi, patch_logits = (module.apply({"params": params}, images, ids) for ids in (None, segment_ids))
            return jnp.sum(jnp.sin(phi)) + jnp.sum(jnp.sin(2 * patch_logits)), (phi, patch_logits)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    one_by_one, text = gradient(), str(jax.make_jaxpr(lambda p: module.apply({"params": p}, images))(params))
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    scanned, scanned_text = gradient(), str(jax.make_jaxpr(lambda p: module.apply({"params": p}, images))(params))
    assert "scan[" not in text and "scan[" in scanned_text
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one_by_one, scanned)


def test_each_gets_what_is_its_own(tiny_vit, rng):
    """A delta of one block's maps comes back in that block's place of the maps, and changes none before it."""
    module, params, _ = tiny_vit(depth=3)
    images = jnp.asarray(rng.normal(size=(2, *PIXELS)), jnp.float32)
    tokens = module.num_patches + module.num_prefix_tokens
    delta = np.zeros((3, len(images), module.heads, tokens, tokens), np.float32)
    delta[1] = 0.01
    _, before = module.apply({"params": params}, images, 0 * delta, method="patch_logits_and_attention")
    _, after = module.apply({"params": params}, images, delta, method="patch_logits_and_attention")
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], before[1] + 0.01, atol=1e-6)
    assert after.shape == delta.shape and np.abs(after[2] - before[2]).max() > 1e-6
