"""Runs of several processes on this machine: they train as one does, and stop, go on and fail together."""

import functools
import json
import shutil
import signal

import numpy as np
import pytest

import shapjax

pytestmark = pytest.mark.slow
DEVICES = 4
STEPS = 30


def arguments(small, workdir, *changes, processes=1, parallel="pmap"):
    """Returns the arguments of a process; the number of devices does not depend on the number of processes."""
    return [*small, "--workdir", workdir, f"--config.optim.steps={STEPS}", "--config.run.eval_every=15",
            "--config.run.log_every=1", f"--config.run.cpu_devices={DEVICES // processes}",
            f"--config.run.parallel={parallel}", *changes]


def records(workdir, split="train"):
    """Returns the lines of metrics.jsonl of one kind."""
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if record["split"] == split]


def assert_close(one, other):
    """Asserts equal steps, losses and metrics but for the order of sums, which 30 steps of Adam amplify."""
    for split, names in (("train", ("loss", "gradient_norm", "accuracy")), ("test", ("accuracy", "cross_entropy"))):
        one_records, other_records = records(one, split), records(other, split)
        assert [r["step"] for r in one_records] == [r["step"] for r in other_records]
        for name in names:
            np.testing.assert_allclose([r[name] for r in one_records], [r[name] for r in other_records], rtol=2e-3,
                                       atol=2e-3, err_msg=name)
    first = [records(where)[0]["loss"] for where in (one, other)]
    np.testing.assert_allclose(*first, rtol=1e-6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, command, small):
    """Returns the workdir of an uninterrupted run of one process in a layout."""

    @functools.cache
    def make(parallel):
        workdir = tmp_path_factory.mktemp("one") / parallel
        command("train.py", *arguments(small, workdir, parallel=parallel))
        return workdir

    return make


@pytest.fixture(scope="module")
def pair(tmp_path_factory, small):
    """Holds uninterrupted runs of two processes, by layout; the tests that look at their output make them."""
    return {}


def train_in(processes, start, workdir, small, **changes):
    """Trains; returns what each process printed on stdout and stderr."""
    ends = [p.end() for p in start(*arguments(small, workdir, processes=processes, **changes), processes=processes)]
    assert [status for status, _, _ in ends] == [0] * processes, ends
    return [(out, err) for _, out, err in ends]


@pytest.fixture
def two(pair, start, tmp_path_factory, small):
    """Returns (workdir, output of each process) of an uninterrupted run of two processes in a layout."""

    def make(parallel):
        if parallel not in pair:
            workdir = tmp_path_factory.mktemp("two") / parallel
            pair[parallel] = workdir, train_in(2, start, workdir, small, parallel=parallel)
        return pair[parallel]

    return make


@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_two_processes_train_as_one_does(whole, two, parallel):
    assert_close(whole(parallel), two(parallel)[0])


