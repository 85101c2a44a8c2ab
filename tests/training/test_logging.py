"""The run log: the cost of its import, its warning, and the time that it says is left."""

import json
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from shapjax import paths
from shapjax.errors import UserError
from shapjax.training import logging
from shapjax.training.logging import RunLog


def metrics(loss, gradient_norm=1.0):
    """Returns the metrics of a step that are looked at after every step."""
    return {"loss": loss, "loss_classification": loss, "gradient_norm": gradient_norm}


def test_it_does_not_import_torch_nor_keep_others_from_it():
    code = "import sys, shapjax.training.logging; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_diverges_says_so_once(tmp_path, capsys):
    falling, rising = np.linspace(2, 0.5, 300), np.linspace(0.5, 2.5, 300)
    with RunLog(tmp_path, start=0, work=np.arange(601), batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate([*falling, *rising], 1):
            log.step(step, metrics(loss))
    said = [line for line in capsys.readouterr().err.splitlines() if "diverges" in line]
    assert len(said) == 1 and "lower --config.optim.learning_rate" in said[0]
    assert 300 < int(said[0].split("step ")[1].split(":")[0]) < 600


@pytest.mark.parametrize(("numbers", "expected"), [
    ((np.nan, 1.0), "the loss is nan at step 2"), ((1.0, np.inf), "the norm of the gradient is inf at step 2")])
def test_numbers_that_are_not_finite_end_the_run_before_their_state_is_kept(numbers, expected, tmp_path):
    with RunLog(tmp_path, start=0, work=np.arange(4), batch_size=1, every=1000, fetch=lambda x: x) as log:
        log.step(1, metrics(1.0))
        log.step(2, metrics(*numbers))
        with pytest.raises(UserError, match=f"{expected}; lower .* earlier steps are kept"):
            log.catch_up()
        with pytest.raises(UserError, match="cross-entropy of the test images is nan at step 3"):
            log.test(3, accuracy=0.1, cross_entropy=np.nan)


def test_of_several_processes_one_speaks(tmp_path, capsys):
    rising = np.linspace(0.5, 9, 300)
    with RunLog(tmp_path, start=0, work=np.arange(301), batch_size=1, every=1000, fetch=lambda x: x,
                writes=False) as log:
        for step, loss in enumerate(rising, 1):
            log.step(step, metrics(loss))
    assert capsys.readouterr().err == ""


def test_a_noisy_loss_that_falls_says_nothing(tmp_path, capsys):
    noise = np.random.default_rng(0).gamma(1.0, 1.0, 600) * np.linspace(2, 0.2, 600)
    with RunLog(tmp_path, start=0, work=np.arange(601), batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate(noise, 1):
            log.step(step, metrics(loss))
    assert "diverges" not in capsys.readouterr().err


@pytest.mark.parametrize("writes", [True, False])
def test_a_profile_is_told_of_each_step_and_can_wait_for_it_in_the_process_that_writes(tmp_path, writes):
    fetched, told = [], []

    class Profile:
        def step(self, step, wait):
            before = len(fetched)
            wait()
            told.append((step, len(fetched) - before))

    def fetch(values):
        fetched.append(values)
        return values

    with RunLog(tmp_path, start=0, work=np.arange(4), batch_size=1, every=1000, fetch=fetch, writes=writes,
                profile=Profile()) as log:
        for step in (1, 2, 3):
            log.step(step, metrics(1.0))
    assert told == ([(1, 1), (2, 1), (3, 1)] if writes else [])


@pytest.mark.parametrize(("start", "minutes"), [(0, 33), (400, 11)])
def test_the_time_left_is_told_from_the_work_left(start, minutes, tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    work = np.concatenate([np.arange(101.0), np.arange(102.0, 1001, 2), [2000.0]])  # a step is 1, later 2; then a test
    with RunLog(tmp_path, start=start, work=work, batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step in range(start + 1, start + 41):
            now[0] += 100 if step == start + 1 else 1  # the first step compiles, and the estimate leaves it out
            log.step(step, metrics(1.0))
    said = [line for line in capsys.readouterr().err.splitlines() if "minutes to go" in line]
    assert said == [f"about {minutes} minutes to go, evaluation included"]


def test_the_time_left_leaves_out_what_compiles(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with RunLog(tmp_path, start=0, work=np.arange(3601.0), compiling=[6], batch_size=1, every=1000,
                fetch=lambda x: x) as log:
        for step in range(1, 30):
            now[0] += 500 if step in (1, 6) else 1
            log.step(step, metrics(1.0))
    assert "about 60 minutes to go" in capsys.readouterr().err


def steps_of(lines):
    """Returns the steps of the lines of metrics.jsonl."""
    return [json.loads(line)["step"] for line in lines.splitlines()]


def keep(log, steps, path):
    """Gives a log steps and an evaluation after the last but one; returns what can be read at a path then."""
    for step in steps:
        names = ("loss", "gradient_norm", "loss_classification", "loss_masked", "loss_shapley", "accuracy")
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
        events = set((workdir / "tensorboard").iterdir())
        with RunLog(workdir, start=2, work=np.arange(6), batch_size=1, every=1, fetch=lambda x: x) as log:
            assert steps_of(keep(log, [3, 4, 5], path)) == [1, 2, 2, 3, 4, 4]
        assert steps_of(path.read_text()) == [1, 2, 2, 3, 4, 4, 5]
        assert events and events <= set((workdir / "tensorboard").iterdir())


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
            log.step(step, {"loss": loss, "gradient_norm": 1.0, "loss_classification": 1.0}, waited=(asked, arrived))
        assert log.stalled == 2 * stalled
