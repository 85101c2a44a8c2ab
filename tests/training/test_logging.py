"""The run log: the cost of its import, its warning, and the time that it says is left."""

import json
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from shapjax import paths
from shapjax.training import logging
from shapjax.training.logging import RunLog


def test_it_does_not_import_torch_nor_keep_others_from_it():
    code = "import sys, shapjax.training.logging; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_diverges_says_so_once(tmp_path, capsys):
    falling, rising = np.linspace(2, 0.5, 300), np.linspace(0.5, 2.5, 300)
    with RunLog(tmp_path, start=0, work=np.arange(601), batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate([*falling, *rising], 1):
            log.step(step, {"loss": loss, "loss_classification": loss})
    said = [line for line in capsys.readouterr().err.splitlines() if "diverges" in line]
    assert len(said) == 1 and "lower --config.optim.learning_rate" in said[0]
    assert 300 < int(said[0].split("step ")[1].split(":")[0]) < 600


def test_of_several_processes_one_speaks(tmp_path, capsys):
    rising = np.linspace(0.5, 9, 300)
    with RunLog(tmp_path, start=0, work=np.arange(301), batch_size=1, every=1000, fetch=lambda x: x,
                writes=False) as log:
        for step, loss in enumerate(rising, 1):
            log.step(step, {"loss": loss, "loss_classification": loss})
    assert capsys.readouterr().err == ""


def test_a_noisy_loss_that_falls_says_nothing(tmp_path, capsys):
    noise = np.random.default_rng(0).gamma(1.0, 1.0, 600) * np.linspace(2, 0.2, 600)
    with RunLog(tmp_path, start=0, work=np.arange(601), batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate(noise, 1):
            log.step(step, {"loss": loss, "loss_classification": loss})
    assert "diverges" not in capsys.readouterr().err


@pytest.mark.parametrize(("start", "minutes"), [(0, 33), (400, 11)])
def test_the_time_left_is_told_from_the_work_left(start, minutes, tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    work = np.concatenate([np.arange(101.0), np.arange(102.0, 1001, 2), [2000.0]])  # a step is 1, later 2; then a test
    with RunLog(tmp_path, start=start, work=work, batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step in range(start + 1, start + 41):
            now[0] += 100 if step == start + 1 else 1  # the first step compiles, and the estimate leaves it out
            log.step(step, {"loss": 1.0, "loss_classification": 1.0})
    said = [line for line in capsys.readouterr().err.splitlines() if "minutes to go" in line]
    assert said == [f"about {minutes} minutes to go, evaluation included"]


def steps_of(lines):
    """Returns the steps of the lines of metrics.jsonl."""
    return [json.loads(line)["step"] for line in lines.splitlines()]


def keep(log, steps, path):
    """Gives a log steps and an evaluation after the last but one; returns what can be read at a path then."""
    for step in steps:
        names = ("loss", "loss_classification", "loss_masked", "loss_shapley", "accuracy")
        log.step(step, dict.fromkeys(names, 1.0))
        if step == steps[-2]:
            log.catch_up()
            log.test(step, accuracy=0.5, cross_entropy=1.0)
            logged = path.read_text()
    log.catch_up()
    return logged


def test_what_a_run_in_a_bucket_has_logged_is_there_with_each_evaluation_and_grows_when_it_goes_on(tmp_path, bucket):
    for workdir in (paths.as_path(tmp_path), paths.as_path(bucket)):
        path = workdir / "metrics.jsonl"
        with RunLog(workdir, start=0, work=np.arange(6), batch_size=1, every=1, fetch=lambda x: x) as log:
            evaluated = keep(log, [1, 2, 3], path)
        assert steps_of(evaluated) == [1, 2, 2] and steps_of(path.read_text()) == [1, 2, 2, 3]
        with RunLog(workdir, start=2, work=np.arange(6), batch_size=1, every=1, fetch=lambda x: x) as log:
            assert steps_of(keep(log, [3, 4, 5], path)) == [1, 2, 2, 3, 4, 4]
        assert steps_of(path.read_text()) == [1, 2, 2, 3, 4, 4, 5]
        assert any((workdir / "tensorboard").iterdir())


class Computed:
    """A loss that devices have computed at some time."""

    def __init__(self, clock, done):
        self.clock, self.done = clock, done

    def block_until_ready(self):
        self.clock.now = self.done
        return self

    def __float__(self):
        return 1.0


@pytest.mark.parametrize(("computing", "between", "reading", "stalled"), [
    (0, 0, 5, 5), (6, 0, 2, 0), (2, 0, 6, 4), (2, 100, 3, 3)])
def test_devices_are_stalled_from_the_end_of_a_step_until_its_next_batch_is_there(
        tmp_path, monkeypatch, computing, between, reading, stalled):
    clock, arrived = types.SimpleNamespace(now=0.0), 0.0
    monkeypatch.setattr(logging, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    with RunLog(tmp_path, start=0, work=np.arange(10), batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step in (1, 2, 3):
            asked = arrived + between
            arrived = asked + reading
            loss = Computed(clock, arrived + computing)
            log.step(step, {"loss": loss, "loss_classification": 1.0}, waited=(asked, arrived))
        assert log.stalled == 2 * stalled
