"""The comparison as one call from Python: results, files, going on after an interruption, mistakes."""

import csv
import json

import jax
import numpy as np
import pytest
from scipy import special

from shapjax.evaluation import comparison, files, table
from shapjax.evaluation.ground_truth import GroundTruth
from shapjax.evaluation.measurement import Measurement
from shapjax.games import removal
from shapjax.metrics.registry import METRICS

KEYS = ("phi", "exact", "random")
OPTIONS = {"methods": list(KEYS), "coalitions": 32, "batch_size": 16, "explorer_images": 2, "progress": False}


@pytest.fixture
def measuring(monkeypatch):
    """Makes measuring quick; the measurements and the keys of the methods, one after the other."""
    measured = []

    def measure(work, method, *, done):
        measured.append((work, method.key))
        n, (e, c), rng = len(work.subjects.labels), work.classes.shape, np.random.default_rng(len(measured))
        found = {f"metric/{name}": rng.normal(size=n) for name in METRICS} | {"correct": np.ones(n, bool)}
        found |= {f"metric/{name}": np.ones((n, 6)) for name in ("pixel_accuracy", "miou")}
        found |= {f"curve/{name}": np.zeros((n, 5)) for name in table.CURVES}
        found |= {f"explorer/{name}": rng.normal(size=(e, c, 4)) for name in ("attributions", "order", "deleted")}
        return found | {f"cost/{name}": np.float64(1) for name in ("passes", "seconds", "peak_bytes")}

    monkeypatch.setattr(Measurement, "measure", measure)
    monkeypatch.setattr(comparison, "budget_to_reach", lambda *x, **options: {"phi_r2": 0.5})
    monkeypatch.setattr(comparison, "OverImages", lambda fn, block: lambda *x: np.asarray(fn(*x)))  # need not compile
    return measured


@pytest.fixture
def compare(game, measuring, tmp_path):
    """Compares everything, and leaves its results in tmp_path."""
    object_masks = np.random.default_rng(0).integers(-1, 2, game.images.shape[:3])

    def compare(**changes):
        del measuring[:]
        arguments = OPTIONS | {"images": game.images, "labels": game.labels, "object_masks": object_masks,
                               "directory": tmp_path / "methods"} | changes
        return comparison.compare(game.model, **arguments)

    return compare


def test_the_summary_has_every_method_and_metric_and_what_they_rest_on(game, compare):
    summary, _ = compare()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert [method["key"] for method in summary["methods"]] == list(KEYS)
    assert [metric["key"] for metric in summary["metrics"]] == list(METRICS)
    assert {key: summary[key] for key in ("format", "images", "target", "ground_truth", "players", "grid", "seed")} == {
        "format": files.FORMAT, "images": len(game.labels), "target": "predicted", "ground_truth": "exact",
        "players": 4, "grid": [2, 2], "seed": 0}
    assert summary["class_names"] == ["0", "1", "2"] and summary["removal"] == "own"
    assert summary["sample_efficiency"] == {"phi_r2": 0.5}


def test_what_is_measured_is_the_prediction_beside_exact_ground_truth(game, compare, measuring):
    compare()
    work = measuring[0][0]
    np.testing.assert_allclose(work.subjects.probabilities, special.softmax(game.values[:, -1], axis=1), atol=1e-5)
    np.testing.assert_array_equal(work.subjects.targets, game.values[:, -1].argmax(axis=1))
    np.testing.assert_allclose(work.subjects.ground_truth, game.exact, atol=1e-5)
    assert work._exact_seconds > 0 and work._coalitions == 32 and work._batch_size == 16


def test_the_arrays_are_of_the_explorers_images(game, compare, measuring):
    arrays = compare().arrays
    np.testing.assert_array_equal(arrays["images"], game.images[:2])
    np.testing.assert_array_equal(arrays["labels"], game.labels[:2])
    np.testing.assert_array_equal(arrays["classes"], measuring[0][0].classes)
    np.testing.assert_allclose(arrays["probabilities"], special.softmax(game.values[:2, -1], axis=1), atol=1e-5)
    assert arrays["methods"].tolist() == list(KEYS)
    assert all(arrays[name].shape == (3, 2, 3, 4) for name in ("attributions", "deleted", "order"))


