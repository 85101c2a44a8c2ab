"""The cost of a coalition pair, by XLA's own count of a training step's operations."""

import chex
import jax
import jax.numpy as jnp
import pytest

from benchmarks import packing
from shapjax import models
from shapjax.models import vit
from tests.conftest import random_tree


@pytest.fixture(scope="module")
def flops():
    """Counts the operations of the gradient steps of the first four blocks of ViT-S/16 on 224x224 images, one image."""
    modules = {remat: packing.make_module(vit.variant("S/16") | {"depth": 4}, image_size=224, remat=remat)
               for remat in ("none", "full")}
    return {(remat, kind): packing.count_flops(module, kind, batch=1)
            for remat, module in modules.items() for kind in packing.STEPS}


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_joint_step_with_one_pair_costs_at_most_twice_the_plain_step(flops, remat):
    assert flops[remat, "packed"] <= 2.05 * flops[remat, "plain"]


@pytest.mark.parametrize("remat", ["none", "full"])
def test_without_packing_it_costs_three_times_the_plain_step(flops, remat):
    assert flops[remat, "unpacked"] >= 2.95 * flops[remat, "plain"]


def test_the_count_is_that_of_the_formula(flops):
    """It counts multiplications and additions of all blocks' matrix products, forward and twice as many backward."""
    t, d, depth, classes, pixels = 196, 384, 4, 1000, 16 * 16 * 3
    block = 2 * t * d * (3 * d + d + 8 * d) + 2 * 2 * t * t * d
    forward = depth * block + 2 * t * d * classes + 2 * t * pixels * d
    assert flops["none", "plain"] == pytest.approx(3 * forward, rel=0.03)


def test_packed_and_unpacked_steps_compute_the_same_gradients(rng):
    sizes = dict(width=16, depth=1, heads=2, patch_size=4)
    module = packing.make_module(sizes, image_size=8, remat="none")
    images = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    params = random_tree(models.param_shapes(module, image_shape=(8, 8, 3)), scale=0.3)
    args = params, images, jax.nn.one_hot(jnp.array([1, 2]), 1000), jax.random.split(jax.random.key(0), 2)
    packed, unpacked = (jax.jit(packing.gradient_step(module, kind))(*args) for kind in ("packed", "unpacked"))
    chex.assert_trees_all_close(packed, unpacked, rtol=1e-3, atol=1e-4)
