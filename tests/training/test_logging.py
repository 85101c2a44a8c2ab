"""The run log: the cost of its import, its warning, and the time that it says is left."""

import subprocess
import sys
import time

import numpy as np
import pytest

from shapjax.errors import UserError
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
