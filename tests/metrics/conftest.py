"""A small classifier whose patches interact, and attributions of its images."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import classifier
from shapjax.games.removal import Constant
from shapjax.metrics import perturbation, ranking


class Example(NamedTuple):
    """Images [B, 4, 4, 1] of 16 patches, one pixel each, with attributions [B, 16] and targets [B]."""

    model: classifier.Classifier
    images: np.ndarray
    attributions: np.ndarray
    targets: np.ndarray


def network(params, images):
    hidden = jnp.tanh(images.reshape(len(images), -1) @ params["first"] + params["bias"])
    return hidden @ params["second"]


@pytest.fixture(scope="session")
def example():
    rng = np.random.default_rng(1)
    params = {"first": rng.normal(size=(16, 8)), "bias": rng.normal(size=8), "second": rng.normal(size=(8, 3))}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    model = classifier.wrap(network, params, grid=(4, 4), removal=Constant(0.0))
    images = rng.uniform(0.1, 1, size=(6, 4, 4, 1)).astype(np.float32)
    attributions = rng.normal(size=(6, 16)).astype(np.float32)
    return Example(model, images, attributions, rng.integers(0, 3, 6))


@pytest.fixture(scope="session")
def example_order(example):
    return ranking.order(example.attributions, jax.random.key(0))


@pytest.fixture(scope="session")
def example_curves(example, example_order):
    return perturbation.curves(example.model, example.images, example_order)
