"""Runs that are killed, stopped, or meet a full disk: they go on, and end equal to the bit to an undisturbed run."""

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from shapjax.training.meta import newest_meta

# train.py whose files may have 6 kB each: the arrays of a checkpoint have more.
FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
from shapjax.cli import train
train.run()
"""

# Undoes what a shell does to the tests if it runs them in the background.
HEAR_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
# A script of the project, whose imports are about to begin.
RUN_AND_SAY = """
import runpy, sys
del sys.argv[0]
from shapjax import errors
end_on_interrupt = errors.end_on_interrupt
def say():
    end_on_interrupt()
    print("begun", flush=True)
errors.end_on_interrupt = say
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ROOT = pathlib.Path(__file__).parents[2]


def steps_logged(workdir, split="train"):
    """Returns the steps of the lines of one kind in metrics.jsonl, in order."""
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if line["split"] == split]


def complete_checkpoints(workdir):
    """Returns the steps of the checkpoints under their final names."""
    directory = workdir / "checkpoints"
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal()) if directory.exists() else []


def being_written(workdir):
    """Returns True if orbax's temporary directory of a checkpoint is there."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill_and_go_on(start, wait_for, saved_state, workdir, arguments, code, *, kills, seed):
    """Kills a run `kills` times, goes on after each, lets the last one end; returns the newest step after each kill.

    Half of the kills come when a checkpoint is being written, half some time after one was.
    """
    rng = random.Random(seed)
    newest = [0]
    for kill in range(kills):
        (process,) = start(*arguments, code=code)

        def moment(kill=kill):
            further = complete_checkpoints(workdir)[-1:] > newest[-1:]
            return being_written(workdir) and further if kill % 2 else further

        wait_for(moment, process)
        time.sleep(rng.uniform(0, 0.02 if kill % 2 else 0.4))
        process.popen.kill()
        process.popen.wait()
        after = complete_checkpoints(workdir)[-1]
        assert saved_state(workdir, after)[1]["step"] == after  # it loads, whole
        newest.append(after)
    (process,) = start(*arguments, code=code)
    status, _, err = process.end()
    assert status == 0, err
    return newest[1:]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_equal(tmp_path, command, start, wait_for, saved_state, small,
                                                     slow_steps, assert_same_state):
    """Runs FSDP; the long test below runs pmap."""
    arguments = [*small, "--config.optim.steps=20", "--config.run.parallel=fsdp"]
    command("train.py", *arguments, "--workdir", tmp_path / "whole", "--config.run.eval_every=10")
    workdir = tmp_path / "killed"
    arguments += ["--workdir", workdir, "--config.run.eval_every=2", "--config.run.log_every=1"]
    newest = kill_and_go_on(start, wait_for, saved_state, workdir, arguments, slow_steps, kills=3, seed=0)
    assert newest == sorted(set(newest)) and newest[-1] < 20
    assert_same_state(tmp_path / "whole", workdir)
    assert steps_logged(workdir) == list(range(1, 21)) and steps_logged(workdir, "test") == list(range(2, 21, 2))


@pytest.mark.slow
def test_a_run_killed_12_times_ends_bit_equal(tmp_path, command, start, wait_for, saved_state, small, slow_steps,
                                              assert_same_state):
    arguments = [*small, "--config.optim.steps=60"]
    command("train.py", *arguments, "--workdir", tmp_path / "whole", "--config.run.eval_every=30")
    workdir = tmp_path / "killed"
    arguments += ["--workdir", workdir, "--config.run.eval_every=2", "--config.run.log_every=1"]
    newest = kill_and_go_on(start, wait_for, saved_state, workdir, arguments, slow_steps, kills=12, seed=1)
    assert newest == sorted(set(newest)) and newest[-1] < 60
    assert_same_state(tmp_path / "whole", workdir)
    assert steps_logged(workdir) == list(range(1, 61)) and steps_logged(workdir, "test") == list(range(2, 61, 2))


@pytest.mark.parametrize(("number", "expected", "said"), [
    (signal.SIGTERM, 75, []),
    pytest.param(signal.SIGINT, 130, ["stopping after this step, to save it; Ctrl-C again does not wait for it"],
                 marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_saves_and_goes_on_bit_equal(run, tmp_path, command, start, wait_for, small, slow_steps,
                                                           assert_same_state, number, expected, said):
    workdir = tmp_path / "stopped"
    arguments = [*small, "--config.optim.steps=20", "--config.run.eval_every=10", "--workdir", workdir]
    (process,) = start(*arguments, code=HEAR_CTRL_C + slow_steps)
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and steps_logged(workdir), process)
    while process.popen.poll() is None:
        process.popen.send_signal(number)
        if number == signal.SIGINT or complete_checkpoints(workdir):
            break
        time.sleep(0.05)  # who asks for a stop may ask again, also while it saves
    status, out, err = process.end()
    (step,) = complete_checkpoints(workdir)
    assert status == expected and not out[1:]  # after the line that says what is trained
    assert err == [*said, f"stopped on request at step {step}, saved; run the same command to go on"]
    assert 5 <= step < 20 and step != 10
    assert f"resuming {workdir} at step {step}" in command("train.py", *arguments)
    assert_same_state(run, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 0.02])
def test_ctrl_c_twice_is_one_line_and_the_run_goes_on_bit_equal(run, tmp_path, command, start, wait_for, small,
                                                                slow_steps, saved_state, assert_same_state, pause):
    workdir = tmp_path / "stopped"
    arguments = [*small, "--config.optim.steps=20", "--workdir", workdir]
    (process,) = start(*arguments, "--config.run.eval_every=2", code=HEAR_CTRL_C + slow_steps)
    wait_for(lambda: complete_checkpoints(workdir) and being_written(workdir), process)
    for _ in range(2):
        process.popen.send_signal(signal.SIGINT)
        time.sleep(pause)
    status, _, err = process.end(60)
    assert status == 130 and all(line.startswith("stop") for line in err)
    # Two that come at the same time may be one to a process.
    assert err[-1] == "stopped; what was saved stays" or pause == 0 and "stopped on request at step" in err[-1]
    newest = complete_checkpoints(workdir)[-1]
    assert newest < 20 and saved_state(workdir, newest)[1]["step"] == newest
    assert "at step " in command("train.py", *arguments, "--config.run.eval_every=10")
    assert_same_state(run, workdir)


@pytest.mark.slow
@pytest.mark.parametrize("command_line", [["eval.py", "--images", 4], ["explain.py", "--examples", 200]])
@pytest.mark.parametrize("delay", [0, 4, 8])
def test_ctrl_c_ends_evaluation_and_explanation_with_one_line(run, tmp_path, command_line, delay):
    script, *arguments = command_line
    arguments += ["--checkpoint", run, "--output", tmp_path]
    process = subprocess.Popen([sys.executable, "-c", HEAR_CTRL_C + RUN_AND_SAY, script, *map(str, arguments)],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.splitlines()[-1:] == ["stopped; what was saved stays"]
    assert "Traceback" not in err and err.count("stopped") == 1


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_bit_equal_with_room(run, tmp_path, command, start, small,
                                                                         assert_same_state):
    workdir = tmp_path / "full"
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    arguments = [*small, "--config.optim.steps=20", "--config.run.eval_every=10", "--workdir", workdir]
    (process,) = start(*arguments, code=FULL_DISK)
    status, _, err = process.end()
    err = [line for line in err if "persistent compilation cache" not in line and "warnings.warn" not in line]
    assert status == 1 and len(err) == 1 and err[0].startswith("error: a checkpoint could not be written to"), err
    assert "the one of step 10 stays good" in err[0]
    assert complete_checkpoints(workdir) == [10]
    command("train.py", *arguments)
    assert_same_state(run, workdir)


def truncate_values(checkpoint):
    """Cuts off the file of a checkpoint that holds most of the optimizer's values."""
    path = max((checkpoint / "training").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_goes_back_from_a_damaged_checkpoint_and_ends_bit_equal(run, tmp_path, start, small, assert_same_state):
    workdir = shutil.copytree(run, tmp_path / "damaged")
    truncate_values(workdir / "checkpoints" / "20")
    (process,) = start(*small, "--config.optim.steps=20", "--config.run.eval_every=10", "--workdir", workdir)
    status, out, err = process.end()
    assert status == 0 and not err
    assert any(f"checkpoint {workdir}/checkpoints/20 is damaged" in line and "going back to step 10" in line
               for line in out) and f"resuming {workdir} at step 10" in out
    assert complete_checkpoints(workdir) == [10, 20] and (workdir / "checkpoints" / "20.damaged").is_dir()
    assert_same_state(run, workdir)


def test_where_no_checkpoint_is_whole_the_run_does_not_start_anew(run, tmp_path, small, fails_with_one_line):
    workdir = shutil.copytree(run, tmp_path / "damaged")
    for step in (10, 20):
        truncate_values(workdir / "checkpoints" / str(step))
    before = (workdir / "metrics.jsonl").read_text()
    error = fails_with_one_line("train.py", *small, "--config.optim.steps=20", "--config.run.eval_every=10",
                                "--workdir", workdir)
    assert "none of the 2 checkpoints of the run is whole" in error and f"{workdir}/checkpoints/20" in error
    assert complete_checkpoints(workdir) == [10, 20] and (workdir / "metrics.jsonl").read_text() == before


def test_what_is_free_to_change_may_change(run, tmp_path, command, small):
    workdir = tmp_path / "changed"
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / "20")
    out = command("train.py", *small, "--workdir", workdir, "--config.optim.steps=20", "--config.run.eval_every=5",
                  "--config.run.parallel=fsdp", "--config.run.cpu_devices=1", "--config.run.log_every=2",
                  "--config.run.keep_checkpoints=1", "--config.model.remat=none")
    assert "at step 10" in out and steps_logged(workdir)[-5:] == [12, 14, 16, 18, 20]
    assert newest_meta(workdir).config.run.parallel == "fsdp"
