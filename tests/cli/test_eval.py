"""eval.py as a person types it: metrics, the comparison of methods, going on after an interruption, mistakes."""

import csv
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from shapjax import paths
from shapjax.cli import eval as eval_command
from shapjax.data import mnist5k
from shapjax.errors import UserError

METHODS = ("phi", "phi_8", "exact", "kernel_shap", "random")
ROWS = (*METHODS, "other_tool")
COMPARE = ("--images", 6, "--methods", ",".join(METHODS), "--coalitions", 64, "--explorer_images", 2)


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory, command):
    """Returns a run with everything that eval.py writes, and its printed output."""
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, workdir)
    masks = np.zeros((6, 28, 28), np.int8)
    masks[:, 7:21, 7:21], masks[:, 0] = 1, -1
    np.savez(workdir / "masks.npz", masks=masks)
    np.save(workdir / "other_tool.npy", np.random.default_rng(0).normal(size=(6, 2, 2)))
    return workdir, command("eval.py", "--checkpoint", workdir, *COMPARE, "--object_masks", workdir / "masks.npz",
                            "--maps", workdir / "other_tool.npy")


def comparison(workdir):
    """Returns the methods of methods.json by key."""
    summary = json.loads((workdir / "methods.json").read_text())
    return summary, {method["key"]: method for method in summary["methods"]}


def test_metrics_and_arrays_agree(evaluated):
    workdir, out = evaluated
    values = json.loads((workdir / "eval.json").read_text())
    arrays = np.load(workdir / "eval.npz", allow_pickle=False)
    assert values["images"] == 1000 and values["players"] == 4 and values["efficiency_gap"] <= 1e-4
    assert values["shapley_error"]["coalitions_per_image"] == 16 and "accuracy, top 1" in out
    assert values["accuracy_under_removal"][0] == pytest.approx(values["accuracy_top1"])
    assert len(values["accuracy_under_removal"]) == 10
    assert values["shapley_error"]["ground_truth"] == "exact" and values["shapley_error"]["r2_ceiling"] == 1
    assert values["shapley_weight"] > 0 and values["masked_weight"] > 0 and values["checkpoint"] == str(workdir)
    assert arrays["shapley"].shape == arrays["ground_truth"].shape == (6, 2, 2, 10)
    np.testing.assert_allclose(arrays["shapley"].sum((1, 2)), arrays["logits"], atol=1e-4)
    np.testing.assert_allclose(arrays["ground_truth"].sum((1, 2)), arrays["logits"], atol=1e-4)


def test_errors_are_measured(evaluated):
    workdir, out = evaluated
    values = json.loads((workdir / "eval.json").read_text())["refinement"]
    found = json.loads((workdir / "calibration.json").read_text())
    assert values["calibration"] == found and found["held_out"] and values["images"] == 6
    assert [point["pairs"] for point in values["points"]] == [0, 2, 4, 8, 16, 64]
    first, *_, last = values["points"]
    assert last["r2"] > first["r2"] and first["coverage"]["0.95"]["mean"] > 0.5
    assert "calibrated on 64 images held out of training; 6 images, in each:" in out and "64 pairs" in out
    methods = comparison(workdir)[1]
    assert methods["phi_8"]["cost"]["passes"] == pytest.approx(9, abs=0.2)
    pearson = [methods[key]["values"]["shapley_pearson"]["mean"] for key in ("phi", "phi_8")]
    assert pearson[1] > pearson[0]


@pytest.mark.slow
def test_a_run_without_held_out_images_is_calibrated_on_the_second_half_of_the_test_images(run, tmp_path, command):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    (workdir / "calibration.json").unlink()
    path = workdir / "checkpoints" / "20" / "meta" / "metadata"
    path.write_text(json.dumps(paths.unsealed(json.loads(path.read_text())) | {"held_out": []}))
    out = command("eval.py", "--checkpoint", workdir, "--images", 4, "--methods", "none")
    assert "calibrated on 256 test images, measured on others; 4 images" in out
    assert not json.loads((workdir / "calibration.json").read_text())["held_out"]


