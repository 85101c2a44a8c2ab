"""Fixtures of the evaluation's tests: a game of 4 patches and 3 classes, small enough to compute by hand."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from shapjax.attribution import METHODS
from shapjax.data.sources import ArraySource
from shapjax.evaluation.measurement import Measurement, Subjects
from shapjax.games import classifier, removal, shapley
from shapjax.games.classifier import Classifier

HIDDEN = 0.3  # color of hidden patches
IMAGES = 11
SETTINGS = {"coalitions": 8, "batch_size": 16, "block": 8, "explorer_images": 2, "explorer_classes": 3}


class Game(NamedTuple):
    """A classifier of images float [n, 4, 4, 1] whose hidden patches are painted, and the same in numpy.

    values: float64 [n, 16, 3], v of every coalition; the code of a coalition is Σ_n 2^n [n ∈ S].
    exact: float64 [n, 4, 3], Shapley values.
    """

    model: Classifier
    images: np.ndarray
    labels: np.ndarray
    values: np.ndarray
    exact: np.ndarray


def logits_fn(params, images):
    x = images.reshape(images.shape[0], -1)
    return jnp.tanh(x @ params["inner"]) @ params["outer"]


def phi_fn(params, images):
    """Returns values that are near the Shapley values, and sum to the logits."""
    b, n = images.shape[0], 4
    logits = logits_fn(params, images)
    mean = images.reshape(b, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(b, n, 1)
    return logits[:, None] / n + (mean - mean.mean(axis=1, keepdims=True)) * params["share"]


def visible_patches(images, mask):
    """Returns images [n, 4, 4, 1] with the patches outside of a mask, bool [4], painted over."""
    pixels = np.repeat(np.repeat(np.reshape(mask, (2, 2)), 2, axis=0), 2, axis=1)
    return np.where(pixels[..., None], images, HIDDEN)


def make_game(seed=1):
    rng = np.random.default_rng(seed)
    params = {"inner": rng.normal(size=(16, 8)), "outer": 2 * rng.normal(size=(8, 3)), "share": rng.normal(size=3)}
    params = {name: x.astype(np.float32) for name, x in params.items()}
    images = rng.uniform(size=(IMAGES, 4, 4, 1)).astype(np.float32)

    def value(mask):
        x = visible_patches(images, mask).reshape(IMAGES, -1).astype(np.float64)
        return np.tanh(x @ params["inner"]) @ params["outer"]

    values = np.stack([value(code >> np.arange(4) & 1 == 1) for code in range(16)], axis=1)
    model = classifier.wrap(logits_fn, params, grid=(2, 2), removal=removal.Constant(HIDDEN), phi_fn=phi_fn)
    exact = np.stack([shapley.exact_shapley(v) for v in values])
    return Game(model, images, rng.integers(0, 3, IMAGES).astype(np.int32), values, exact)


@pytest.fixture(scope="session")
def game():
    return make_game()


@pytest.fixture(scope="session")
def source(game):
    """Returns the images as a dataset; a model is evaluated on its uint8 pixels."""
    images = np.round(game.images * 255).astype(np.uint8)
    return ArraySource(images=images, labels=game.labels, class_names=("a", "b", "c"), mean=(0.5,), std=(0.2,))


@pytest.fixture(scope="session")
def subjects(game):
    """Returns the images to compare on; the target is the prediction for every third, another class for the others."""
    rng = np.random.default_rng(0)
    logits = game.values[:, -1]
    predicted = logits.argmax(axis=1).astype(np.int32)
    targets = (predicted + np.arange(IMAGES, dtype=np.int32)) % 3
    assert all((a != b).any() for a, b in ((predicted, targets), (predicted, game.labels), (targets, game.labels)))
    object_masks = rng.integers(-1, 2, game.images.shape[:3])
    return Subjects(game.images, game.labels, predicted, targets, special.softmax(logits, axis=1).astype(np.float32),
                    object_masks, game.exact.astype(np.float32))


def linear(images, targets, xp=np):
    """Returns attributions [B, 4] without meaning: a function of the image and the target, without ties."""
    weights = np.random.default_rng(26).normal(size=(3, images[0].size, 4)).astype(np.float32)
    return xp.einsum("bp,bpn->bn", images.reshape(len(images), -1), xp.asarray(weights)[targets])


@pytest.fixture(scope="session")
def settings():
    return SETTINGS


@pytest.fixture(scope="session")
def work(game, subjects):
    return Measurement(game.model, subjects, **SETTINGS, exact_seconds=0.25)


@pytest.fixture(scope="session")
def measured(work):
    """Returns the measurements of three methods and `linear`."""
    fake = METHODS["phi"]._replace(key="linear", fn=lambda model, images, targets, keys, batch_size=1: (
        linear(images, targets, jnp)))
    methods, passes = [*(METHODS[key] for key in ("phi", "kernel_shap", "exact")), fake], []
    found = {method.key: work.measure(method, done=passes.append) for method in methods}
    assert sum(passes) == pytest.approx(sum(map(work.passes, methods)))
    return found


@pytest.fixture(scope="session")
def case(subjects, measured):
    """Returns the attributions of `linear`, and the arrays that they are scored against."""
    attributions = linear(subjects.images, subjects.targets)
    np.testing.assert_allclose(measured["linear"]["attributions"], attributions, atol=1e-5)
    return {"attributions": attributions, "predicted": subjects.predicted, "targets": subjects.targets,
            "labels": subjects.labels}
