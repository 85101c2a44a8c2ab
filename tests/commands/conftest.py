"""What tests of the commands share: the commands in processes of their own, a short training run."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--config", "configs/mnist5k.py", "--config.model.width=16", "--config.model.depth=1",
         "--config.model.heads=2", "--config.model.patch_size=14", "--config.batch_size=16", "--config.log_every=5",
         "--config.cpu_devices=2"]


@pytest.fixture(autouse=True, scope="session")
def quick_compilation(tmp_path_factory):
    """The processes started here share what they compile, and compile as quickly as those of the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
        yield


@pytest.fixture(scope="session")
def command():
    """Runs a script of the project in a process of its own; returns stdout, or stderr where it is to fail."""

    def run(script, *arguments, expect=0, environment=()):
        result = subprocess.run([sys.executable, script, *map(str, arguments)], cwd=ROOT, capture_output=True,
                                text=True, timeout=300, env=os.environ | dict(environment))
        assert result.returncode == expect, result.stderr[-3000:]
        return result.stderr if expect else result.stdout

    return run


@pytest.fixture(scope="session")
def fails_with_one_line(command):
    """Runs a script; returns the one line of a user's mistake."""

    def run(script, *arguments):
        lines = command(script, *arguments, expect=1).splitlines()
        lines = [x for x in lines if x and not x.startswith("training:")]
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return run


@pytest.fixture(scope="session")
def small():
    """Arguments of a training run that takes seconds."""
    return list(SMALL)


@pytest.fixture(scope="session")
def run(tmp_path_factory, command):
    """A short training run, uninterrupted. Tests that write to it copy it."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    out = command("train.py", *SMALL, "--workdir", workdir, "--config.steps=20", "--config.eval_every=10")
    assert "test accuracy" in out and str(workdir / "checkpoints") in out
    return workdir
