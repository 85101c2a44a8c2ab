"""The PyTorch side of the benchmarks computes what shapjax computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax import models
from shapjax.models import vit
from shapjax.training import loss as losses
from tests.conftest import random_tree

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def test_loss_and_gradients_are_ours_given_the_same_coalitions(rng, monkeypatch):
    from benchmarks import torch_joint, torch_vit

    module = vit.ViT(num_classes=3, image_size=(8, 8), patch_size=4, width=16, depth=2, heads=2)
    params = random_tree(models.param_shapes(module, image_shape=(8, 8, 3)), scale=0.3)
    images = rng.normal(size=(6, 8, 8, 3)).astype(np.float32)
    labels, mask_BN = np.arange(6) % 3, np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1]] * 2, bool)

    monkeypatch.setattr(losses.shapley, "sample_coalitions", lambda key, **_: jnp.asarray(mask_BN)[key][None])
    settings = losses.LossSettings(num_pairs=1, weight=16.0, masked_weight=0.5)

    def ours(params):
        return losses.joint_loss(lambda x, ids: module.apply({"params": params}, x, ids), jnp.asarray(images),
                                 jax.nn.one_hot(labels, 3), jnp.arange(6), settings=settings)[0]

    expected, gradients = jax.jit(jax.value_and_grad(ours))(params)
    model = torch_vit.TorchViT(module, params).requires_grad_(True)
    loss = torch_joint.joint_loss(model.patch_logits, torch.tensor(np.moveaxis(images, -1, 1).copy()),
                                  torch.tensor(labels), torch.tensor(mask_BN), weight=16.0, masked_weight=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(model.head.weight.grad.T, gradients["head"]["kernel"], atol=2e-5)
    np.testing.assert_allclose(model.blocks[1].mlp_in.weight.grad.T, gradients["blocks"]["mlp_in"]["kernel"][1],
                               atol=2e-5)
    np.testing.assert_allclose(model.embedding.weight.grad.T, gradients["embedding"]["kernel"], atol=2e-5)


def test_coalitions_are_proper_and_of_the_kernels_sizes():
    from benchmarks import torch_joint

    torch.manual_seed(0)
    sizes = torch_joint.sample_coalitions(20_000, 5).sum(-1).numpy()
    share = np.bincount(sizes, minlength=6)[1:5] / 20_000
    np.testing.assert_allclose(share, np.array([6, 4, 4, 6]) / 20, atol=0.015)
    assert sizes.min() == 1 and sizes.max() == 4
