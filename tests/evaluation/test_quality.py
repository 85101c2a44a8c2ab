"""The metrics of a model are over all images and their labels, and come with the precision of ground truth."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import special

from shapjax.evaluation import quality
from shapjax.evaluation.ground_truth import GroundTruth

N = 4


@pytest.fixture(scope="module")
def reference(game):
    exact = game.exact[:5].astype(np.float32)
    return GroundTruth("kernel_shap", exact, np.full_like(exact, 0.1), np.linspace(0.01, 0.02, 5), np.full(5, 2050),
                       0.5)


@pytest.fixture(scope="module")
def evaluated(game, source, reference):
    return quality.evaluate(game.model, source, images=5, ground_truth=reference, batch_size=2, progress=False)


def logits(game, source):
    return np.asarray(game.model.logits(source.images.astype(np.float32) / 255))


def test_predictions_are_of_every_image_once_in_order(game, source):
    found, labels = quality.predictions(game.model, dataclasses.replace(source), batch_size=1)
    np.testing.assert_allclose(found, logits(game, source), atol=1e-5)
    np.testing.assert_array_equal(labels, source.labels)


def test_accuracy_and_cross_entropy_are_of_all_images_against_their_labels(game, source, evaluated):
    values, _ = evaluated
    expected, rows = logits(game, source), np.arange(len(source))
    assert values["accuracy_top1"] == pytest.approx(np.mean(expected.argmax(axis=1) == source.labels))
    assert values["accuracy_top5"] == 1 and 0 < values["accuracy_top1"] < 1 and values["images"] == len(source)
    assert values["cross_entropy"] == pytest.approx(
        -np.mean(special.log_softmax(expected, axis=1)[rows, source.labels]), abs=1e-5)
    assert (values["players"], values["classes"], values["parameters"]) == (N, 3, 16 * 8 + 8 * 3 + 3)


def test_without_labels_all_but_accuracy_is_measured(game, source, reference, evaluated):
    unlabeled = dataclasses.replace(source, labels=np.full_like(source.labels, -1), labeled=False)
    values, arrays = quality.evaluate(game.model, unlabeled, images=5, ground_truth=reference, batch_size=2,
                                      progress=False)
    unknown = {"accuracy_top1", "accuracy_top5", "cross_entropy", "accuracy_under_removal"}
    assert {name for name, value in values.items() if value is None} == unknown
    assert {name: value for name, value in values.items() if name not in unknown} == {
        name: value for name, value in evaluated[0].items() if name not in unknown}
    assert arrays["labels"].tolist() == [-1] * 5


def test_accuracy_under_removal_starts_at_accuracy_and_ends_without_any_patch(game, source, evaluated):
    removed = evaluated[0]["accuracy_under_removal"]
    assert len(removed) == 10 and removed[0] == removed[1] == pytest.approx(evaluated[0]["accuracy_top1"])
    assert removed[9] == pytest.approx(np.mean(game.values[:, 0].argmax(axis=1) == source.labels))
    assert len(set(removed)) > 2


def test_the_efficiency_gap_is_that_of_phi(game, source, evaluated):
    gap = np.abs(game.values[:5, 0]).max()  # phi sums to f(x), and v(∅) is not 0 when patches are painted
    assert evaluated[0]["efficiency_gap"] == pytest.approx(gap, abs=1e-4)


def test_the_error_is_against_ground_truth_and_stands_beside_its_ceiling(game, reference, evaluated):
    error, phi = evaluated[0]["shapley_error"], evaluated[1]["shapley"].reshape(5, -1)
    exact = reference.values.reshape(5, -1)
    r2 = 1 - ((phi - exact) ** 2).sum(axis=1) / ((exact - exact.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    assert error["r2_per_image"] == pytest.approx(r2.tolist(), abs=1e-5) and error["r2"] == pytest.approx(
        r2.mean(), abs=1e-5)
    assert error["mse"] == pytest.approx(((phi - exact) ** 2).mean(), abs=1e-5)
    assert error["r2_ceiling"] == pytest.approx(np.mean(1 - 0.01 / exact.var(axis=1)), abs=1e-5)
    assert {key: error[key] for key in ("ground_truth", "images", "coalitions_per_image", "standard_error", "seconds")
            } == {"ground_truth": "kernel_shap", "images": 5, "coalitions_per_image": 2050, "standard_error": 0.02,
                  "seconds": 2.5}
    assert {"r2_shares", "pearson", "spearman"} < error.keys()
    json.dumps(evaluated[0], allow_nan=False)


def test_exact_ground_truth_has_a_ceiling_of_one_and_an_infinite_error_none(reference):
    exact = reference._replace(standard_errors=np.zeros_like(reference.values))
    assert quality.shapley_error(reference.values, exact)["r2_ceiling"] == 1
    unknown = reference._replace(standard_errors=np.full_like(reference.values, np.inf))
    assert quality.shapley_error(reference.values, unknown)["r2_ceiling"] is None


def test_the_arrays_are_of_the_explained_images(game, source, reference, evaluated):
    arrays = evaluated[1]
    np.testing.assert_array_equal(arrays["images"], source.images[:5])
    np.testing.assert_array_equal(arrays["labels"], source.labels[:5])
    np.testing.assert_allclose(arrays["logits"], logits(game, source)[:5], atol=1e-5)
    assert arrays["shapley"].shape == arrays["ground_truth"].shape == (5, 2, 2, 3)
    np.testing.assert_allclose(arrays["shapley"].sum(axis=(1, 2)), arrays["logits"], atol=1e-4)
    np.testing.assert_array_equal(arrays["ground_truth"].reshape(5, N, 3), reference.values)


def test_more_images_than_there_are_is_one_line(game, source):
    with pytest.raises(ValueError, match="12 images were asked for; the split has 11: give 1 to 11"):
        quality.evaluate(game.model, source, images=12)
