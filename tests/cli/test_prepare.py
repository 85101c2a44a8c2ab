"""Preparing a dataset: mistakes are one line; TensorFlow is asked for only when it is needed."""

import importlib.util
import pathlib
import subprocess
import sys
import types

import pytest

from shapjax.cli import prepare
from shapjax.errors import UserError


def mistake(monkeypatch, *names):
    monkeypatch.setattr(prepare, "_FLAGS", types.SimpleNamespace(data_dir="/nowhere"))
    with pytest.raises(UserError) as error:
        prepare.main(["prepare", *names])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("names", [(), ("cifar10", "mnist")])
def test_one_name_is_expected(monkeypatch, names):
    assert f"but got {' '.join(names) or 'none'}" in mistake(monkeypatch, *names)


def test_an_unknown_name_is_one_line_with_near_ones(monkeypatch):
    message = mistake(monkeypatch, "cifar1O")
    assert message.startswith("tfds:cifar1O is ") and "did you mean cifar10 or" in message


def test_without_tensorflow_it_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorflow" else find(name, *a))
    assert "run `pip install tensorflow-cpu`" in mistake(monkeypatch, "tfds:cifar10")


def test_help_says_what_it_does():
    result = subprocess.run([sys.executable, "-m", "shapjax", "prepare", "--help"], capture_output=True, text=True,
                            cwd=pathlib.Path(__file__).parents[2])
    assert "array_record" in result.stdout and "--data_dir" in result.stdout, result.stderr
