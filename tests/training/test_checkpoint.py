"""Checkpoints: the right ones are kept, and a saved state comes back as it was."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.experimental import multihost_utils

from shapjax import config, paths
from shapjax.errors import UserError
from shapjax.training import checkpoint
from shapjax.training.optimizer import make_optimizer
from shapjax.training.step import init_state

META = checkpoint.Meta(config=config.default_config(), class_names=("a", "b"), image_shape=(8, 8, 1), mean=(0.1,),
                       std=(0.3,))


def state_at(step, *, ema, teacher=False):
    """Makes a state of a tiny model; all of its arrays depend on the step."""
    params = {"kernel": jnp.arange(6.0).reshape(2, 3) + step, "bias": jnp.full(3, 0.1 * step)}
    optimizer, _ = make_optimizer(learning_rate=0.1, warmup_steps=1, steps=9, weight_decay=0.1, b2=0.9,
                                           clip_norm=1.0)
    state = init_state(params, optimizer, ema=ema, teacher=teacher).replace(step=jnp.int32(step))
    _, opt_state = optimizer.update(params, state.opt_state, params)
    state = state.replace(opt_state=opt_state)
    state = state.replace(teacher=jax.tree.map(lambda x: x / 7, params)) if teacher else state
    return state.replace(ema_params=jax.tree.map(lambda x: x / 3, params)) if ema else state


def save(manager, state, *, accuracy=0.5):
    checkpoint.save(manager, state, data_state={"next_index": int(state.step) * 10}, meta=META,
                    metrics={"accuracy": accuracy})


@pytest.mark.parametrize(("ema", "teacher"), [(False, False), (True, False), (True, True)])
def test_a_state_comes_back_as_it_was_saved(tmp_path, ema, teacher):
    state = state_at(4, ema=ema, teacher=teacher)
    with checkpoint.open_manager(tmp_path, keep=2) as manager:
        save(manager, state)
    with checkpoint.open_manager(tmp_path, keep=2) as manager:
        restored, data_state = checkpoint.restore(manager, state_at(0, ema=ema, teacher=teacher))
    chex.assert_trees_all_equal(restored, jax.device_get(state))
    assert data_state == {"next_index": 40}


def test_the_newest_and_the_best_are_kept(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        for step, accuracy in enumerate([0.5, 0.9, 0.6, 0.7], start=1):
            save(manager, state_at(step, ema=False), accuracy=accuracy)
    with checkpoint.open_manager(tmp_path, keep=1, read_only=True) as manager:
        assert sorted(manager.all_steps()) == [2, 4]


def test_saving_asks_no_question_about_stopping(tmp_path, monkeypatch):
    """Orbax would ask from a thread, about an old step; the processes of a run would then miss their common step."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    with checkpoint.open_manager(tmp_path, keep=2) as manager:
        save(manager, state_at(1, ema=False))
        checkpoint.wait(manager)
    assert not asked


def test_a_checkpoint_that_cannot_be_written_is_one_line_that_names_the_one_before(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=2) as manager:
        save(manager, state_at(1, ema=False))
        checkpoint.wait(manager)
        with pytest.raises(UserError, match="the one of step 1 stays good") as e:
            save(manager, state_at(2, ema=False).replace(params={"kernel": object()}))
    assert "\n" not in str(e.value)


def test_inference_gets_the_moving_average_and_the_meta_data(tmp_path):
    state = state_at(3, ema=True)
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        save(manager, state)
    params, meta, step = checkpoint.load_params(tmp_path, lambda _: state.params)
    chex.assert_trees_all_equal(params, jax.device_get(state.ema_params))
    assert step == 3 and meta.to_dict() == META.to_dict()


def test_a_step_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        for step in (1, 2):
            save(manager, state_at(step, ema=False))
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2"):
        checkpoint.load_params(tmp_path, lambda _: state_at(1, ema=False).params, step=7)


def test_parameters_of_another_shape_are_refused(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        save(manager, state_at(1, ema=False))
    with pytest.raises(UserError, match=r"of another model: \['kernel'\] is \[2, 3\], expected \[5, 5\]"):
        checkpoint.load_params(tmp_path, lambda _: {"kernel": np.zeros((5, 5), np.float32), "bias": np.zeros(3)})


def test_parameters_of_other_names_are_refused_in_one_line(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        save(manager, state_at(1, ema=False))
    with pytest.raises(UserError, match="of another model") as e:
        checkpoint.load_params(tmp_path, lambda _: {"scale": np.zeros(3)})
    assert "\n" not in str(e.value)


def test_a_checkpoint_of_an_older_layout_is_refused_in_one_line_that_says_so(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "metadata").write_text(json.dumps(META.to_dict() | {"format": 2}))
    with pytest.raises(UserError, match="older version of shapjax .format 2; this version reads 3.*train again") as e:
        checkpoint.read_meta(epath.Path(tmp_path))
    assert "\n" not in str(e.value)


def test_a_step_in_a_bucket_is_a_checkpoint_once_it_is_complete(bucket):
    step = f"{bucket}/checkpoints/7"
    paths.write_text(f"{step}/meta/metadata", json.dumps({"format": checkpoint.FORMAT} | META.to_dict()))
    assert checkpoint.newest_meta(bucket) is None
    paths.write_text(f"{step}/commit_success.txt", "")
    assert checkpoint.newest_meta(bucket).class_names == META.class_names
