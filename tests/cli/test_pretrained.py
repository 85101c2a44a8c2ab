"""Training that starts from weights: what the run has before its first step is what they say, in every layout."""

import json
import shutil

import jax
import numpy as np
import pytest

import shapjax
from shapjax import model as inference
from shapjax.pretrained import loading

# What a run has after this is what it had before its first step.
FROZEN = ["--config.steps=2", "--config.eval_every=1", "--config.learning_rate=0.0", "--config.ema_decay=0.0",
          "--config.num_pairs=0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_vit):
    """A directory with a tiny ViT for ten classes of color images; its pixels were in [-1, 1]."""
    directory = tmp_path_factory.mktemp("weights")
    write_vit(directory, classes=10)
    halves = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (directory / "preprocessor_config.json").write_text(json.dumps(halves))
    return directory


@pytest.fixture(scope="module")
def frozen(weights, tmp_path_factory, command, small):
    """A run on gray digits from these weights that learns nothing, and what it printed."""
    workdir = tmp_path_factory.mktemp("runs") / "frozen"
    return workdir, command("train.py", *small, *FROZEN, f"--config.pretrained={weights}", "--workdir", workdir)


def assert_holds(workdir, weights):
    """The parameters in a run's newest checkpoint are those that the weights give its model."""
    params, meta, _ = inference.read(workdir)
    module = inference.build(meta)
    expected, _ = loading.load(str(weights), module, image_shape=meta.image_shape, num_classes=10, new_head=False)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_run_starts_with_the_parameters_and_the_normalization_of_its_weights(frozen, weights):
    workdir, out = frozen
    assert f"pretrained    {weights}: Hugging Face ViT, 24 tensors" in out
    assert "the images are gray: kernel summed over its 3 channels" in out
    assert_holds(workdir, weights)
    model = shapjax.load(workdir)
    assert model.mean == (0.5,) and model.config.model.activation == "gelu" and model.grid == (2, 2)


def test_a_run_goes_on_when_its_weights_have_gone(frozen, weights, tmp_path, command, small):
    shutil.copytree(frozen[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    away = weights.rename(tmp_path / "away")
    out = command("train.py", *small, *FROZEN, f"--config.pretrained={weights}", "--workdir", tmp_path / "run")
    away.rename(weights)
    assert "resuming" in out and "pretrained    " not in out
    assert_holds(tmp_path / "run", weights)


@pytest.mark.slow
def test_a_state_that_is_split_over_processes_starts_with_the_same(weights, tmp_path, start, small):
    processes = start(*small, *FROZEN, f"--config.pretrained={weights}", "--workdir", tmp_path / "run",
                      "--config.parallel=fsdp", "--config.cpu_devices=1", processes=2)
    ends = [process.end() for process in processes]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert [sum("pretrained    " in line for line in out) for _, out, _ in ends] == [1, 0]
    assert_holds(tmp_path / "run", weights)


def test_a_run_can_be_the_weights_of_another(run, tmp_path, command, small):
    out = command("train.py", *small, *FROZEN, f"--config.pretrained={run}", "--workdir", tmp_path / "run")
    assert "run of shapjax" in out
    old, new = (inference.read(workdir)[0] for workdir in (run, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_a_run_says_what_hides_patches_if_it_has_learned_of_any(run, frozen):
    with_pairs, without = (loading.describe(str(workdir)).settings.keys() for workdir in (run, frozen[0]))
    assert with_pairs - without == {"painting", "layer_masking"}


@pytest.mark.slow
def test_a_classifier_that_cannot_move_votes_is_given_a_head_for_it(tmp_path, command, small):
    net = ["--config.model.backbone=resnet", "--config.model.stages=(0,1)", "--config.model.stem=4x4",
           "--config.model.patch_size=4", "--config.model.width=16"]
    command("train.py", *small, *net, *FROZEN, "--workdir", tmp_path / "classifier")
    out = command("train.py", *small, *FROZEN, f"--config.pretrained={tmp_path / 'classifier'}", "--workdir",
                  tmp_path / "run", "--config.model.allocation_depth=1", "--config.model.layer_masking=True")
    assert "new: allocation (" in out and shapjax.load(tmp_path / "run").config.model.layer_masking
    again = command("train.py", *small, *FROZEN, f"--config.pretrained={tmp_path / 'run'}", "--workdir",
                    tmp_path / "more")
    assert "new: " not in again
    old, new, last = (inference.read(tmp_path / name)[0] for name in ("classifier", "run", "more"))
    assert "allocation" not in old and new.keys() == {*old, "allocation"}
    jax.tree.map(np.testing.assert_array_equal, old, {key: new[key] for key in old})
    jax.tree.map(np.testing.assert_array_equal, new, last)


def test_a_run_of_one_part_leaves_the_others_as_they_are(run, tmp_path, command, fails_with_one_line, small):
    arguments = [*small, "--config.steps=20", f"--config.pretrained={run}", "--workdir", tmp_path / "run"]
    error = fails_with_one_line("train.py", *arguments, "--config.train_only=('hed',)")
    assert "--config.train_only: the model has no part 'hed'; it has " in error and "head" in error
    command("train.py", *arguments, "--config.train_only=('head',)")
    old, new = (inference.read(workdir)[0] for workdir in (run, tmp_path / "run"))
    assert np.abs(old.pop("head")["kernel"] - new.pop("head")["kernel"]).max() > 1e-4
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_a_run_that_learns_from_a_teacher_goes_on_as_if_never_stopped(run, tmp_path, command, small):
    arguments = [*small, f"--config.pretrained={run}", "--config.teacher_weight=0.5", "--config.num_pairs=0",
                 "--config.steps=6", "--config.eval_every=3"]
    whole = command("train.py", *arguments, "--workdir", tmp_path / "whole")
    assert "test accuracy" in whole
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    steps = sorted(int(path.name) for path in (tmp_path / "halves" / "checkpoints").iterdir() if path.name.isdecimal())
    assert len(steps) == 2
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / str(steps[-1]))
    assert f"resuming {tmp_path / 'halves'} at step {steps[0]}" in command("train.py", *arguments, "--workdir",
                                                                           tmp_path / "halves")
    one, other = (inference.read(tmp_path / name)[0] for name in ("whole", "halves"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_weights_for_other_classes_are_one_line(tmp_path, write_vit, fails_with_one_line, small):
    write_vit(tmp_path / "weights", classes=3)
    error = fails_with_one_line("train.py", *small, "--workdir", tmp_path / "run",
                                f"--config.pretrained={tmp_path / 'weights'}")
    assert "is for 3 classes, the dataset has 10; set --config.new_head=True" in error
