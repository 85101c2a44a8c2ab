"""The run log: the cost of its import, its warning, and the time that it says is left."""

import subprocess
import sys
import time

import numpy as np
import pytest

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
            log.step(step, {"loss": 1.0, "loss_classification": 1.0})
    assert told == ([(1, 1), (2, 1), (3, 1)] if writes else [])


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
