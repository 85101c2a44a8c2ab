"""An exported model is the model: the same values from the program, the same bits from the parameters."""

import dataclasses
import json

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy

from shapjax import models
from shapjax.attribution import registry
from shapjax.errors import UserError
from shapjax.export import calibration, read, write
from shapjax.models import inference
from tests.export.conftest import TINY, make_model


def test_a_gradient_costs_two_passes_even_if_the_training_computed_blocks_again(model):
    c = model.meta.config.copy_and_resolve_references()
    c.model.remat = "full"
    module = read.build(dataclasses.replace(model.meta, config=c))

    def passes(module):
        classifier = inference.classifier_of(module, model.params, model.meta.mean, model.meta.std)
        return registry.passes(registry.METHODS["gradient"], classifier, np.zeros((8, 8, 2), np.float32), coalitions=1)

    assert passes(module) == pytest.approx(2, abs=0.2)
    assert passes(module.clone(remat="full")) > 2.6


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, size=(5, 8, 8, 2), dtype=np.uint8)


@pytest.mark.parametrize(("name", "rows"), [
    ("vit, prefix tokens, bfloat16", (1, 5)), ("resnet", (5,)), ("convnext", (5,))])
def test_a_program_gives_the_models_explanations_whatever_the_batch_and_the_platform(name, rows, images):
    model = make_model(name)
    program = jax.export.deserialize(write.stablehlo(model, platforms=write.PLATFORMS)[read.PROGRAM])
    assert program.platforms == write.PLATFORMS
    expected = jax.jit(inference.explanation)(model.classifier, images)
    assert np.abs(expected["shapley"]).max() > 0.1
    for b in rows:
        values = jax.jit(program.call)(images[:b])
        assert values.keys() == {"logits", "shapley", "probabilities"} and values["shapley"].shape == (b, 2, 2, 3)
        for key in values:
            np.testing.assert_allclose(values[key], expected[key][:b], atol=1e-5, err_msg=key)


def test_a_calibrated_model_is_exported_with_its_errors_and_the_values_of_pairs(calibrated, images, tmp_path, rng):
    programs = {name: jax.export.deserialize(bytearray(program))
                for name, program in write.stablehlo(calibrated, platforms=["cpu"]).items()}
    assert programs.keys() == {read.PROGRAM, read.PAIR}
    expected = jax.jit(inference.explanation)(calibrated.classifier, images)
    values = jax.jit(programs[read.PROGRAM].call)(images)
    assert values.keys() == expected.keys() >= {"standard_error", "freedom"}
    np.testing.assert_allclose(values["standard_error"], expected["standard_error"], rtol=1e-4)
    masks = rng.random((5, 4)) < 0.5
    for got, value in zip(programs[read.PAIR].call(images, masks), calibrated.classifier.pair_logits(images, masks),
                          strict=True):
        np.testing.assert_allclose(got, value, atol=1e-5)
    written = write.write(calibrated, tmp_path, programs={}, weights=True)
    assert "calibration.json" in written
    params, _, step = read.read_model(tmp_path)
    found = calibration.read(tmp_path, step=step, params=params)
    assert found.images == 16 and found.law.scale == pytest.approx(0.3)
    write.write(calibrated._replace(calibration=None), tmp_path, programs={}, weights=True)
    assert calibration.read(tmp_path, step=step, params=params) is None


def test_every_backbone_is_exported_here():
    assert {dict(settings).get("backbone", "vit") for settings in TINY.values()} == set(models.BACKBONES)


def test_a_program_is_compared_with_the_model_unless_it_is_for_other_devices(model):
    program = write.stablehlo(model, platforms=["cpu", "cpu"])[read.PROGRAM]
    assert write.largest_difference(model, program) < 1e-5
    other = model._replace(classifier=model.classifier.replace(
        params=jax.tree.map(lambda x: 1.1 * x, model.params)))
    assert write.largest_difference(other, program) > 0.01
    assert write.largest_difference(model, write.stablehlo(model, platforms=["tpu"])[read.PROGRAM]) is None


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_what_is_read_again_is_the_same_to_the_bit(name, tmp_path):
    model = make_model(name)
    write.write(model, tmp_path, programs={}, weights=True)
    params, meta, step = read.read_model(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(model.params))
    assert meta.to_dict() == model.meta.to_dict() and step == 7 and meta.class_names == ("a", "b", "ç")


def test_what_was_measured_goes_with_the_model_until_it_is_measured_again(model, directory):
    assert read.read_measured(directory, step=7) is None
    measured = {"dataset": "mnist5k", "accuracy": 0.9, "r2": None}
    write.write(model._replace(measured=measured), directory, programs={}, weights=True)
    assert read.read_measured(directory, step=7) == measured
    evaluation = {"step": 7, "dataset": "folder:x", "accuracy_top1": 0.8, "shapley_error": {"r2": 0.7}}
    (directory / "eval.json").write_text(json.dumps(evaluation))
    assert read.read_measured(directory, step=7) == {"dataset": "folder:x", "accuracy": 0.8, "r2": 0.7}
    assert read.read_measured(directory, step=6) == measured


def test_tensors_are_named_by_their_places(directory):
    arrays = safetensors.numpy.load_file(directory / read.WEIGHTS)
    assert arrays["blocks/attention/qkv/kernel"].shape == (2, 16, 48) and arrays["head/bias"].shape == (3,)


def test_exporting_again_replaces_its_own_files_and_no_others(model, directory):
    (directory / "notes.txt").write_text("mine")
    assert read.read_model(directory, step=7)[2] == 7
    write.write(model, directory, programs={read.PROGRAM: b"program"}, weights=False)
    assert {x.name for x in directory.iterdir()} == {"README.md", "config.json", "explain.stablehlo", "notes.txt"}
    with pytest.raises(UserError, match="without its parameters.*--format all"):
        read.read_model(directory)
    write.write(model, directory, programs={}, weights=True)
    assert {x.name for x in directory.iterdir()} == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert (directory / "notes.txt").read_text() == "mine"
    read.read_model(directory)


@pytest.mark.parametrize(("name", "message"), [("checkpoints", "holds a training run"),
                                               ("config.json", "holds config.json of something else"),
                                               ("README.md", "holds README.md of something else"),
                                               ("model.safetensors", "holds model.safetensors of something else")])
def test_files_of_something_else_are_not_replaced(model, tmp_path, name, message):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=message):
        write.write(model, tmp_path, programs={read.PROGRAM: b"program"}, weights=True)
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [(name, "{}")]


def test_an_export_that_fails_leaves_the_one_before(model, directory, monkeypatch):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "usage", full)
    with pytest.raises(OSError, match="No space left"):
        write.write(model, directory, programs={read.PROGRAM: b"program"}, weights=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_program_that_would_be_too_large_is_refused(model, monkeypatch):
    monkeypatch.setattr(write, "MAX_PROGRAM_BYTES", 1000)
    with pytest.raises(UserError, match="larger than 2 GiB.*--format safetensors"):
        write.stablehlo(model, platforms=["cpu"])


@pytest.mark.parametrize("platforms", [["cpu", "gpu"], [""], []])
def test_platforms_that_do_not_exist_are_named(model, platforms):
    with pytest.raises(UserError, match="expected some of cpu, cuda, rocm, tpu"):
        write.stablehlo(model, platforms=platforms)


def test_another_step_than_the_one_exported_is_not_there(directory):
    with pytest.raises(UserError, match="no checkpoint of step 8: it was exported at step 7"):
        read.read_model(directory, step=8)
