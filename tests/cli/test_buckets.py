"""Runs in a bucket, of an object store on loopback: killed, refused a write, of two processes; all as on a disk."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import shapjax
from shapjax import paths

pytestmark = pytest.mark.slow
LENGTH = ["--config.optim.steps=20", "--config.run.eval_every=10"]  # as of the run on a disk
MAY_DIFFER = {"checkpoint", "seconds", "cost/seconds", "images_per_second", "input_stall"}  # places and times


def compared(values):
    """Returns values of a JSON file without those that may differ."""
    if isinstance(values, list):
        return list(map(compared, values))
    if isinstance(values, dict):
        return {key: compared(value) for key, value in values.items() if key not in MAY_DIFFER}
    return values


def assert_same_files(one, other):
    """Asserts that two directories hold the same files, with the same values, but for checkpoints and pages."""
    names = [{str(x.relative_to(where)) for x in where.rglob("*") if x.is_file()} for where in (one, other)]
    names = [{x for x in found if not x.startswith(("checkpoints/", "tensorboard/"))} for found in names]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".npz"):
            arrays, others = (paths.read_arrays(where / name) for where in (one, other))
            assert arrays.keys() == others.keys()
            for key in arrays.keys() - MAY_DIFFER:
                np.testing.assert_array_equal(arrays[key], others[key], err_msg=f"{name} {key}")
        elif name.endswith(".json"):
            values, others = (json.loads((where / name).read_text()) for where in (one, other))
            assert compared(values) == compared(others), name
        elif name == "metrics.jsonl":
            lines, others = ((where / name).read_text().splitlines() for where in (one, other))
            assert compared(list(map(json.loads, lines))) == compared(list(map(json.loads, others)))
        elif not name.endswith((".html", ".csv")):  # which repeat the JSON files
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_run_goes_on_and_what_follows_is_equal_to_what_is_on_a_disk(
        run, bucket, tmp_path, small, slow_steps, start, wait_for, command, assert_same_state):
    arguments = [*small, *LENGTH, "--calibrate", "--workdir", bucket]
    (process,) = start(*arguments, code=slow_steps)
    wait_for((paths.as_path(bucket) / "checkpoints" / "10" / "commit_success.txt").exists, process)
    process.popen.kill()
    process.popen.wait()
    assert f"resuming {bucket} at step 10" in command("train.py", *arguments)
    assert_same_state(bucket, run)
    shutil.copytree(run, tmp_path / "run")
    for directory in (bucket, tmp_path / "run"):
        command("eval.py", "--checkpoint", directory, "--images=4", "--methods=phi,rise", "--coalitions=16")
        command("explain.py", "--checkpoint", directory, "--examples=2", "--output", f"{directory}/out")
        command("-m", "shapjax", "export", "--checkpoint", directory, "--output", f"{directory}/exported",
                "--platforms=cpu")
    assert_same_files(pathlib.Path(paths.local(bucket)), tmp_path / "run")
    values = [shapjax.load(f"{where}/exported").explain(f"{where}/out/test_0000.png").shapley
              for where in (bucket, tmp_path / "run")]
    np.testing.assert_array_equal(*values)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
        run, bucket, small, refuse, command, fails_with_one_line, assert_same_state):
    arguments = ["train.py", *small, *LENGTH, "--workdir", bucket]
    with refuse("checkpoints/20/params"):
        assert "the one of step 10 stays good" in fails_with_one_line(*arguments)
    assert (paths.as_path(bucket) / "checkpoints" / "20").exists()  # a part of it
    assert f"resuming {bucket} at step 10" in command(*arguments)
    assert_same_state(bucket, run)


def test_of_two_processes_one_writes_the_shared_files_and_each_its_part_of_the_checkpoints(
        bucket, tmp_path, small, start, assert_same_state):
    for workdir in (bucket, tmp_path / "run"):
        processes = start(*small, *LENGTH, "--config.run.cpu_devices=1", "--workdir", workdir, processes=2)
        (status, out, _), (other_status, other_out, other_err) = (process.end() for process in processes)
        assert status == other_status == 0 and f"checkpoints   {workdir}/checkpoints" in out
        assert not other_out and not [line for line in other_err if "google_auth_provider" not in line]
    assert_same_state(bucket, tmp_path / "run")
    assert len(list((paths.as_path(bucket) / "tensorboard").iterdir())) == 1
    assert_same_files(pathlib.Path(paths.local(bucket)), tmp_path / "run")
