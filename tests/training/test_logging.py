"""The run log: the cost of its import, and its warning."""

import subprocess
import sys

import numpy as np

from shapjax.training.logging import RunLog


def test_it_does_not_import_torch_nor_keep_others_from_it():
    code = "import sys, shapjax.training.logging; assert 'torch' not in sys.modules; import torch; torch.ones(1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_diverges_says_so_once(tmp_path, capsys):
    falling, rising = np.linspace(2, 0.5, 300), np.linspace(0.5, 2.5, 300)
    with RunLog(tmp_path, start=0, steps=600, batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate([*falling, *rising], 1):
            log.step(step, {"loss": loss, "loss_classification": loss})
    said = [line for line in capsys.readouterr().err.splitlines() if "diverges" in line]
    assert len(said) == 1 and "lower --config.optim.learning_rate" in said[0]
    assert 300 < int(said[0].split("step ")[1].split(":")[0]) < 600


def test_a_noisy_loss_that_falls_says_nothing(tmp_path, capsys):
    noise = np.random.default_rng(0).gamma(1.0, 1.0, 600) * np.linspace(2, 0.2, 600)
    with RunLog(tmp_path, start=0, steps=600, batch_size=1, every=1000, fetch=lambda x: x) as log:
        for step, loss in enumerate(noise, 1):
            log.step(step, {"loss": loss, "loss_classification": loss})
    assert "diverges" not in capsys.readouterr().err