def test_the_table_has_every_method_and_metric_with_intervals_around_their_means(evaluated):
    summary, methods = comparison(evaluated[0])
    assert tuple(methods) == ROWS and summary["images"] == 6
    assert {"deletion", "road", "map", "miou_correct", "shapley_pearson"} <= {m["key"] for m in summary["metrics"]}
    for method in methods.values():
        for key, value in method["values"].items():
            assert value is None or value["low"] <= value["mean"] + 1e-6 <= value["high"] + 2e-6, (method["key"], key)
    for metric in summary["metrics"]:
        best = [method["values"][metric["key"]] for method in methods.values()]
        assert sum(bool(value and value["best"]) for value in best) == (metric["better"] is not None), metric["key"]


def test_exact_values_are_their_own_ground_truth_and_kernel_shap_with_all_coalitions_is_exact(evaluated):
    _, methods = comparison(evaluated[0])
    assert methods["exact"]["values"]["shapley_pearson"]["mean"] == pytest.approx(1, abs=1e-6)
    assert methods["kernel_shap"]["values"]["shapley_pearson"]["mean"] == pytest.approx(1, abs=1e-3)  # 14 coalitions
    assert methods["random"]["values"]["shapley_pearson"]["mean"] < 0.99


def test_deletion_in_the_table_is_the_area_under_its_curve(evaluated):
    _, methods = comparison(evaluated[0])
    for method in methods.values():
        area = np.trapezoid(method["curves"]["deletion"], dx=1 / 4)
        assert method["values"]["deletion"]["mean"] == pytest.approx(area, abs=1e-5)


