"""A classifier small enough to know the values of all its coalitions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shapjax.games import classifier, removal

PLAYERS, CLASSES, HIDDEN = 8, 3, 0.3


class Game(NamedTuple):
    """`values` [B, 2^N, K] by code Σ 2^n [n ∈ S]; player 0 changes nothing, players 1 and 2 are interchangeable."""

    model: classifier.Classifier
    images: np.ndarray
    targets: np.ndarray
    values: np.ndarray


@pytest.fixture(scope="session")
def coalition_game() -> Game:
    rng = np.random.default_rng(5)
    images = rng.normal(size=(3, 2, 4, 1)).astype(np.float32)  # one pixel a patch
    images[:, 0, 2] = images[:, 0, 1]
    inner, outer = rng.normal(size=(PLAYERS, 6)), rng.normal(size=(6, CLASSES))
    inner[0], inner[2] = 0, inner[1]
    params = {"inner": jnp.asarray(inner, jnp.float32), "outer": jnp.asarray(outer, jnp.float32)}

    def network(params, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ params["inner"])
        return 2 * hidden @ params["outer"] + jnp.array([1.0, 0, -1])

    masks = (np.arange(2**PLAYERS)[:, None] >> np.arange(PLAYERS)) & 1 == 1
    pixels = np.where(masks, images.reshape(3, 1, PLAYERS), HIDDEN)
    values = 2 * np.tanh(pixels @ np.asarray(params["inner"], np.float64)) @ np.asarray(params["outer"], np.float64)
    model = classifier.wrap(jax.jit(network), params, grid=(2, 4), removal=removal.Constant(HIDDEN))
    return Game(model, images, np.array([2, 0, 1]), values + np.array([1, 0, -1]))
