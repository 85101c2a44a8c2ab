"""The pieces of a run from its config: whose predictions are learned from, and which parts are trained."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shapjax import config, models
from shapjax.errors import UserError
from shapjax.models import preprocessing
from shapjax.training import loop as experiment
from tests.conftest import random_tree

SOURCE = types.SimpleNamespace(class_names=("a", "b", "c"), image_shape=(8, 8, 1), mean=(0.4,), std=(0.3,),
                               crops_on_read=False)


def make(**changes):
    c = config.default_config()
    c.model.update({"patch_size": 4, "width": 16, "depth": 1, "heads": 2})
    c.update({"pretrained": "weights", "steps": 4, "warmup": 0.0} | changes)
    c.augment.max_shift = 0
    return experiment.setup(config.resolve(c), SOURCE)


@pytest.fixture
def batch(rng):
    return {"image": jnp.asarray(rng.integers(0, 256, (6, 8, 8, 1)), jnp.uint8), "index": jnp.arange(6),
            "label": jnp.asarray(rng.integers(0, 3, 6), jnp.int32)}


def weights(run):
    return random_tree(models.param_shapes(run.module, image_shape=SOURCE.image_shape), scale=0.5)


@pytest.mark.parametrize("num_pairs", [0, 1])
def test_what_is_learned_is_label_and_teacher_in_shares_whatever_the_parameters_become(batch, num_pairs):
    run = make(teacher_weight=0.3, num_pairs=num_pairs)
    loaded = weights(run)
    step = jax.jit(run.step)
    state, first = step(run.init_state(loaded), batch)
    state, second = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, state.teacher, loaded)
    assert np.abs(state.params["head"]["kernel"] - loaded["head"]["kernel"]).max() > 1e-4

    images = preprocessing.normalize(batch["image"], SOURCE.mean, SOURCE.std)
    logits = run.module.apply({"params": loaded}, images, None).sum(axis=1)
    targets = 0.7 * jax.nn.one_hot(batch["label"], 3) + 0.3 * jax.nn.softmax(logits)
    expected = optax.softmax_cross_entropy(logits, targets).mean()
    assert first["loss_classification"] == pytest.approx(float(expected), rel=1e-4)
    assert abs(second["loss_classification"] - first["loss_classification"]) > 1e-3
    _, without = jax.jit(make(num_pairs=num_pairs).step)(make(num_pairs=num_pairs).init_state(loaded), batch)
    assert abs(without["loss_classification"] - first["loss_classification"]) > 1e-3


def test_weights_without_a_head_cannot_teach():
    run = make(teacher_weight=0.5)
    body = {key: value for key, value in weights(run).items() if key != "head"}
    with pytest.raises(UserError, match="teacher_weight=0.5: weights has no head"):
        run.init_state(body)


def test_parts_to_train_must_be_parts_of_the_model():
    with pytest.raises(UserError, match="train_only: the model has no part 'allocation'; it has .*head") as e:
        make(train_only=("head", "allocation"))
    assert "\n" not in str(e.value)
