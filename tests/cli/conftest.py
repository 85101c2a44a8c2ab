"""Shared by tests of the commands: the commands in processes of their own, a short training run."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from shapjax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ["--config", "configs/mnist5k.py", "--config.model.width=16", "--config.model.depth=1",
         "--config.model.heads=2", "--config.model.patch_size=14", "--config.optim.batch_size=16",
         "--config.run.log_every=5", "--config.run.cpu_devices=2", "--config.model.dtype=float32", "--nocalibrate"]
# train.py with steps of at least 0.1 s, so that a signal comes before the end.
SLOW_STEPS = """
import time
from shapjax.cli import train
from shapjax.training.logging import RunLog
step = RunLog.step
def slow_step(*arguments, **named):
    time.sleep(0.1)
    step(*arguments, **named)
RunLog.step = slow_step
train.run()
"""


@pytest.fixture(autouse=True, scope="session")
def quick_compilation(tmp_path_factory):
    """Lets the processes started here share compiled programs, and compile as quickly as the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
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


# What gloo's threads write of each connection, in pieces that mix with those of other threads.
GLOO = re.compile(r"\[Gloo\] Rank|is connected to|peer ranks\.?|Expected number of connected|is ?:|[\d\s]")


class Process(NamedTuple):
    """Holds a process of a run."""

    popen: subprocess.Popen
    out: pathlib.Path
    err: pathlib.Path

    def end(self, timeout=300):
        """Waits for it; returns its status and its lines on stdout and stderr, without gloo's and the progress bar."""
        status = self.popen.wait(timeout)
        lines = [[x for x in path.read_text().split("\n") if GLOO.sub("", x) and not x.startswith(("training:", "\r"))]
                 for path in (self.out, self.err)]
        return status, *lines


@pytest.fixture
def start(tmp_path):
    """Starts a training run: start(arguments, processes=2, code=...); no process outlives the test."""
    started = []

    def start(*arguments, processes=1, code=None):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        new = []
        for i in range(processes):
            together = ["--coordinator", f"localhost:{port}", "--num_processes", processes, "--process_id", i]
            out, err = (tmp_path / f"process{len(started)}.{name}" for name in ("out", "err"))
            with out.open("w") as out_file, err.open("w") as err_file:
                popen = subprocess.Popen(
                    [sys.executable, *(["train.py"] if code is None else ["-c", code]), *map(str, arguments),
                     *map(str, together if processes > 1 else [])], cwd=ROOT, stdout=out_file, stderr=err_file)
            new.append(Process(popen, out, err))
            started.append(new[-1])
        return new

    yield start
    for process in started:
        process.popen.kill()
        process.popen.wait()


@pytest.fixture(scope="session")
def wait_for():
    """Waits until a function of nothing is true; fails when a process has ended before, or after two minutes."""

    def wait(condition, process=None):
        end = time.monotonic() + 120
        while not (value := condition()):
            assert process is None or process.popen.poll() is None, process.err.read_text()[-3000:]
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)
        return value

    return wait


def read_state(workdir, step=None):
    """Returns all that a checkpoint (the newest, or that of a step) holds: arrays by path, and the data position."""
    items = ("params", "training")
    with checkpoint.open_manager(workdir, keep=1, read_only=True) as manager:
        step = manager.latest_step() if step is None else step
        saved = manager.restore(step, args=checkpoint.ocp.args.Composite(
            data=checkpoint.ocp.args.JsonRestore(),
            **{item: checkpoint.ocp.args.StandardRestore(_on_host(manager, step, item)) for item in items}))
    arrays = jax.tree_util.tree_leaves_with_path((saved.params, saved.training))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in arrays}, saved.data


def _on_host(manager, step, item):
    # Whatever devices the run had: this process has others.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = checkpoint.ocp.StandardCheckpointHandler().metadata(manager.directory / str(step) / item).tree
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def require_same_state(one, other):
    """Asserts that the newest checkpoints of two runs are equal to the bit: parameters, optimizer, data position."""
    (one, one_data), (other, other_data) = read_state(one), read_state(other)
    assert one.keys() == other.keys() and one_data == other_data
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.fixture(scope="session")
def saved_state():
    return read_state


@pytest.fixture(scope="session")
def assert_same_state():
    return require_same_state


@pytest.fixture(scope="session")
def small():
    """Returns the arguments of a training run that takes seconds."""
    return list(SMALL)


@pytest.fixture(scope="session")
def slow_steps():
    """Writes a program: train.py with steps of at least 0.1 s."""
    return SLOW_STEPS


@pytest.fixture(scope="session")
def run(tmp_path_factory, command):
    """Makes a short, uninterrupted training run. Tests that write to it copy it."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    out = command("train.py", *SMALL, "--workdir", workdir, "--config.optim.steps=20", "--config.run.eval_every=10",
                  "--calibrate")
    assert "test accuracy" in out and str(workdir / "checkpoints") in out
    return workdir
