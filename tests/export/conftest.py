"""Shared by tests of exports: tiny models as `shapjax.load` gives them, and one that is exported."""

import functools
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pytest

from shapjax import config, models
from shapjax.export import calibration, read, write
from shapjax.export.calibration import Calibration
from shapjax.games.classifier import Classifier
from shapjax.games.error_law import ErrorLaw
from shapjax.models import inference
from shapjax.training.meta import Meta
from tests.conftest import random_tree

# Tiny models of every backbone, and what in them a program could get wrong.
TINY = {
    "vit": {},
    "vit, prefix tokens, bfloat16": {"class_token": True, "registers": 2, "norm_place": "pooled", "dtype": "bfloat16"},
    "resnet": {"backbone": "resnet", "patch_size": 4, "width": 16, "stages": (1, 1), "explainer_depth": 1},
    "convnext": {"backbone": "convnext", "patch_size": 4, "width": 16, "stages": (1,), "norm_place": "pooled"},
}


class Model(NamedTuple):
    """Holds the attributes of a loaded model that `write` needs."""

    params: Any
    meta: Meta
    classifier: Classifier
    step: int = 7
    directory: pathlib.Path = pathlib.Path("run")
    calibration: Calibration | None = None
    measured: dict | None = None

    @property
    def class_names(self):
        return self.meta.class_names

    @property
    def image_shape(self):
        return self.meta.image_shape

    @property
    def grid(self):
        return self.classifier.grid


@functools.cache
def make_model(name):
    """Makes a model of 8x8 images of 2 channels with random parameters, none of them zero."""
    c = config.default_config()
    config.set_model(c, {"patch_size": 4, "width": 16, "depth": 2, "heads": 2} | TINY[name])
    meta = Meta(config=c, class_names=("a", "b", "ç"), image_shape=(8, 8, 2), mean=(0.2, 0.5), std=(0.3, 0.4))
    module = read.build(meta)
    params = random_tree(models.param_shapes(module, image_shape=meta.image_shape), scale=0.3)
    return Model(params, meta, inference.classifier_of(module, params, meta.mean, meta.std))


@pytest.fixture(scope="module")
def model():
    return make_model("vit")


@pytest.fixture(scope="module")
def calibrated(model):
    law = ErrorLaw(*map(np.float32, (0.3, 5.0, 0.5, 1.0)), np.float32([0, 1]), np.float32([1, 2]))
    found = Calibration(law=law, step=7, params=calibration.digest(model.params), images=16, held_out=True)
    return model._replace(calibration=found, classifier=model.classifier.replace(error_law=law))


@pytest.fixture
def directory(model, tmp_path):
    """Exports the parameters of a model, without its program."""
    write.write(model, tmp_path / "exported", programs={}, weights=True)
    return tmp_path / "exported"
