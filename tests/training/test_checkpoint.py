"""Checkpoints: the right ones are kept, a saved state comes back as it was, and a damaged one never comes back."""

import gc
import json
import shutil

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
from shapjax.training.meta import Meta, newest_meta, read_meta
from shapjax.training.optimizer import make_optimizer
from shapjax.training.step import init_state

META = Meta(config=config.default_config(), class_names=("a", "b"), image_shape=(8, 8, 1), mean=(0.1,),
                       std=(0.3,))


def state_at(step, *, ema, teacher=False, columns=3):
    """Makes a state of a tiny model; all of its arrays depend on the step."""
    rng = np.random.default_rng(step)
    params = {"kernel": jnp.asarray(rng.normal(size=(2, columns)), jnp.float32), "bias": jnp.full(columns, 0.1 * step)}
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
        restored, data_state = checkpoint.restore(manager, state_at(0, ema=ema, teacher=teacher), pytest.fail)
    chex.assert_trees_all_equal(restored, jax.device_get(state))
    assert data_state == {"next_index": 40}


def test_the_newest_and_the_best_are_kept_over_all_starts_of_a_run(tmp_path):
    for steps in ({1: 0.5, 2: 0.9}, {3: 0.6, 4: 0.7}):
        with checkpoint.open_manager(tmp_path, keep=1) as manager:
            for step, accuracy in steps.items():
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
        read_meta(epath.Path(tmp_path))
    assert "\n" not in str(e.value)


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"truncated": truncate, "removed": lambda path: path.unlink(), "changed": change}


def larger_state(step):
    """Makes a state whose arrays are too large for orbax to keep them where it keeps checksums."""
    return state_at(step, ema=True, columns=400)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Returns the workdir of a run with checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("run")
    with checkpoint.open_manager(workdir, keep=2) as manager:
        for step in (1, 2):
            save(manager, larger_state(step))
    return workdir


def files_of(workdir, step=2):
    return sorted(path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file())


def values_of(workdir, item, step=2):
    """Returns the file of an item that has most of its content: the values."""
    files = [path for path in files_of(workdir, step) if item in path.parts and path.name != "commit_success.txt"]
    return max(files, key=lambda path: path.stat().st_size)


def resume(workdir):
    """Goes on with a run; returns the step it goes on from, after a check of what was read, and the lines it says."""
    said = []
    with checkpoint.open_manager(workdir, keep=2) as manager:
        state, data_state = checkpoint.restore(manager, larger_state(0), said.append)
        step = manager.latest_step()
    chex.assert_trees_all_equal(state, jax.device_get(larger_state(step)))
    assert data_state == {"next_index": 10 * step}
    return step, said


@pytest.fixture
def copy(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "copy")


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("item", "damage", "expected"), [
    ("params", change, "is damaged: at step 2 other values were saved of params/kernel"),
    ("training", change, "is damaged: at step 2 other values were saved of training/"),
    ("data", lambda path: replace(path, '"next_index": 20', '"next_index": 21'), "data: ValueError: its values are"),
    ("meta", lambda path: replace(path, '"mean": [0.1]', '"mean": [0.7]'), "meta: ValueError: its values are not")],
    ids=["params", "training", "data", "meta"])
def test_one_changed_byte_is_found_and_a_run_goes_on_from_the_checkpoint_before(copy, item, damage, expected):
    damage(values_of(copy, item))
    if item in ("params", "meta"):
        with pytest.raises(UserError, match=f"checkpoints/2 .*{expected}.*; give another step: 1"):
            checkpoint.load_params(copy, lambda _: larger_state(0).params)
    step, (said,) = resume(copy)
    assert step == 1 and expected in said and "going back to step 1, and keeping it as 2.damaged" in said


def test_a_damaged_step_can_be_saved_again_and_again(copy):
    for _ in range(2):
        change(values_of(copy, "params"))
        assert resume(copy)[0] == 1
        assert {path.name for path in (copy / "checkpoints").iterdir()} == {"1", "2.damaged"}
        with checkpoint.open_manager(copy, keep=2) as manager:
            save(manager, larger_state(2))
        assert resume(copy) == (2, [])