def test_only_the_first_process_speaks_and_writes(two):
    workdir, ((out, err), (other_out, other_err)) = two("pmap")
    assert any("4 cpu device(s) of 2 processes" in line for line in out) and not err
    assert not other_out and not other_err
    assert [r["step"] for r in records(workdir)] == list(range(1, STEPS + 1))
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["15", "30"]
    assert len(list((workdir / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_a_run_of_two_processes_is_read_by_one(two, saved_state, parallel):
    workdir, _ = two(parallel)
    model = shapjax.load(workdir)
    assert model.step == STEPS
    assert saved_state(workdir)[1]["step"] == STEPS


@pytest.mark.parametrize(("parallel", "damage"), [
    ("fsdp", lambda content: content[: len(content) // 2]),
    ("fsdp", lambda content: content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[
        len(content) // 2 + 1:]),
    ("pmap", lambda content: content[: len(content) // 2]),
], ids=["truncated, fsdp", "changed, fsdp", "truncated, pmap"])
def test_both_processes_go_back_from_a_damaged_checkpoint(two, tmp_path, start, small, assert_same_state, parallel,
                                                          damage):
    workdir, _ = two(parallel)
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for path in (copy / "checkpoints" / "30" / "training").glob("**/d/*"):  # which of them values are read from varies
        path.write_bytes(damage(path.read_bytes()))
    (out, err), (other_out, other_err) = train_in(2, start, copy, small, parallel=parallel)
    assert any("checkpoints/30" in line and "going back to step 15" in line for line in out), out
    assert not err and not other_out and not other_err
    assert (copy / "checkpoints" / "30.damaged").is_dir()
    assert_same_state(workdir, copy)


# train.py where process 1 alone cannot read the checkpoint of step 30.
ONE_CANNOT_READ = """
import sys
from shapjax.cli import train
from shapjax.errors import UserError
from shapjax.training import checkpoint
read = checkpoint._read_arrays
def read_or_fail(directory, *arguments):
    if directory.name == "30" and sys.argv[-1] == "1":
        raise UserError(f"checkpoint {directory} is damaged")
    return read(directory, *arguments)
checkpoint._read_arrays = read_or_fail
train.run()
"""


def test_both_processes_go_back_from_a_checkpoint_that_one_cannot_read(two, tmp_path, start, small, assert_same_state):
    workdir, _ = two("fsdp")
    copy = shutil.copytree(workdir, tmp_path / "copy")
    ends = [process.end() for process in start(*arguments(small, copy, processes=2, parallel="fsdp"), processes=2,
                                               code=ONE_CANNOT_READ)]
    assert [status for status, _, _ in ends] == [0, 0], ends
    assert any("another process cannot read it; going back to step 15" in line for line in ends[0][1]), ends
    assert (copy / "checkpoints" / "30.damaged").is_dir()
    assert_same_state(workdir, copy)


def cut_at_half(workdir, to):
    """Returns a copy of a run that died after its checkpoint of step 15."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "checkpoints" / "30")
    return to


def test_a_run_of_two_processes_goes_on_in_one_and_in_the_other_layout(two, tmp_path, command, small, saved_state):
    workdir, _ = two("pmap")
    cut = cut_at_half(workdir, tmp_path / "cut")
    out = command("train.py", *arguments(small, cut, parallel="fsdp"))
    assert "at step 15" in out
    assert_close(workdir, cut)
    assert saved_state(workdir)[1] == saved_state(cut)[1]


def test_a_run_of_two_processes_goes_on_in_four(two, tmp_path, start, small, saved_state):
    workdir, _ = two("pmap")
    cut = cut_at_half(workdir, tmp_path / "cut")
    train_in(4, start, cut, small)
    assert_close(workdir, cut)
    assert saved_state(workdir)[1] == saved_state(cut)[1]


def test_four_processes_train_as_one_does(whole, tmp_path, start, small):
    train_in(4, start, tmp_path / "four", small, parallel="fsdp")
    assert_close(whole("fsdp"), tmp_path / "four")


def test_another_global_batch_is_refused_by_every_process(two, tmp_path, start, small):
    cut = cut_at_half(two("pmap")[0], tmp_path / "cut")
    for process in start(*arguments(small, cut, "--config.optim.batch_size=8", processes=2), processes=2):
        status, out, err = process.end(timeout=120)
        assert status == 1 and not out[1:] and len(err) == 1 and "batch_size: 16 -> 8" in err[0], err


def test_sigterm_to_one_process_stops_both_at_the_same_step_and_they_go_on_bit_equal(
        two, tmp_path, start, small, slow_steps, wait_for, assert_same_state):
    workdir = tmp_path / "stopped"
    both = start(*arguments(small, workdir, processes=2), processes=2, code=slow_steps)
    metrics = workdir / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text(), both[0])
    both[1].popen.send_signal(signal.SIGTERM)
    steps = set()
    for process in both:
        status, _, err = process.end()
        said = [line for line in err if line.startswith("stopped on request at step ")]
        assert status == 75 and len(said) == 1, err
        steps.add(int(said[0].split()[5].rstrip(",")))
    (step,) = steps
    assert step < STEPS and str(step) in {p.name for p in (workdir / "checkpoints").iterdir()}
    train_in(2, start, workdir, small)
    assert_same_state(workdir, two("pmap")[0])


def test_sigterm_before_the_first_step_of_a_resumed_run_is_heard(two, tmp_path, start, small, slow_steps, wait_for):
    cut = cut_at_half(two("pmap")[0], tmp_path / "cut")
    (cut / "config.json").unlink()
    both = start(*arguments(small, cut, processes=2), processes=2, code=slow_steps)
    wait_for((cut / "config.json").exists, both[0])  # the processes have met, and know nothing of steps
    both[0].popen.send_signal(signal.SIGTERM)
    for process in both:
        status, _, err = process.end()
        assert status == 75 and any("stopped on request at step" in line for line in err), err


def assert_near(one, other):
    """Asserts that what was measured is equal but for rounding; not where, when, and how fast."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"checkpoint", "device", "cost", "seconds", "config"}:
            assert_near(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_near(*pair)
    else:
        assert one == (pytest.approx(other, rel=1e-3, abs=1e-3) if isinstance(other, float) else other)


EVALUATE = "from shapjax.cli import eval; eval.run()"


def test_two_processes_evaluate_as_one_does_and_go_on_together(run, tmp_path, command, start):
    workdirs = [tmp_path / name for name in ("one", "two")]
    for workdir in workdirs:
        shutil.copytree(run, workdir)
        (workdir / "calibration.json").unlink()
    arguments = ["--images", 7, "--methods", "phi,exact,kernel_shap", "--coalitions", 64, "--checkpoint"]
    command("eval.py", *arguments, workdirs[0])

    def by_two():
        (_, out, _), other = (p.end() for p in start(*arguments, workdirs[1], processes=2, code=EVALUATE))
        assert other[:2] == (0, []), other
        return "\n".join(out)

    assert "written to" in by_two()
    for name in ("eval.npz", "methods.npz"):
        one, two = (np.load(workdir / name, allow_pickle=False) for workdir in workdirs)
        assert one.files == two.files
        for key in one.files:
            compare = np.testing.assert_allclose if one[key].dtype.kind == "f" else np.testing.assert_array_equal
            compare(one[key], two[key], **{"rtol": 1e-4, "atol": 1e-5} if one[key].dtype.kind == "f" else {})
    for name in ("eval.json", "methods.json"):
        assert_near(*(json.loads((workdir / name).read_text()) for workdir in workdirs))
    (workdirs[1] / "methods" / "phi.npz").unlink()
    assert "going on: exact, kernel_shap already measured" in by_two()


FAILING = """
from shapjax.training import distributed
from shapjax.training.logging import RunLog
from shapjax.cli import train
from shapjax.errors import UserError
import jax
distributed.LEAVE_S = 5
step = RunLog.step
def failing_step(self, number, metrics, **named):
    if number == 3 and jax.process_index() == 1:
        raise UserError("the disk of this host only")
    step(self, number, metrics, **named)
RunLog.step = failing_step
train.run()
"""


def test_what_fails_in_one_process_alone_ends_the_others_too(tmp_path, start, small):
    """The others wait for a sum that never comes, and end with JAX's own message and status."""
    first, second = start(*arguments(small, tmp_path / "run", processes=2), processes=2, code=FAILING)
    status, _, err = second.end(timeout=200)
    assert status != 0 and "error: the disk of this host only" in err
    status, _, err = first.end(timeout=60)
    assert status != 0 and err


def test_a_killed_process_ends_the_others(tmp_path, start, small, slow_steps, wait_for):
    workdir = tmp_path / "run"
    both = start(*arguments(small, workdir, processes=2), processes=2, code=slow_steps)
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").read_text(), both[0])
    both[1].popen.kill()
    status, _, err = both[0].end(timeout=200)
    assert status not in (0, 75) and err
