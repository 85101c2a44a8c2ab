"""The commands as a person types them: the main job end to end, resuming, mistakes."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import shapjax
from shapjax import paths
from shapjax.errors import UserError
from shapjax.training.meta import newest_meta

ROOT = pathlib.Path(__file__).parents[2]


# train.py whose batches stay on the host.
HOST_BATCHES = """
from shapjax.training import sharding
from shapjax.cli import train
sharding.Replicated.batch = lambda self, arrays: {k: x.reshape(2, -1, *x.shape[1:]) for k, x in arrays.items()}
train.run()
"""


def test_a_run_leaves_metrics_config_checkpoints_and_event_files(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["split"] == "train"] == [5, 10, 15, 20]
    assert [r["step"] for r in records if r["split"] == "test"] == [10, 20]
    assert all(np.isfinite(r["loss"]) for r in records if r["split"] == "train")
    assert json.loads((run / "config.json").read_text())["model"]["width"] == 16
    assert list((run / "tensorboard").iterdir())
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["10", "20"]


def test_a_run_cut_off_and_resumed_ends_bit_equal_to_an_uninterrupted_one(run, tmp_path, command, small,
                                                                          assert_same_state):
    shutil.copytree(run, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "20")  # as if it had died after its checkpoint of step 10
    out = command("train.py", *small, "--workdir", tmp_path / "cut", "--config.optim.steps=20",
                  "--config.run.eval_every=10")
    assert "at step 10" in out
    assert_same_state(run, tmp_path / "cut")
    steps = [json.loads(x)["step"] for x in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(15) == 1  # the lines of the lost steps were written once


@pytest.mark.slow
def test_a_run_goes_on_in_the_format_it_began_with(tmp_path, command, small):
    arguments = [*small, "--workdir", tmp_path, "--config.optim.steps=4", "--config.run.eval_every=2"]
    out = command("train.py", *arguments, "--config.model.dtype=bfloat16_products")
    assert "dtype bfloat16_products" in out
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    out = command("train.py", *arguments, "--config.model.dtype=auto")
    assert "at step 2" in out and "dtype bfloat16_products" in out
    assert json.loads((tmp_path / "config.json").read_text())["model"]["dtype"] == "bfloat16_products"
    assert shapjax.load(tmp_path).classifier  # for inference it is built in float32


@pytest.mark.slow
def test_a_default_batch_fits_any_number_of_devices_and_a_given_one_is_refused(tmp_path, command, small,
                                                                               assert_same_state):
    def flags(devices):
        return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}

    given = [*small, "--workdir", tmp_path / "run", "--config.optim.steps=4", "--config.run.eval_every=2"]
    default = [x for x in given if "batch_size" not in str(x)]
    assert "16 is not divisible by the 5 devices; use 15" in command("train.py", *given, environment=flags(5), expect=1)
    out = command("train.py", *default, environment=flags(5))
    assert "batches of 50 images instead of 48, for 5 device(s) and 3,936 images" in out
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    out = command("train.py", *default, environment=flags(5))
    assert "batches of 50 images instead of 48, as the run began" in out and "at step 2" in out
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    assert "at step 2" in command("train.py", *default, environment=flags(2))


def test_the_errors_of_explanations_are_calibrated_at_the_end_on_images_held_out(run):
    found = json.loads((run / "calibration.json").read_text())
    assert (found["step"], found["images"], found["held_out"]) == (20, 64, True)
    model = shapjax.load(run)
    assert (model.explain(np.zeros((1, 28, 28, 1), np.uint8), pairs=2).standard_error > 0).all()
    assert shapjax.load(run, step=10).calibration is None  # it is that of step 20


@pytest.mark.parametrize(("content", "expected"), [
    (lambda found: found | {"params": "of another checkpoint"}, "is of other parameters than those of step 20"),
    (lambda found: {key: value for key, value in found.items() if key != "law"}, "of step 20: expected law"),
    (lambda found: found | {"law": found["law"] | {"scale": None}}, "holds no calibration"),
    (lambda found: found | {"step": "20"}, "step is '20', expected int"), (lambda found: [], "holds no calibration"),
    (lambda found: paths.sealed(found) | {"images": 5}, "of step 20: its values are not those that were"),
])
def test_a_calibration_that_cannot_be_is_one_line(run, tmp_path, content, expected):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "calibration.json"
    path.write_text(json.dumps(content(paths.unsealed(json.loads(path.read_text())))))
    with pytest.raises(UserError) as error:
        shapjax.load(tmp_path / "run")
    assert expected in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged: it is not JSON"):
        shapjax.load(tmp_path / "run")


def test_held_out_images_are_recorded_and_an_older_run_goes_on_without_any(run, tmp_path, command, small):
    assert len(newest_meta(run).held_out) == 64
    older = tmp_path / "older"
    shutil.copytree(run, older)
    shutil.rmtree(older / "checkpoints" / "20")
    path = older / "checkpoints" / "10"
    meta, data = (paths.unsealed(json.loads((path / item / "metadata").read_text())) for item in ("meta", "data"))
    del meta["held_out"], meta["digests"]
    (path / "meta" / "metadata").write_text(json.dumps(meta))
    (path / "data" / "metadata").write_text(json.dumps(data | {"images": 4000}))
    out = command("train.py", *small, "--config.optim.steps=20", "--config.run.eval_every=10", "--workdir", older)
    assert "4,000 images, 0 held out" in out and "at step 10" in out
    assert newest_meta(older).held_out == ()


def test_a_finished_run_says_so_and_stays_as_it_is(run, command, small):
    before = sorted(run.rglob("checkpoints/*"))
    out = command("train.py", *small, "--workdir", run, "--config.optim.steps=20", "--config.run.eval_every=10")
    assert "has all its 20 steps already" in out and sorted(run.rglob("checkpoints/*")) == before


def test_a_run_is_not_resumed_with_other_settings(run, fails_with_one_line, small):
    error = fails_with_one_line("train.py", *small, "--workdir", run, "--config.optim.steps=20",
                                "--config.shapley.weight=1")
    assert "shapley.weight: 16.0 -> 1.0" in error


# explain.py whose enumeration fails.
NO_ENUMERATION = """
from shapjax.cli import explain
from shapjax.evaluation import ground_truth
def fail(*_, **__):
    raise OSError("no time to enumerate")