def test_the_csv_holds_the_table_and_the_page_the_explorer(evaluated):
    workdir, out = evaluated
    _, methods = comparison(workdir)
    with (workdir / "methods.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert tuple(rows) == ROWS
    assert float(rows["phi"]["deletion_low"]) == methods["phi"]["values"]["deletion"]["low"]
    page = (workdir / "report" / "index.html").read_text()
    assert "Explorer" in page and str(workdir / "report" / "index.html") in out
    assert all(method["title"] in out for method in methods.values())


def test_the_explorer_shows_the_probability_without_the_top_patches(evaluated):
    arrays = np.load(evaluated[0] / "methods.npz", allow_pickle=False)
    assert arrays["attributions"].shape == (5, 2, 5, 4) and arrays["deleted"].shape == (5, 2, 5, 5)
    whole = np.take_along_axis(arrays["probabilities"], arrays["classes"], axis=1)
    np.testing.assert_allclose(arrays["deleted"][..., 0], np.broadcast_to(whole, (5, 2, 5)), atol=1e-5)
    assert (arrays["classes"] == arrays["labels"][:, None]).any(axis=1).all()


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_with_what_it_has(evaluated, tmp_path, command):
    workdir = tmp_path / "run"
    shutil.copytree(evaluated[0], workdir)
    (workdir / "methods" / "random.npz").unlink()
    broken = workdir / "methods" / "kernel_shap.npz"
    broken.write_bytes(broken.read_bytes()[:1000])  # as if the disk had filled up
    out = command("eval.py", "--checkpoint", workdir, *COMPARE, "--object_masks", workdir / "masks.npz", "--maps",
                  workdir / "other_tool.npy")
    assert "going on: phi, phi_8, exact already measured" in out and "ground truth of 6 images is already there" in out
    before, after = (comparison(where)[1] for where in (evaluated[0], workdir))
    for key in ROWS:
        assert before[key]["values"] == after[key]["values"], key
    out = command("eval.py", "--checkpoint", workdir, "--images", 6, "--methods", "phi", "--metrics", "deletion",
                  "--coalitions", 64, "--explorer_images", 2, "--target", "label")
    assert "already measured" not in out  # another question


@pytest.mark.slow
def test_other_ways_to_hide_patches_make_another_game(run, tmp_path, command):
    command("eval.py", "--checkpoint", run, "--images", 4, "--methods", "exact,leave_one_out", "--metrics",
            "deletion,shapley_pearson", "--removal", "mean", "--explorer_images", 0, "--output", tmp_path / "mean")
    summary, methods = comparison(tmp_path / "mean")
    assert [m["key"] for m in summary["metrics"]] == ["deletion", "shapley_pearson"]
    assert methods["exact"]["values"]["shapley_pearson"]["mean"] == pytest.approx(1, abs=1e-6)
    # Painted: both halves of a pair cost a pass; summing the values adds a little.
    assert methods["exact"]["cost"]["passes"] == pytest.approx(16, rel=1e-3)
    assert (tmp_path / "mean" / "report" / "index.html").exists()


@pytest.mark.slow
def test_more_patches_than_can_be_enumerated_are_compared_with_estimates(tmp_path, command, small, fails_with_one_line):
    run = tmp_path / "run"
    command("train.py", *small, "--workdir", run, "--config.optim.steps=2", "--config.model.patch_size=4")
    out = command("eval.py", "--checkpoint", run, "--images", 1, "--methods", "phi", "--metrics", "aopc")
    error = json.loads((run / "eval.json").read_text())["shapley_error"]
    assert "KernelSHAP" in out and error["ground_truth"] == "kernel_shap" and 0 < error["standard_error"] < 1
    assert 0.9 < error["r2_ceiling"] < 1 and "R² at most" in out
    assert "kernel_shap" in fails_with_one_line("eval.py", "--checkpoint", run, "--methods", "phi,exact")
    assert "49" in (run / "report" / "index.html").read_text()


@pytest.mark.parametrize(("arguments", "expected"), [
    (("--methods", "phi,kernel_shop"), "did you mean kernel_shap"),
    (("--metrics", "deltion"), "did you mean deletion"),
    (("--images", 2000), "expected 1 to 1000, the images of mnist5k"),
    (("--object_masks", "masks.npy"), r"uint8 [3, 20, 28]; expected bools or integers [3, 28, 28]"),
    (("--methods", ""), "--methods: there is no method to compare"),
])
def test_a_mistake_is_one_line_before_the_work_begins(run, tmp_path, fails_with_one_line, arguments, expected):
    np.save(tmp_path / "masks.npy", np.zeros((3, 20, 28), np.uint8))
    arguments = [str(tmp_path / a) if a == "masks.npy" else a for a in arguments]
    images = () if "--images" in arguments else ("--images", 3)
    output = tmp_path / "output"
    assert expected in fails_with_one_line("eval.py", "--checkpoint", run, "--output", output, *images, *arguments)
    assert not output.exists() or not list(output.iterdir())


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_images_and_other_images_need_no_labels(run, tmp_path, command):
    images, _ = mnist5k.load("test")
    for i, image in enumerate(images[:12]):
        (tmp_path / "digits").mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).resize((40, 30)).save(tmp_path / "digits" / f"{i:02}.png")
    out = command("eval.py", "--checkpoint", f"{run},mnist5k", "--dataset", f"folder:{tmp_path / 'digits'}", "--images",
                  8, "--methods", "phi,random", "--metrics", "deletion", "--output", tmp_path / "out")
    assert "accuracy          unknown: the images have no labels" in out
    found = json.loads((tmp_path / "out" / "models.json").read_text())
    assert (found["one"], found["other"]) == (run.name, "mnist5k")
    keys = [row["key"] for row in found["metrics"]]
    assert keys == ["r2", "r2_shares", "phi/deletion", "random/deletion"]
    assert found["metrics"][0]["difference"]["high"] < 0
    assert "Deletion by phi" in out and " worse" in out and (tmp_path / "out" / "report" / "index.html").exists()
    arrays = np.load(tmp_path / "out" / "mnist5k" / "eval.npz", allow_pickle=False)
    assert arrays["labels"].tolist() == [-1] * 8 and arrays["targets"].tolist() == arrays["logits"].argmax(1).tolist()


def test_two_models_of_different_images_are_refused_before_the_work_begins():
    def work(name, labels, classes=("x", "y", "z")):
        fields = dict.fromkeys(eval_command._Work._fields)
        return eval_command._Work(**fields | {"output": pathlib.Path("out") / name, "origin": {"dataset": name},
                                              "chosen": {"label": np.array(labels)},
                                              "model": types.SimpleNamespace(class_names=classes)})

    eval_command._require_same_images(work("a", [0, 1]), work("b", [0, 1]))
    for other in (work("b", [0, 2]), work("b", [0]), work("b", [0, 1], ("y", "x", "z"))):
        with pytest.raises(UserError, match=r"of a and of b .* differ \(a, b\); expected two models of the same"):
            eval_command._require_same_images(work("a", [0, 1]), other)
