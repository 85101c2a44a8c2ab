"""train.py --dry_run and --profile as a person types them: what a step takes, beforehand and while it runs."""

import re

import pytest


def test_a_dry_run_says_what_a_step_takes_and_leaves_nothing(tmp_path, command, small):
    out = command("train.py", *small, "--workdir", tmp_path / "run", "--dry_run", "--devices=4", "--chip=H100",
                  "--config.run.parallel=fsdp")
    lines = dict(re.findall(r"^(\S+(?: \w+)?) {2,}(.*)$", out, re.M))
    assert lines.keys() == {"model", "a step", "a device", "sent", "speed", "compiled"}
    assert "16 images" in lines["a step"] and "between 4 devices" in lines["sent"]
    assert "all-gather" in lines["sent"] and "40% of the peak of H100" in lines["speed"]
    assert lines["compiled"] == "for a CPU in place of H100"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_recipe_for_imagenet_is_planned_without_its_files(tmp_path, command):
    out = command("train.py", "--config", "configs/imagenet.py:b16", "--workdir", tmp_path / "run", "--dry_run",
                  "--devices=64", "--chip=H100", f"--config.data.data_dir={tmp_path}")
    assert "86,566,120 parameters" in out and "4,096 images" in out
    assert float(re.search(r"([\d.]+) GFLOP an image", out)[1]) == pytest.approx(212, rel=0.01)  # docs/scaling.md


@pytest.mark.slow
def test_a_profile_is_taken_of_a_run(tmp_path, command, small):
    out = command("train.py", *small, "--workdir", tmp_path / "run", "--config.optim.steps=12", "--profile=4:5")
    assert re.search(r"^steps 4 to 8: \S+ s each, \S+ images/s, \S+ TFLOP/s a device; the trace is in ", out, re.M)
    assert len(list((tmp_path / "run" / "tensorboard" / "plugins" / "profile").glob("*/*.trace.json.gz"))) == 1
    out = command("train.py", *small, "--workdir", tmp_path / "run", "--config.optim.steps=12", "--profile=4:5")
    assert "--profile=4:5: 12 steps have been taken before; nothing is traced" in out
