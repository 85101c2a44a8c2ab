"""Training that starts from weights: before its first step a run has their parameters, however it is split."""

import json
import shutil

import jax
import numpy as np
import pytest

import shapjax
from shapjax.export import read
from shapjax.pretrained import loading

# A run with these settings ends with the parameters that it started with.
FROZEN = ["--config.optim.steps=2", "--config.run.eval_every=1", "--config.optim.learning_rate=0.0",
          "--config.optim.ema_decay=0.0", "--config.shapley.num_pairs=0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, write_vit):
    """Returns a directory with a tiny ViT for ten classes of color images with pixels in [-1, 1]."""
    directory = tmp_path_factory.mktemp("weights")
    write_vit(directory, classes=10)
    halves = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (directory / "preprocessor_config.json").write_text(json.dumps(halves))
    return directory


@pytest.fixture(scope="module")
def frozen(weights, tmp_path_factory, command, small):
    """Returns a run on gray digits from these weights that learns nothing, and its output."""
    workdir = tmp_path_factory.mktemp("runs") / "frozen"
    return workdir, command("train.py", *small, *FROZEN, f"--config.pretrained={weights}", "--workdir", workdir)


def assert_holds(workdir, weights):
    """Asserts that the parameters in a run's newest checkpoint are those that the weights give its model."""
    params, meta, _ = read.read_model(workdir)
    module = read.build(meta)
    expected, _ = loading.load(str(weights), module, image_shape=meta.image_shape, class_names=meta.class_names,
                                new_head=False)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_run_starts_with_the_parameters_and_the_normalization_of_its_weights(frozen, weights):
    workdir, out = frozen
    assert f"pretrained    {weights}: Hugging Face ViT, 24 tensors" in out
    assert "the images are gray: kernel summed over its 3 channels" in out
    assert_holds(workdir, weights)
    model = shapjax.load(workdir)
    assert model.mean == (0.5,) and model.config.loaded.activation == "gelu" and model.grid == (2, 2)


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
                      "--config.run.parallel=fsdp", "--config.run.cpu_devices=1", processes=2)
    ends = [process.end() for process in processes]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert [sum("pretrained    " in line for line in out) for _, out, _ in ends] == [1, 0]
    assert_holds(tmp_path / "run", weights)
