"""An exported model is the model: the same values from the program, the same bits from the parameters, or one line."""

import functools
import json
import pathlib

import jax
import jax.export
import numpy as np
import pytest
import safetensors.numpy

from shapjax import config, models
from shapjax import model as inference
from shapjax.errors import UserError
from shapjax.export import read as exported
from shapjax.export import write as export
from shapjax.pretrained import loading
from shapjax.pretrained.positions import interpolate
from shapjax.training import checkpoint

# Tiny models of every backbone, and what in them a program could get wrong.
TINY = {
    "vit": {},
    "vit, prefix tokens, bfloat16": {"class_token": True, "registers": 2, "norm_place": "pooled", "dtype": "bfloat16"},
    "resnet": {"backbone": "resnet", "patch_size": 4, "width": 16, "stages": (1, 1, 1), "allocation_depth": 1},
    "convnext": {"backbone": "convnext", "patch_size": 4, "width": 16, "stages": (1,), "norm_place": "pooled"},
}


@functools.cache
def make_model(name):
    """A model of 8x8 images of 2 channels with random parameters, none of them zero."""
    c = config.default_config()
    c.model.update({"patch_size": 4, "width": 16, "depth": 2, "heads": 2} | TINY[name])
    meta = checkpoint.Meta(config=config.resolve(c), class_names=("a", "b", "ç"), image_shape=(8, 8, 2),
                           mean=(0.2, 0.5), std=(0.3, 0.4))
    module = inference.build(meta)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.3).astype(np.float32),
                          models.param_shapes(module, image_shape=meta.image_shape))
    return inference.SelfExplainingModel(module, params, meta, step=7, directory=pathlib.Path("run"))


@pytest.fixture(scope="module")
def model():
    return make_model("vit")


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, size=(5, 8, 8, 2), dtype=np.uint8)


@pytest.fixture
def directory(model, tmp_path):
    """An exported model, of the parameters only."""
    export.write(model, tmp_path / "exported", program=None, weights=True)
    return tmp_path / "exported"


def edit_config(directory, **changes):
    path = directory / exported.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory, edit):
    """Other tensors, with the checksum that belongs to them."""
    path = directory / exported.WEIGHTS
    arrays = safetensors.numpy.load_file(path)
    edit(arrays)
    safetensors.numpy.save_file(arrays, path)
    edit_config(directory, files={exported.WEIGHTS: exported.checksum(path)})


@pytest.mark.parametrize("name", TINY)
def test_a_program_gives_the_models_explanations_whatever_the_batch_and_the_platform(name, images):
    model = make_model(name)
    program = jax.export.deserialize(export.stablehlo(model, platforms=export.PLATFORMS))
    assert program.platforms == export.PLATFORMS
    call = jax.jit(program.call)
    e = model.explain(images)
    assert np.abs(e.shapley).max() > 0.1
    for rows in (1, 5):
        values = call(images[:rows])
        assert values.keys() == {"logits", "shapley", "probabilities"} and values["shapley"].shape == (rows, 2, 2, 3)
        for key in values:
            np.testing.assert_allclose(values[key], e[key][:rows], atol=1e-5, err_msg=key)


def test_every_backbone_is_exported_here():
    assert {dict(settings).get("backbone", "vit") for settings in TINY.values()} == set(models.BACKBONES)


def test_a_program_without_this_machines_platform_is_not_run(model):
    assert export.largest_difference(model, export.stablehlo(model, platforms=["cpu", "cpu"])) < 1e-5
    assert export.largest_difference(model, export.stablehlo(model, platforms=["tpu"])) is None


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_what_is_loaded_again_is_the_same_to_the_bit(name, images, tmp_path):
    model = make_model(name)
    export.write(model, tmp_path, program=None, weights=True)
    again = inference.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.meta.to_dict() == model.meta.to_dict() and again.step == 7 and again.class_names == ("a", "b", "ç")
    np.testing.assert_array_equal(again.explain(images).shapley, model.explain(images).shapley)


@pytest.mark.parametrize(("name", "place"), [("vit", ()), ("resnet", ("allocation",))])
def test_positions_follow_a_model_to_larger_images(name, place, tmp_path):
    model = make_model(name)
    export.write(model, tmp_path, program=None, weights=True)
    larger = inference.build(model.meta).clone(image_size=(16, 12))
    params, report = loading.load(str(tmp_path), larger, image_shape=(16, 12, 2), num_classes=3, new_head=False)
    assert "positions interpolated from 2x2 to 4x3" in str(report) and not report.new
    old, new = model.params, params
    for key in place:
        old, new = old[key], new[key]
    assert old["positions"].shape[0] == 4  # what was loaded is as it was
    np.testing.assert_allclose(new["positions"], interpolate(old["positions"], (2, 2), (4, 3)))


def test_tensors_are_named_by_their_places(directory):
    arrays = safetensors.numpy.load_file(directory / exported.WEIGHTS)
    assert arrays["blocks/attention/qkv/kernel"].shape == (2, 16, 48) and arrays["head/bias"].shape == (3,)


