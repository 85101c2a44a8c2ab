"""Preparing a dataset: mistakes are one line; TensorFlow is asked for only when it is needed."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def prepare(*arguments):
    return subprocess.run([sys.executable, "-m", "shapjax.data.prepare", *arguments], cwd=ROOT, capture_output=True,
                          text=True)


def test_an_unknown_name_is_one_line_with_near_ones():
    result = prepare("cifar1O", "--data_dir", "/nowhere")
    assert result.returncode == 1 and result.stderr.startswith("error: tfds:cifar1O is no dataset"), result.stderr
    assert "did you mean cifar10 or" in result.stderr and result.stderr.strip().count("\n") == 0


def test_without_tensorflow_it_says_what_to_install():
    code = ("import importlib.util as u, sys; find = u.find_spec\n"
            "u.find_spec = lambda name, *a: None if name == 'tensorflow' else find(name, *a)\n"
            "from shapjax.data import prepare\n"
            "sys.argv = ['prepare', 'tfds:cifar10', '--data_dir', '/nowhere']; prepare.run()")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "run `pip install tensorflow-cpu`" in result.stderr, result.stderr


def test_help_says_what_it_does():
    out = prepare("--help").stdout
    assert "array_record" in out and "--data_dir" in out
