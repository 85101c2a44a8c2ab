"""Files that are missing, damaged, or of another evaluation give one line, never a traceback."""

import json

import numpy as np
import pytest

from shapjax.errors import UserError
from shapjax.report import page
from shapjax.report.reading import read_comparison, read_run

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture
def run(tmp_path, make_run, make_methods):
    return make_methods(make_run(tmp_path / "run"), keys=("random", "exact", "phi"))


def change_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def change_arrays(path, **changes):
    with np.load(path) as file:
        arrays = {name: value for name, value in ({**file} | changes).items() if value is not None}
    np.savez(path, **arrays)


def fault(run):
    """Returns the one line that the report says of a run."""
    with pytest.raises(UserError) as error:
        page.write_report(run.parent / "report", [run])
    message = str(error.value)
    assert str(run) in message and "\n" not in message and not (run.parent / "report").exists()
    return message


@pytest.mark.parametrize("name", ["eval.json", "eval.npz", "methods.json", "methods.npz", "metrics.jsonl"])
def test_a_missing_or_broken_file_is_named_with_the_command_that_makes_it(run, name):
    whole = (run / name).read_bytes()
    middle = len(whole) // 2
    for content in (b"", b"[1, 2\n", b"\x80\x02\xff\xfe\n", whole[:middle],
                    whole[:middle] + b"\n\xff{" * 40 + whole[middle + 120:]):
        (run / name).write_bytes(content)
        if name == "metrics.jsonl" and content in (b"", whole[:middle]):
            continue  # nothing recorded yet, or a run that was cut off in the middle of a line
        message = fault(run)
        assert f"{run / name} cannot be used" in message, content
        command = "train --config" if name == "metrics.jsonl" else "eval --checkpoint"
        assert f"python -m shapjax {command}" in message
    (run / name).unlink()
    if name.startswith("methods.json") or name == "metrics.jsonl":
        page.write_report(run.parent / "report", [run])  # there need be none
    else:
        assert f"{run / name} is missing: run `python -m shapjax eval --checkpoint" in fault(run)


def test_the_last_line_of_a_log_may_be_cut_off(run):
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[:-5])
    assert len(read_run(run).records) == whole.count("\n") - 1


def test_the_command_fits_where_the_evaluation_lies(run):
    (run / "eval.npz").unlink()
    assert f"`python -m shapjax eval --checkpoint RUN --output {run}`" in fault(run)
    (run / "checkpoints").mkdir()
    assert f"`python -m shapjax eval --checkpoint {run}`" in fault(run)


@pytest.mark.parametrize("name", ["eval.json", "methods.json"])
@pytest.mark.parametrize("number", [1, None])
def test_files_of_another_version_are_refused(run, name, number):
    change_json(run / name, lambda values: values.update(format=number))
    assert f"{run / name} cannot be used (it is of format {number}, not 2)" in fault(run)


def test_pickled_arrays_are_refused(run):
    np.savez(run / "eval.npz", images=np.array([{"a": 1}], dtype=object))
    assert "allow_pickle=False" in fault(run)


@pytest.mark.parametrize(("changes", "message"), [
    ({"ground_truth": None}, "not from the same evaluation"),
    ({"images": np.zeros((3, 8, 8, 3), np.uint8)}, "not from the same evaluation"),
    ({"shapley": np.full((14, 2, 2, 4), np.nan)}, "the training run has diverged"),
])
def test_arrays_of_another_evaluation_or_a_broken_run_are_refused(run, changes, message):
    change_arrays(run / "eval.npz", **changes)
    assert message in fault(run)


def test_a_comparison_of_another_checkpoint_is_left_out(run):
    assert read_run(run).comparison.summary["step"] == 1200
    change_json(run / "methods.json", lambda values: values.update(step=600))
    assert read_run(run).comparison is None


def test_maps_of_other_methods_are_refused(run):
    change_arrays(run / "methods.npz", methods=np.array(["phi", "exact", "random"]))
    with pytest.raises(UserError, match="its methods are not those of methods.json"):
        read_comparison(run, step=1200)


@pytest.mark.parametrize(("name", "change"), [
    ("eval.json", lambda values: values.pop("accuracy_top1")),
    ("eval.json", lambda values: values.pop("parameters")),
    ("eval.json", lambda values: values.update(cross_entropy="high")),
    ("eval.json", lambda values: values["shapley_error"].pop("r2_per_image")),
    ("eval.json", lambda values: values["shapley_error"].update(ground_truth="guessed")),
    ("eval.npz", {"logits": np.zeros((3, 2), np.float32)}),
    ("eval.npz", {"labels": np.full(14, 4)}),
    ("eval.npz", {"class_names": None}),
    ("methods.json", lambda values: values.pop("metrics")),
    ("methods.json", lambda values: values["methods"][0]["values"].pop("deletion")),
    ("methods.json", lambda values: values["methods"][0]["curves"].update(deletion=["a", "b"])),
    ("methods.npz", {"order": None}),
    ("methods.npz", {"images": np.zeros((3, 8, 8, 3), np.float32)}),
])
def test_what_only_drawing_finds_damaged_is_one_line_too(run, name, change):
    if callable(change):
        change_json(run / name, change)
    else:
        change_arrays(run / name, **change)
    message = fault(run)
    assert "eval.json, eval.npz, methods.json or methods.npz" in message and "is damaged (" in message
    assert f"`python -m shapjax eval --checkpoint RUN --output {run}`" in message
