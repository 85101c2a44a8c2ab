"""Files of weights as a read-only mapping from a tensor's name to its values, which are read one tensor at a time.

The formats are .safetensors, one file or shards with an index, and numpy's .npz. Nothing is unpickled: pickles are
refused unopened.
"""

import copy
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import ml_dtypes  # gives numpy bfloat16
import numpy as np
import safetensors
from etils import epath

from shapjax.errors import UserError, few
from shapjax.paths import as_path, local

SUFFIXES = (".safetensors", ".npz")
PICKLED = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".tar")
INDEX = "model.safetensors.index.json"


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a file or directory, made by `open_weights`; each is read as a fresh array, float32.

    Attributes:
      path: that was opened.
      shapes: of all tensors by name, from the headers alone.
      config: content of the config.json beside the tensors; {} if there is none.
      preprocessor: content of the preprocessor_config.json that Hugging Face writes beside them; {} if there is none.
    """

    def __init__(self, path: epath.Path, shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray]):
        directory = path if path.is_dir() else path.parent
        self.path, self.shapes, self._read = path, shapes, read
        self.config = _json(directory / "config.json")
        self.preprocessor = _json(directory / "preprocessor_config.json")

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.shapes:
            raise KeyError(name)
        try:
            array = self._read(name)
        except Exception as e:  # whatever safetensors, zipfile and zlib raise on damaged files
            raise _damaged(self.path, e) from e
        if array.dtype.kind == "V" and array.itemsize == 2:
            array = array.view(ml_dtypes.bfloat16)  # which a .npz stores so
        if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
            raise UserError(f"tensor {name} of {self.path} is {array.dtype}, expected numbers")
        return array.astype(np.float32, copy=False)

    def under(self, prefix: str) -> "Weights":
        """Returns the tensors whose names start with a prefix, under the rest of their names."""
        view = copy.copy(self)
        view.shapes = {name.removeprefix(prefix): shape for name, shape in self.shapes.items()
                       if name.startswith(prefix)}
        view._read = lambda name: self._read(prefix + name)
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_weights(path: str | os.PathLike) -> Weights:
    """Opens the weights in a file or directory.

    Args:
      path: a .safetensors or .npz file, or a directory with model.safetensors, with shards and their
        model.safetensors.index.json, or with one file of any name.

    Raises:
      UserError: if there are none, they are damaged, or they are pickles.
    """
    path = as_path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"weights {path} do not exist; give a .safetensors or .npz file, or a directory with one")
    if file.name.endswith(".index.json"):
        return _sharded(path, file)
    if file.suffix in PICKLED:
        raise UserError(_how_to_convert(file))
    if file.suffix not in SUFFIXES:
        raise UserError(f"weights {file} are of no known format; expected one of {', '.join(SUFFIXES)}")
    return _safetensors(path, [file]) if file.suffix == ".safetensors" else _npz(path, file)


def _file_in(directory: epath.Path) -> epath.Path:
    """Returns the file of a directory that holds its weights, or the index of shards."""
    for name in ("model.safetensors", INDEX):
        if (directory / name).is_file():
            return directory / name
    files = sorted(file for file in directory.iterdir() if file.is_file())
    found = [file for file in files if file.suffix in SUFFIXES]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{directory} holds several files of weights ({few([file.name for file in found])}); give one "
                        "of them")
    pickled = [file for file in files if file.suffix in PICKLED]
    if pickled:
        raise UserError(_how_to_convert(pickled[0]))
    raise UserError(f"{directory} holds no weights; expected model.safetensors, {INDEX} and its shards, or one .npz")


def _how_to_convert(file: epath.Path) -> str:
    """Returns how a person can convert a pickle."""
    return (f"{file} is a pickle, which can run any code, and is not opened; where you trust it, convert it: python -c "
            f"\"import torch, safetensors.torch as s; d = torch.load('{file}', 'cpu', weights_only=True); s.save_file("
            f"{{k: v.contiguous().clone() for k, v in d.get('model', d).items()}}, "
            f"'{file.with_suffix('.safetensors')}')\"")


def _safetensors(path: epath.Path, files: list[epath.Path]) -> Weights:
    """Opens safetensors files."""
    handle_of, shapes = {}, {}
    for file in files:
        try:
            handle = safetensors.safe_open(local(file), framework="np")
            for name in handle.keys():
                shapes[name], handle_of[name] = tuple(handle.get_slice(name).get_shape()), handle
        except (safetensors.SafetensorError, OSError) as e:
            raise _damaged(file, e) from e
    return Weights(path, shapes, lambda name: handle_of[name].get_tensor(name))


def _sharded(path: epath.Path, index: epath.Path) -> Weights:
    """Opens the shards that an index lists, which lie beside it."""
    files_of = _json(index).get("weight_map")
    if not isinstance(files_of, dict) or not files_of or not all(
            isinstance(file, str) and file == os.path.basename(file) for file in files_of.values()):
        raise UserError(f"{index} is not an index of shards; expected a \"weight_map\" from tensors to files beside it")
    shards = sorted(set(files_of.values()))
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise UserError(f"{index} names files that are not beside it: {few(absent)}; copy them there")
    weights = _safetensors(path, [index.parent / shard for shard in shards])
    missing = sorted(files_of.keys() - weights.keys())
    if missing:
        raise UserError(f"the shards of {index} lack {len(missing)} tensors that it lists: {few(missing)}; copy them "
                        "again")
    return weights


def _npz(path: epath.Path, file: epath.Path) -> Weights:
    """Opens an .npz; numpy's own reader would read a tensor to tell its shape."""
    shapes = {}
    try:
        archive = zipfile.ZipFile(local(file))
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as array:
                shapes[name], dtype = _header(array)
            if dtype.hasobject:
                raise UserError(f"tensor {name} of {file} holds Python objects, which could run any code, and is not "
                                "read; save plain arrays of numbers")
    except UserError:
        raise
    except Exception as e:  # of zipfile, zlib, numpy and the system
        raise _damaged(file, e) from e

    def read(name: str) -> np.ndarray:
        with archive.open(f"{name}.npy") as array:
            return np.lib.format.read_array(array, allow_pickle=False)

    return Weights(path, shapes, read)


def _header(array: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Reads the shape and dtype of an array in numpy's format, without its values."""
    version = np.lib.format.read_magic(array)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(array)
    return shape, dtype


def _json(file: epath.Path) -> dict[str, Any]:
    """Reads a JSON object; {} if there is no such file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text())
    except ValueError as e:  # of json, or of the decoder
        raise UserError(f"{file} is not JSON: {str(e)[:200]}; copy it again") from e
    if not isinstance(values, dict):
        raise UserError(f"{file} is a JSON {type(values).__name__}, expected an object")
    return values


def _damaged(path: epath.Path, error: Exception) -> UserError:
    """Returns a UserError for files that cannot be read."""
    reason = " ".join(str(error).split())[:200]
    return UserError(f"weights {path} are damaged or incomplete: {type(error).__name__}: {reason}; download or copy "
                     "them again")
