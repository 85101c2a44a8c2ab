"""Files of weights: every form gives the same tensors; damaged, foreign and dangerous ones are refused in one line."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from shapjax import paths
from shapjax.errors import UserError
from shapjax.pretrained.weights import INDEX, open_weights

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16),
           "c": np.array(7, np.int64), "d": np.array([1.5, -2.0], ml_dtypes.bfloat16)}


def sharded(directory):
    """Writes the tensors in two files and an index to a new directory, and returns it."""
    directory.mkdir()
    parts = {"one.safetensors": ("a.weight",), "two.safetensors": ("b", "c", "d")}
    for file, names in parts.items():
        save_file({name: TENSORS[name] for name in names}, directory / file)
    files_of = {name: file for file, names in parts.items() for name in names}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files_of}))
    return directory


def in_form(form, tmp_path):
    """Writes the tensors in a form and returns the path."""
    if form == "shards":
        return sharded(tmp_path / "shards")
    if form == "npz":
        np.savez_compressed(tmp_path / "some.npz", **TENSORS)
        return tmp_path / "some.npz"
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path if form == "directory" else tmp_path / "model.safetensors"


@pytest.mark.parametrize("in_bucket", [False, True])
@pytest.mark.parametrize("form", ["safetensors", "directory", "shards", "npz"])
def test_every_form_gives_the_same_shapes_and_float32_numbers(form, in_bucket, tmp_path, request):
    path = in_form(form, tmp_path)
    if in_bucket:
        bucket = request.getfixturevalue("bucket")
        paths.upload(paths.as_path(tmp_path), paths.as_path(bucket))
        path = f"{bucket}/{path.relative_to(tmp_path)}"
    weights = open_weights(path)
    assert weights.shapes == {"a.weight": (2, 3), "b": (4,), "c": (), "d": (2,)} and weights.config == {}
    for name, expected in TENSORS.items():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], expected.astype(np.float32))
    with pytest.raises(KeyError):
        weights["e"]


def test_the_config_beside_a_file_belongs_to_it(tmp_path):
    path = in_form("safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert open_weights(path).config == open_weights(tmp_path).config == {"model_type": "vit"}


def test_a_pickle_is_not_opened_but_how_to_convert_it_is_said(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    for name in ("pytorch_model.bin", "model.pth", "model.pt", "model.ckpt", "model.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
        with pytest.raises(UserError, match="is a pickle, .*is not opened; .*save_file") as e:
            open_weights(tmp_path / name)
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="pickle"):
        open_weights(tmp_path)  # nothing else is in the directory
    np.savez(tmp_path / "model.npz", a=np.ones(3), b=np.array([Evil()], object))
    with pytest.raises(UserError, match="tensor b of .*holds Python objects"):
        open_weights(tmp_path / "model.npz")
    (tmp_path / "really.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged or incomplete"):
        open_weights(tmp_path / "really.npz")
    assert not ran.exists()


def damage(path, how):
    data = path.read_bytes()
    if how == "cut in the numbers":
        path.write_bytes(data[:-4])
    elif how == "cut in the header":
        path.write_bytes(data[:20])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another file":
        path.write_bytes(b"<html>404</html>" * 20)


@pytest.mark.parametrize("how", ["cut in the numbers", "cut in the header", "empty", "another file"])
@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_a_damaged_file_is_one_line(form, how, tmp_path):
    path = in_form(form, tmp_path)
    damage(path, how)
    with pytest.raises(UserError, match=f"weights .*{path.name} are damaged or incomplete") as e:
        weights = open_weights(path)
        [weights[name] for name in weights]
    assert "\n" not in str(e.value)


def test_numbers_that_a_npz_stores_wrongly_are_found_when_they_are_read(tmp_path):
    path = in_form("npz", tmp_path)
    data = bytearray(path.read_bytes())
    data[90] ^= 0xFF  # among the first array's compressed bytes
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        weights = open_weights(path)
        [weights[name] for name in weights]


def spoilt(how, tmp_path):
    """Returns a path at which something is wrong."""
    directory = tmp_path / "directory"
    if how == "shard missing":
        (sharded(directory) / "two.safetensors").unlink()
    elif how == "tensor missing":
        save_file({"b": TENSORS["b"]}, sharded(directory) / "two.safetensors")
    elif how == "shard elsewhere":
        (sharded(directory) / INDEX).write_text('{"weight_map": {"a": "../two.safetensors"}}')
    elif how == "index of nothing":
        (sharded(directory) / INDEX).write_text("[]")
    elif how == "config no JSON":
        (sharded(directory) / "config.json").write_text("{")
    elif how == "several":
        (sharded(directory) / INDEX).unlink()
    else:
        directory.mkdir()
        (directory / "README.md").write_text("")
    return {"absent": tmp_path / "absent.safetensors", "of no format": directory / "README.md"}.get(how, directory)


@pytest.mark.parametrize(("how", "expected"), [
    ("shard missing", "names files that are not beside it: two.safetensors"),
    ("tensor missing", "lack 2 tensors that it lists: c, d"),
    ("shard elsewhere", "is not an index of shards"),
    ("index of nothing", "is a JSON list, expected an object"),
    ("config no JSON", "config.json is not JSON"),
    ("several", "holds several files of weights .one.safetensors, two.safetensors.; give one"),
    ("none", "holds no weights; expected model.safetensors"),
    ("absent", "absent.safetensors do not exist"),
    ("of no format", "are of no known format; expected one of .safetensors, .npz"),
])
def test_what_is_wrong_with_a_path_is_said_in_one_line(how, expected, tmp_path):
    with pytest.raises(UserError, match=expected) as e:
        open_weights(spoilt(how, tmp_path))
    assert "\n" not in str(e.value)
