"""A run of our own as weights: the parameters stay, an explainer head may be added, positions fit another grid."""

import jax
import numpy as np
import pytest

from shapjax import config, models
from shapjax.data.sources import ArraySource
from shapjax.errors import UserError
from shapjax.pretrained import loading
from shapjax.pretrained.positions import interpolate
from shapjax.pretrained.settings import complete
from shapjax.training import checkpoint, loop

SIZES = {"model.patch_size": 4, "model.width": 8, "model.depth": 1, "model.heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns {explainer_depth: workdir of a run with one checkpoint}, for images 8x8x1, and their parameters."""
    source = ArraySource(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4) % 3, ("a", "b", "c"), (0.5,), (0.25,))
    workdirs, params = {}, {}
    for depth in (0, 1):
        c = config.default_config()
        c.update_from_flattened_dict(SIZES | {
            "model.explainer_depth": depth, "optim.batch_size": 2, "optim.ema_decay": 0.0, "augment.max_shift": 0})
        run = loop.setup(loop.resolve(c), source)
        workdirs[depth] = tmp_path_factory.mktemp("runs") / str(depth)
        state = run.init_state()
        with checkpoint.open_manager(workdirs[depth], keep=1) as manager:
            checkpoint.save(manager, state, data_state={}, meta=run.meta, metrics=None)
        params[depth] = jax.device_get(state.params)
    return workdirs, params


def load(workdir, *, image_shape=(8, 8, 1), new_head=False, **changes):
    c = config.default_config()
    config.set_model(c, loading.describe(str(workdir)).settings | changes)
    module = models.build(config.model_settings(c), image_shape=image_shape, num_classes=3)
    return loading.load(str(workdir), module, image_shape=image_shape, class_names="abc", new_head=new_head)


@pytest.mark.parametrize("depth", [0, 1])
def test_the_parameters_of_a_run_stay_as_they_are(runs, depth):
    params, report = load(runs[0][depth])
    jax.tree.map(np.testing.assert_array_equal, params, runs[1][depth])
    assert "run of shapjax" in str(report) and report.new == report.skipped == ()


def test_an_explainer_head_can_be_added_to_a_run_without_one(runs):
    params, report = load(runs[0][0], explainer_depth=1)
    jax.tree.map(np.testing.assert_array_equal, params, runs[1][0])
    assert [new.partition(" ")[0] for new in report.new] == ["explainer"]


def test_an_explainer_head_is_of_the_depth_that_was_trained(runs):
    with pytest.raises(UserError, match="are of another model: .*explainer"):
        load(runs[0][1], explainer_depth=2)


def test_a_new_head_takes_a_new_explainer_head(runs):
    params, report = load(runs[0][1], new_head=True)
    assert params.keys() == runs[1][1].keys() - {"head", "explainer"}
    assert [new.partition(" ")[0] for new in report.new] == ["explainer", "head"]
    assert len(report.ignored) == len(jax.tree.leaves({key: runs[1][1][key] for key in ("head", "explainer")}))


def test_positions_of_the_model_and_of_the_explainer_head_fit_another_grid(runs):
    params, report = load(runs[0][1], image_shape=(16, 12, 1))
    assert "positions interpolated from 2x2 to 4x3" in str(report)
    for new, old in ((params, runs[1][1]), (params["explainer"], runs[1][1]["explainer"])):
        np.testing.assert_allclose(new["positions"], interpolate(old["positions"], (2, 2), (4, 3), antialias=True))


def test_a_run_decides_the_model_of_a_run_that_starts_from_it(runs, tmp_path):
    c = config.default_config()
    c.pretrained, c.model.remat, c.model.dtype = str(runs[0][1]), "dots", "bfloat16"
    c = complete(c, tmp_path)
    assert (c.model.width, c.model.explainer_depth, c.model.patch_size) == (8, 1, 4)
    assert (c.model.remat, c.model.dtype) == ("dots", "bfloat16")  # its own
    assert (tuple(c.data.mean), tuple(c.data.std)) == ((0.5,), (0.25,))


def test_a_run_with_a_checkpoint_no_longer_needs_its_weights(runs):
    c = config.default_config()
    c.pretrained = "gone"
    assert complete(c, runs[0][0]).model.width == 8


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no complete checkpoint to take weights from; train it first"):
        loading.describe(str(tmp_path))
