"""An exported model that is damaged or foreign is one line, never other values."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from shapjax import config
from shapjax.errors import UserError
from shapjax.export import calibration, read, write
from shapjax.paths import sealed, unsealed


def edit_config(directory, **changes):
    """Changes values, with the checksum that belongs to them."""
    path = directory / read.CONFIG
    path.write_text(json.dumps(sealed(unsealed(json.loads(path.read_text())) | changes)))


def edit_weights(directory, edit):
    """Writes other tensors, with the checksum that belongs to them."""
    path = directory / read.WEIGHTS
    arrays = safetensors.numpy.load_file(path)
    edit(arrays)
    safetensors.numpy.save_file(arrays, path)
    edit_config(directory, files={read.WEIGHTS: read.checksum(path.read_bytes())})


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
    "old layout": (lambda d: edit_config(d, shapjax_export=1), "of an older version .*format 1; .*reads 2.*again"),
    "new layout": (lambda d: edit_config(d, shapjax_export=3), r"of another version of shapjax \(format 3;"),
    "step": (lambda d: edit_config(d, step="7"), "lacks a step"),
    "classes": (lambda d: edit_config(d, class_names="abc"), "class_names is abc, expected names"),
    "mean": (lambda d: edit_config(d, mean=[0.5]), "do not fit together"),
    "settings": (lambda d: edit_config(d, config={"optim": {"stepz": 1}}), "'optim.stepz' is unknown to this version"),
    "no settings": (lambda d: edit_config(d, config=None), "config is None"),
    "backbone": (lambda d: edit_config(d, config=of_backbone("vgg")),
                 "does not describe a model: backbone=vgg: expected one of"),
    "a digit": (lambda d: replace(d / "config.json", "0.5\n", "0.6\n"), "its values are not those that were written"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors cannot be read"),
    "weights cut off": (lambda d: cut(d / "model.safetensors", -4), "is damaged or no safetensors file"),
    "weights empty": (lambda d: cut(d / "model.safetensors", 0), "is damaged or no safetensors file"),
    "a bit": (lambda d: flip_last_bit(d / "model.safetensors"), r"at step 7 other values were exported of \S+\)"),
    "a bit, of an older export": (lambda d: (flip_last_bit(d / "model.safetensors"), edit_config(d, digests={})),
                                  "its checksum is not the one noted"),
    "a tensor less": (lambda d: edit_weights(d, lambda x: x.pop("norm/bias")), "it lacks norm/bias; .* of 19 tensors"),
    "a tensor more": (lambda d: edit_weights(d, lambda x: x.update(a=x["norm/bias"])), "it also holds a;"),
    "a shape": (lambda d: edit_weights(d, lambda x: x.update({"head/bias": np.zeros(4, np.float32)})),
                r"head/bias is float32 \[4\], expected float32 \[3\]"),
    "a type": (lambda d: edit_weights(d, lambda x: x.update({"head/bias": np.zeros(3, np.float16)})),
               r"head/bias is float16 \[3\], expected float32 \[3\]"),
}


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip_last_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_damaged_or_foreign_is_one_line(directory, name):
    damage, message = WRONG[name]
    damage(directory)
    with pytest.raises(UserError, match=message) as e:
        read.read_model(directory)
    assert "\n" not in str(e.value) and str(directory) in str(e.value)


def test_an_export_of_a_version_that_kept_no_checksum_of_the_settings_is_read(directory):
    (directory / read.CONFIG).write_text(json.dumps(unsealed(json.loads((directory / read.CONFIG).read_text()))))
    assert read.read_model(directory)[2] == 7


def change_one(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [lambda path: cut(path, path.stat().st_size // 2), pathlib.Path.unlink, change_one],
                         ids=["truncated", "removed", "changed"])
def test_whatever_happens_to_a_file_no_wrong_value_is_read(calibrated, tmp_path, damage):
    names = write.write(calibrated, tmp_path, programs={read.PROGRAM: b"program"}, weights=True)
    assert len(names) == 5
    found = set()
    for name in names:
        whole = (tmp_path / name).read_bytes()
        damage(tmp_path / name)
        try:
            params, meta, step = read.read_model(tmp_path)
            jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(calibrated.params))
            assert meta.to_dict() == calibrated.meta.to_dict() and step == 7
            law = calibration.read(tmp_path, step=step, params=params)
            assert law is None or law.to_dict() == calibrated.calibration.to_dict()
        except UserError as e:
            assert "\n" not in str(e) and str(tmp_path / name) in str(e) or name == read.CONFIG
            found.add(name)
        (tmp_path / name).write_bytes(whole)
    assert {read.WEIGHTS, read.CONFIG} <= found <= {read.WEIGHTS, read.CONFIG, "calibration.json"}


def test_the_code_for_a_program_finds_that_it_is_damaged(calibrated, tmp_path, monkeypatch):
    write.write(calibrated, tmp_path, programs={read.PROGRAM: b"program"}, weights=False)
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    change_one(tmp_path / read.PROGRAM)
    with pytest.raises(AssertionError, match="explain.stablehlo is damaged"):
        exec(code, {})