def test_exporting_again_replaces_its_own_files_and_no_others(model, directory):
    (directory / "notes.txt").write_text("mine")
    assert inference.load(directory, step=7).step == 7
    export.write(model, directory, program=b"program", weights=False)
    assert {x.name for x in directory.iterdir()} == {"README.md", "config.json", "explain.stablehlo", "notes.txt"}
    with pytest.raises(UserError, match="without its parameters.*--format all"):
        inference.load(directory)
    export.write(model, directory, program=None, weights=True)
    assert {x.name for x in directory.iterdir()} == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    assert (directory / "notes.txt").read_text() == "mine"
    inference.load(directory)


@pytest.mark.parametrize(("name", "message"), [("checkpoints", "holds a training run"),
                                               ("config.json", "holds config.json of something else"),
                                               ("README.md", "holds README.md of something else"),
                                               ("model.safetensors", "holds model.safetensors of something else")])
def test_files_of_something_else_are_not_replaced(model, tmp_path, name, message):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=message):
        export.write(model, tmp_path, program=b"program", weights=True)
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [(name, "{}")]


def test_an_export_that_fails_leaves_the_one_before(model, directory, monkeypatch):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "checksum", full)
    with pytest.raises(OSError, match="No space left"):
        export.write(model, directory, program=b"program", weights=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_program_that_would_be_too_large_is_refused(model, monkeypatch):
    monkeypatch.setattr(export, "MAX_PROGRAM_BYTES", 1000)
    with pytest.raises(UserError, match="larger than 2 GiB.*--format safetensors"):
        export.stablehlo(model, platforms=["cpu"])


@pytest.mark.parametrize("platforms", [["cpu", "gpu"], [""], []])
def test_platforms_that_do_not_exist_are_named(model, platforms):
    with pytest.raises(UserError, match="expected some of cpu, cuda, rocm, tpu"):
        export.stablehlo(model, platforms=platforms)


def of_backbone(name):
    settings = config.default_config().to_dict()
    settings["model"] |= {"backbone": name}
    return settings


WRONG = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config no JSON": (lambda d: (d / "config.json").write_text('{"shapjax_export": 1'), "it is not JSON"),
    "config no text": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "it is not JSON"),
    "config of another": (lambda d: (d / "config.json").write_text('{"model_type": "v"}'), "not of an exported model"),
    "config a list": (lambda d: (d / "config.json").write_text("[1]"), "not of an exported model"),
    "format": (lambda d: edit_config(d, shapjax_export=2, shapjax="9.1"), "is of format 2, .* reads 1;.*shapjax 9.1"),
    "step": (lambda d: edit_config(d, step="7"), "lacks a step"),
    "classes": (lambda d: edit_config(d, class_names="abc"), "class_names is abc, expected names"),
    "mean": (lambda d: edit_config(d, mean=[0.5]), "do not fit together"),
    "settings": (lambda d: edit_config(d, config={"stepz": 1}), "setting 'stepz' is unknown.*did you mean 'steps'"),
    "no settings": (lambda d: edit_config(d, config=None), "config is None"),
    "backbone": (lambda d: edit_config(d, config=of_backbone("vgg")), "does not describe a model: KeyError: 'vgg'"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "weights cut off": (lambda d: cut(d / "model.safetensors", -4), "is damaged or no safetensors file"),
    "weights empty": (lambda d: cut(d / "model.safetensors", 0), "is damaged or no safetensors file"),
    "a bit": (lambda d: flip_last_bit(d / "model.safetensors"), "its checksum is not the one noted"),
    "a tensor less": (lambda d: edit_weights(d, lambda x: x.pop("norm/bias")), "it lacks norm/bias; .* of 19 tensors"),
    "a tensor more": (lambda d: edit_weights(d, lambda x: x.update(a=x["norm/bias"])), "it also holds a;"),
    "a shape": (lambda d: edit_weights(d, lambda x: x.update({"head/bias": np.zeros(4, np.float32)})),
                r"head/bias is F32 \[4\], expected F32 \[3\]"),
    "a type": (lambda d: edit_weights(d, lambda x: x.update({"head/bias": np.zeros(3, np.float16)})),
               r"head/bias is F16 \[3\], expected F32 \[3\]"),
}


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip_last_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_damaged_or_foreign_is_one_line(directory, name):
    damage, message = WRONG[name]
    damage(directory)
    with pytest.raises(UserError, match=message) as e:
        inference.load(directory)
    assert "\n" not in str(e.value) and str(directory) in str(e.value)


def test_another_step_than_the_one_exported_is_not_there(directory):
    with pytest.raises(UserError, match="no checkpoint of step 8: it was exported at step 7"):
        inference.load(directory, step=8)


def test_an_exported_model_is_what_another_run_can_start_from(model, directory):
    architecture = loading.describe(str(directory))
    assert architecture.settings["width"] == 16 and architecture.num_classes == 3
    params, report = loading.load(str(directory), inference.build(model.meta), image_shape=(8, 8, 2), num_classes=3,
                                  new_head=False)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(model.params))
    assert "run of shapjax" in str(report) and not report.new


def test_an_export_that_describes_no_model_is_named_as_weights_too(directory):
    edit_config(directory, mean=None)
    with pytest.raises(UserError, match=r"exported/config.json does not describe a model: mean is None.*again"):
        loading.describe(str(directory))