def test_an_interrupted_comparison_goes_on_with_what_it_has(game, compare, measuring, tmp_path, capsys):
    summary, _ = compare()
    directory = tmp_path / "methods"
    assert sorted(path.stem for path in directory.iterdir()) == sorted([*KEYS, "ground_truth"])
    (directory / "random.npz").unlink()
    broken = directory / "phi.npz"
    broken.write_bytes(broken.read_bytes()[:1000])  # as if the disk had filled up

    result, out = compare(progress=True), capsys.readouterr().out
    assert [key for _, key in measuring] == ["phi", "random"]
    assert f"ground truth of {len(game.labels)} images is already there" in out and "exact already measured" in out
    before, after = (x["methods"][1]["values"] for x in (summary, result.summary))
    assert {key: value["mean"] for key, value in before.items()} == {k: value["mean"] for k, value in after.items()}


@pytest.mark.parametrize("changes", [{"target": "label"}, {"coalitions": 64}, {"seed": 1}, {"object_masks": None},
                                     {"explorer_images": 1}, {"ground_truth": "none"}, {"fresh": True}])
def test_another_question_is_asked_anew(game, compare, measuring, changes):
    exact = game.exact.astype(np.float32)
    reference = GroundTruth("exact", exact, 0 * exact, exact[:, 0, 0], np.full(len(exact), 16), 0.1)
    known = {"ground_truth": reference, "metrics": ["deletion"]}
    compare(**known)
    compare(**known)
    assert not measuring
    compare(**known | changes)
    assert [key for _, key in measuring] == list(KEYS)


def test_bytes_are_pixels_in_zero_to_one_and_the_target_may_be_the_label(game, measuring):
    images = np.round(game.images * 255).astype(np.uint8)
    summary, arrays = comparison.compare(game.model, images, game.labels, target="label", metrics=["aopc", "deletion"],
                                         ground_truth="none", **OPTIONS)
    work = measuring[0][0]
    np.testing.assert_allclose(work.subjects.images, game.images, atol=1 / 255)
    assert work.subjects.images.dtype == np.float32 and arrays["images"].dtype == np.uint8
    np.testing.assert_array_equal(work.subjects.targets, game.labels)
    np.testing.assert_array_equal(work.subjects.predicted, work.subjects.probabilities.argmax(axis=1))
    assert summary["ground_truth"] is None and "sample_efficiency" not in summary and work.subjects.ground_truth is None
    assert [metric["key"] for metric in summary["metrics"]] == ["aopc", "deletion"]


def test_without_labels_the_metrics_that_need_them_are_left_out(game, compare, measuring):
    summary, arrays = compare(labels=None)
    left = {metric["key"] for metric in summary["metrics"]}
    assert set(METRICS) - left == {"positive_label", "negative_label", "pixel_accuracy_correct", "miou_correct",
                                   "map_correct"}
    assert arrays["labels"].tolist() == [-1, -1]
    np.testing.assert_array_equal(measuring[0][0].subjects.targets, game.values[:, -1].argmax(axis=1))
    with pytest.raises(ValueError, match="target is 'label', and there are no labels"):
        compare(labels=None, target="label")


def test_another_way_to_hide_patches_makes_another_game_with_ground_truth_of_its_own(game, measuring, tmp_path):
    summary, _ = comparison.compare(game.model, game.images, game.labels, removal=removal.Constant(0.9),
                                    directory=tmp_path, **OPTIONS)
    work = measuring[0][0]
    assert np.abs(work.subjects.ground_truth - game.exact).max() > 0.1
    np.testing.assert_allclose(work.subjects.ground_truth.sum(axis=1), game.values[:, -1] - np.asarray(
        game.model.logits(np.full_like(game.images, 0.9))), atol=1e-4)
    assert summary["removal"] == "Constant(color=0.9)" and (tmp_path / "ground_truth_constant.npz").exists()


def test_given_maps_are_further_rows_without_a_cost_and_not_in_the_explorer(game, compare, monkeypatch, tmp_path):
    scored = []

    def score(work, attributions):
        scored.append(attributions)
        return {"metric/deletion": np.arange(len(attributions)), "attributions": attributions} | {
            f"curve/{name}": np.zeros((len(attributions), 5)) for name in table.CURVES}

    monkeypatch.setattr(Measurement, "score", score)
    maps = np.random.default_rng(0).normal(size=(len(game.labels), 2, 2))
    result = compare(metrics=["deletion"], maps={"captum": maps})
    np.testing.assert_allclose(scored, maps.reshape(1, -1, 4), rtol=1e-6)
    *_, row = result.summary["methods"]
    assert (row["key"], row["family"], row["cost"]) == (
        "captum", "given", {"passes": None, "seconds": None, "peak_bytes": None})
    assert row["values"]["deletion"]["mean"] == pytest.approx(np.arange(len(game.labels)).mean())
    assert result.arrays["methods"].tolist() == list(KEYS) and len(result.arrays["attributions"]) == len(KEYS)
    with np.load(tmp_path / "methods" / "captum.npz") as kept:
        np.testing.assert_array_equal(kept["metric/deletion"], np.arange(len(game.labels)))
    files.write_comparison(tmp_path, result.summary, result.arrays)
    with (tmp_path / "methods.csv").open() as file:
        assert list(csv.DictReader(file))[-1]["seconds"] == ""