@pytest.mark.slow
def test_a_damaged_step_in_a_bucket_is_set_aside_and_saved_again(two_steps, bucket):
    there = paths.as_path(bucket)
    for path in two_steps.rglob("*"):
        if path.is_file():
            (there / path.relative_to(two_steps)).write_bytes(path.read_bytes())
    for path in files_of(two_steps):
        if {"params", "d"} <= set(path.parts):  # which of these values are read from varies
            content = path.read_bytes()
            (there / path.relative_to(two_steps)).write_bytes(content[: len(content) // 2])
    step, (said,) = resume(bucket)
    assert step == 1 and "keeping it as 2.damaged" in said
    assert {path.name for path in (there / "checkpoints").iterdir()} == {"1", "2.damaged"}
    with checkpoint.open_manager(bucket, keep=2) as manager:
        save(manager, larger_state(2))
    assert resume(bucket) == (2, [])


def test_where_no_checkpoint_is_whole_nothing_is_read_and_nothing_changes(copy):
    change(values_of(copy, "params"))
    truncate(values_of(copy, "data", step=1))
    before = {path: path.read_bytes() for path in files_of(copy, 1) + files_of(copy, 2)}
    with pytest.raises(UserError, match="none of the 2 checkpoints .*at step 2 other values.*; put one back") as e:
        resume(copy)
    assert "\n" not in str(e.value)
    assert {path: path.read_bytes() for path in files_of(copy, 1) + files_of(copy, 2)} == before


def test_meta_data_are_those_of_the_newest_checkpoint_that_has_them_whole_and_an_error_without_any(copy):
    truncate(values_of(copy, "meta"))
    assert newest_meta(copy) == META
    truncate(values_of(copy, "meta", step=1))
    with pytest.raises(UserError, match="checkpoints/2 is damaged.*meta"):
        newest_meta(copy)


def test_a_checkpoint_of_a_version_that_kept_no_digests_is_read(copy):
    for item in ("meta", "data"):
        path = values_of(copy, item)
        values = json.loads(path.read_text())
        path.write_text(json.dumps({key: x for key, x in values.items() if key not in ("checksum", "digests")}))
    assert resume(copy) == (2, [])
    params, meta, step = checkpoint.load_params(copy, lambda _: larger_state(0).params)
    assert step == 2 and meta == META


@pytest.mark.parametrize("damage", [
    truncate, lambda path: replace(path, "0.5", "0.9"), lambda path: replace(path, "accuracy", "accurbcy")])
def test_a_step_whose_metrics_are_damaged_counts_as_not_evaluated(copy, damage):
    damage(values_of(copy, "metrics"))
    assert resume(copy) == (2, [])
    with checkpoint.open_manager(copy, keep=1) as manager:
        save(manager, larger_state(3), accuracy=0.1)
        checkpoint.wait(manager)
        assert sorted(manager.all_steps()) == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_happens_to_a_file_no_wrong_value_is_read(two_steps, tmp_path, damage):
    for path in files_of(two_steps):
        workdir = shutil.copytree(two_steps, tmp_path / "copy")
        DAMAGES[damage](workdir / path.relative_to(two_steps))
        try:
            params, meta, _ = checkpoint.load_params(workdir, lambda _: larger_state(0).params)
            chex.assert_trees_all_equal(params, jax.device_get(larger_state(2).ema_params))
            assert meta == META
        except UserError as e:
            assert "checkpoints/2" in str(e) and "give another step: 1" in str(e) and "\n" not in str(e)
        step, said = resume(workdir)
        assert (step, len(said)) in ((2, 0), (1, 1)), path
        shutil.rmtree(workdir)
    gc.collect()


def test_a_step_in_a_bucket_is_a_checkpoint_once_it_is_complete(bucket):
    step = f"{bucket}/checkpoints/7"
    paths.write_text(f"{step}/meta/metadata", json.dumps({"format": checkpoint.FORMAT} | META.to_dict()))
    lines = []
    assert newest_meta(bucket, lines.append) is None
    assert len(lines) == 1 and f"{step} is not complete" in lines[0]
    other = f"{bucket}/checkpoints/14"
    paths.write_text(f"{other}/meta/metadata", "{}")
    with pytest.raises(UserError, match=f"none of the 2 checkpoints in {bucket}/checkpoints is complete"):
        newest_meta(bucket)
    paths.write_text(f"{step}/commit_success.txt", "")
    assert newest_meta(bucket, lines.append).class_names == META.class_names
    assert len(lines) == 2 and f"{other} is not complete" in lines[1]