ground_truth.compute = fail
explain.run()
"""


@pytest.mark.slow
def test_explain_draws_before_it_enumerates(run, tmp_path):
    result = subprocess.run([sys.executable, "-c", NO_ENUMERATION, "--checkpoint", run, "--examples", "1", "--output",
                             tmp_path], capture_output=True, text=True)
    assert result.returncode == 1 and "no time to enumerate" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["test_0000.png"]


def test_explain_writes_a_picture_an_image_and_the_values(run, tmp_path, command):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 255, (28, 28), np.uint8)).convert("CMYK").save(tmp_path / "b.jpg")
    out = command("explain.py", "--checkpoint", run, "--images", tmp_path / "a.png", tmp_path / "b.jpg", "--output",
                  tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"a.png", "b.png", "explanations.json", "explanations.npz"} <= names, names
    assert "a.png" in out
    assert np.load(tmp_path / "out" / "explanations.npz", allow_pickle=False)["shapley"].shape == (2, 2, 2, 10)


@pytest.mark.slow
def test_pairs_and_a_tolerance_make_errors_smaller(run, tmp_path, command, fails_with_one_line):
    errors = {}
    for name, flags in {"none": (), "tolerance": ("--tolerance", 0.02)}.items():
        out = command("explain.py", "--checkpoint", run, "--examples", 2, "--output", tmp_path / name, *flags)
        images = json.loads((tmp_path / name / "explanations.json").read_text())["images"]
        arrays = np.load(tmp_path / name / "explanations.npz", allow_pickle=False)
        assert arrays["standard_error"].shape == arrays["shapley"].shape and arrays["freedom"].shape == (2,)
        errors[name] = [image["standard_error"] for image in images]
        assert "largest error" in out and ("error   pairs   R²" in out) == (name != "none")
    assert min(errors["none"]) > 0.02 >= max(errors["tolerance"])
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    explain = ("explain.py", "--checkpoint", tmp_path / "run", "--examples", 1, "--output", tmp_path / "wrong")
    assert "run python -m shapjax eval on it" in fails_with_one_line(*explain, "--pairs", 4)


def test_load_takes_a_directory_and_nothing_else(run):
    model = shapjax.load(run)
    assert model.step == 20 and model.class_names == tuple("0123456789")
    assert shapjax.load(run, step=10).step == 10


def compiled(arguments):
    """Returns how often a run compiled a program for all devices (pmap calls each of them _fun)."""
    code = ("import jax, sys, logging; jax.config.update('jax_log_compiles', True);"
            "from shapjax.cli import train; sys.argv = ['train.py'] + sys.argv[1:]; train.run()")
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                            timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return sum("Finished XLA compilation of jit(_fun)" in line for line in result.stderr.splitlines())


@pytest.mark.slow
def test_the_step_and_the_evaluation_are_compiled_once_each_also_after_resuming(tmp_path, small):
    arguments = [*small, "--workdir", str(tmp_path / "run"), "--config.optim.steps=12", "--config.run.eval_every=3"]
    assert compiled(arguments) == 2
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    assert compiled(arguments) == 2


def test_a_step_that_waits_for_the_host_is_an_error(tmp_path, small, start):
    (process,) = start(*small, "--workdir", tmp_path / "run", "--config.optim.steps=3", code=HOST_BATCHES)
    status, _, err = process.end()
    assert status == 1 and any("Disallowed host-to-device transfer" in line for line in err), err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.shapley_weight=1"], "did you mean shapley.weight"),
        (["--config.loaded.center=False"], "not a person"),
        (["config.optim.steps=2"], "config.optim.steps=2 is no flag"),
        (["--config.optim.steps=many"], "--config.optim.steps=many"),
        (["--config.model.patch_size=5"], "use one of 2, 4, 7, 14"),
        (["--config.optim.batch_size=15"], "not divisible by the 2 devices; use 14"),
        (["--config.dataset=mnist5q"], "did you mean mnist5k"),
        (["--devices=32"], "add --dry_run"),
        (["--profile=ten"], "expected START:STEPS, such as 2:10, of the steps 2 to 4500"),
        (["--config.optim.learning_rate=1e30", "--config.optim.warmup=0.0"], "the loss is"),
    ],
)
def test_a_mistake_in_training_is_one_line(arguments, expected, tmp_path, fails_with_one_line, small):
    assert expected in fails_with_one_line("train.py", *small, "--workdir", tmp_path / "run", *arguments)


def test_a_missing_config_file_is_one_line(tmp_path, fails_with_one_line):
    error = fails_with_one_line("train.py", "--config", "configs/none.py", "--workdir", tmp_path)
    assert "there is no such config file" in error


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, fails_with_one_line, small):
    (tmp_path / "file").write_text("")
    assert "file" in fails_with_one_line("train.py", *small, "--workdir", tmp_path / "file" / "run")


def damage(directory, how):
    """Copies a run and changes the copy as `how` says."""
    if how == "empty":
        shutil.rmtree(directory)
        directory.mkdir()
    elif how == "nothing complete":
        for step in ("10", "20"):
            (directory / "checkpoints" / step).rename(directory / "checkpoints" / f"{step}.orbax-checkpoint-tmp")
    elif how == "no parameters":
        shutil.rmtree(directory / "checkpoints" / "20" / "params")
    elif how == "truncated parameters":
        for path in (directory / "checkpoints" / "20" / "params").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "foreign meta":
        next((directory / "checkpoints" / "20" / "meta").iterdir()).write_text('{"model": "resnet"}')


@pytest.mark.parametrize(
    ("how", "expected"),
    [("empty", "is not a shapjax run"), ("nothing complete", "no complete checkpoint"),
     ("no parameters", "damaged"), ("truncated parameters", "damaged"), ("foreign meta", "not written by")],
)
def test_a_checkpoint_that_cannot_be_read_is_one_line(run, tmp_path, how, expected):
    shutil.copytree(run, tmp_path / "run")
    damage(tmp_path / "run", how)
    with pytest.raises(shapjax.UserError, match=expected) as e:
        shapjax.load(tmp_path / "run")
    assert "\n" not in str(e.value)


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path, fails_with_one_line):
    assert "does not exist" in fails_with_one_line("eval.py", "--checkpoint", tmp_path / "none")


@pytest.mark.parametrize("script", ["train.py", "eval.py", "explain.py"])
def test_a_command_without_arguments_says_what_it_needs(script, fails_with_one_line):
    assert re.search(r"--\w+ is missing: [A-Z].* \(see --help\)", fails_with_one_line(script))


@pytest.mark.parametrize("script", ["train.py", "eval.py", "explain.py"])
def test_help_shows_the_flags(script, command):
    assert "--checkpoint" in (out := command(script, "--help")) or "--workdir" in out
    assert "python " + script in out
    assert script == "train.py" or {"--dataset", "--data_dir"} <= set(re.findall(r"--\w+", out))