@pytest.mark.parametrize(("name", "maps", "message"), [
    ("phi", np.zeros((11, 2, 2)), "named 'phi' like a method"),
    ("other", np.zeros((11, 3, 2)), r"are float64 \[11, 3, 2\], expected floats \[11, 2, 2\]"),
    ("other", np.zeros((11, 2, 2), int), "are int64"),
    ("other", np.full((11, 2, 2), np.nan), "of other are not finite"),
])
def test_given_maps_that_do_not_fit_are_refused(compare, name, maps, message):
    with pytest.raises(ValueError, match=message):
        compare(metrics=["deletion"], maps={name: maps})


def test_a_model_from_load_brings_its_class_names(game, measuring):
    class Loaded:
        classifier, class_names = game.model, ("a", "b", "c")

    summary, _ = comparison.compare(Loaded(), game.images, game.labels, **OPTIONS)
    assert summary["class_names"] == ["a", "b", "c"]


def test_a_wrapped_model_is_checked_whatever_hides_its_patches(game):
    model = game.model.replace(logits_fn=lambda params, images: jax.nn.softmax(game.model.logits_fn(params, images)))
    for how in (None, removal.Constant(0.5)):
        with pytest.raises(ValueError, match="returns probabilities"):
            comparison.compare(model, game.images, game.labels, removal=how, **OPTIONS)


def test_floats_outside_of_the_range_of_a_model_from_load_are_refused(game):
    class Loaded:
        classifier = game.model.replace(pixel_range=(0.0, 1.0))

    with pytest.raises(ValueError, match=r"expected floats in \[0, 1\], or uint8"):
        comparison.compare(Loaded(), 255 * np.ones_like(game.images), game.labels, **OPTIONS)


def test_a_path_in_place_of_a_model_is_answered_with_how_to_load_it(game):
    with pytest.raises(ValueError, match="the model is str, expected what shapjax.load or games.wrap returns"):
        comparison.compare("some/path", game.images, game.labels)


@pytest.mark.parametrize(("changes", "message"), [
    ({"methods": ["kernel_shop"]}, "did you mean kernel_shap"),
    ({"methods": []}, "there is no method to compare"),
    ({"methods": "attention"}, "needs attention_fn"),
    ({"metrics": ["deltion"]}, "did you mean deletion"),
    ({"metrics": ["map"]}, "map"),
    ({"metrics": ["shapley_pearson"], "ground_truth": "none"}, "shapley_pearson"),
    ({"ground_truth": "exakt"}, "'exakt' is unknown"),
    ({"target": "both"}, "target is 'both', expected one of predicted, label"),
    ({"coalitions": 0}, "0 coalitions were asked for"),
    ({"coalitions": 33}, "33 coalitions were asked for, expected an even number"),
    ({"labels": np.zeros(3, np.int32)}, r"labels have shape \(3,\), expected \(11\)"),
    ({"labels": np.zeros(12, np.int32)}, r"labels have shape \(12,\), expected \(11\)"),
    ({"images": np.zeros((0, 4, 4, 1)), "labels": np.zeros(0, int)}, "the number of images is 0, expected at least 1"),
    ({"labels": np.full(11, 7)}, "label 7 of row 0 is no class: expected 0 to 2"),
    ({"labels": np.zeros(11)}, r"labels are float64, expected class numbers, int \[11\]"),
    ({"images": np.zeros((11, 4, 4, 1), np.int64)}, "images are int64, expected uint8 or floats"),
    ({"explorer_images": -1}, "explorer_images is -1, expected at least 0"),
    ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ({"seed": -1}, "seed is -1, expected at least 0"),
    ({"object_masks": np.zeros((11, 4, 5), bool)}, r"object masks have shape \(11, 4, 5\), expected \(11, 4, 4\)"),
])
def test_arguments_that_do_not_fit_are_refused(compare, measuring, changes, message):
    with pytest.raises(ValueError, match=message):
        compare(**({"object_masks": None} | changes))
    assert not measuring
