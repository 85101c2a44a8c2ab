"""Bars that half of the default run must reach on real digits; takes minutes."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WEAKER = ("random", "gradient", "input_x_gradient", "smoothgrad", "integrated_gradients")


@pytest.mark.slow
def test_half_the_default_run_is_accurate_and_its_phi_is_near_the_shapley_values(tmp_path):
    """The bounds are those of a whole run: below its results (docs/results.md), above the baseline model's."""
    run = str(tmp_path / "run")
    quick_to_compile = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")  # as the other tests want it, and slow to run
    optimized = {key: value for key, value in os.environ.items() if key not in quick_to_compile}
    for command in (["train.py", "--config", "configs/mnist5k.py", "--workdir", run, "--config.optim.steps=2250"],
                    ["eval.py", "--checkpoint", run, "--images", "16", "--methods", ",".join(("phi", *WEAKER)),
                     "--metrics", "deletion,aopc"]):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=1500,
                       env=optimized)
    values = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert values["accuracy_top1"] >= 0.96
    assert values["shapley_error"]["r2"] >= 0.92
    assert values["efficiency_gap"] <= 1e-4
    methods = {m["key"]: m["values"] for m in json.loads((tmp_path / "run" / "methods.json").read_text())["methods"]}
    for other in WEAKER:  # the values name what the prediction rests on
        assert methods["phi"]["deletion"]["mean"] < methods[other]["deletion"]["mean"], other
        assert methods["phi"]["aopc"]["mean"] > methods[other]["aopc"]["mean"], other
