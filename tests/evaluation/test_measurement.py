"""Methods on the same images: nothing depends on how images are batched, and time is that of compiled programs."""

import itertools
import time

import jax
import numpy as np
import pytest
from scipy import special

from shapjax.attribution import registry, shapley_values
from shapjax.evaluation.keys import image_keys
from shapjax.evaluation.measurement import Measurement, classes_to_explore, fullest_block
from shapjax.evaluation.over_images import OverImages
from shapjax.metrics.registry import METRICS


def test_every_metric_is_measured_for_every_image(measured, subjects):
    for found in measured.values():
        for metric in METRICS:
            assert len(found["metric/" + metric.removesuffix("_correct")]) == len(subjects.labels), metric
        np.testing.assert_array_equal(found["correct"], subjects.predicted == subjects.labels)


def test_attributions_from_elsewhere_are_scored_as_those_of_a_method(work, measured, case):
    found, expected = work.score(case["attributions"]), measured["linear"]
    assert found.keys() == {key for key in expected if not key.startswith(("cost/", "explorer/"))}
    for key, array in found.items():
        np.testing.assert_allclose(array, expected[key], atol=1e-5, err_msg=key)


def test_methods_explain_the_target_with_keys_that_are_theirs_alone(game, subjects, measured):
    phi = np.take_along_axis(np.asarray(game.model.phi(game.images)), subjects.targets[:, None, None], axis=2)[..., 0]
    np.testing.assert_allclose(measured["phi"]["attributions"], phi, atol=1e-5)
    keys = image_keys("explanation", len(game.images), seed=0)
    sampled = shapley_values.kernel_shap(game.model, game.images, subjects.targets, keys, coalitions=8)
    np.testing.assert_allclose(measured["kernel_shap"]["attributions"], sampled, atol=1e-4)


def test_exact_values_are_taken_from_ground_truth_with_the_time_they_took(game, subjects, measured):
    exact = np.take_along_axis(game.exact, subjects.targets[:, None, None], axis=2)[..., 0]
    np.testing.assert_allclose(measured["exact"]["attributions"], exact, atol=1e-5)
    np.testing.assert_allclose(measured["exact"]["metric/shapley_pearson"], 1, atol=1e-6)
    assert measured["exact"]["cost/seconds"] == 0.25 and np.isnan(measured["exact"]["cost/peak_bytes"])
    assert measured["exact"]["cost/passes"] == pytest.approx(16, rel=0.5)  # all coalitions, painted


def test_the_explorer_has_the_attributions_of_its_classes_and_what_is_left_without_the_top_patches(
        game, work, measured):
    phi = np.asarray(game.model.phi(game.images[:2]))
    expected = np.take_along_axis(phi, work.classes[:, None, :], axis=2).transpose(0, 2, 1)
    found = measured["phi"]
    np.testing.assert_allclose(found["explorer/attributions"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["explorer/order"], np.argsort(-expected, axis=-1))
    p = special.softmax(game.values[:2], axis=-1)
    for image, classes in enumerate(work.classes):
        for place, class_ in enumerate(classes):
            codes = 15 - np.concatenate([[0], np.cumsum(2 ** found["explorer/order"][image, place])])
            np.testing.assert_allclose(found["explorer/deleted"][image, place], p[image, codes, class_], atol=1e-5)


@pytest.mark.slow
def test_results_do_not_depend_on_how_images_are_batched(game, subjects, settings, measured):
    settings = settings | {"batch_size": 7, "block": 16}
    again = Measurement(game.model, subjects, **settings).measure(registry.METHODS["kernel_shap"])
    for name, array in measured["kernel_shap"].items():
        if not name.startswith("cost/"):
            # Average precision jumps where two of the 16 pixels change places: rounding decides between near ties.
            atol = 0.1 if name == "metric/map" else 2e-3
            np.testing.assert_allclose(again[name], array, atol=atol, rtol=1e-3, err_msg=name)


def test_a_method_is_compiled_before_it_is_timed_and_rows_that_fill_a_block_count_as_images(
        game, subjects, settings, monkeypatch):
    events, compile, seconds = [], OverImages.compile, itertools.count(1.0)

    def compile_once(over, *arrays):
        if over._compiled is None:
            events.append("compiled")
        compile(over, *arrays)

    monkeypatch.setattr(OverImages, "compile", compile_once)
    monkeypatch.setattr(time, "perf_counter", lambda: events.append("clock") or next(seconds))
    work = Measurement(game.model, subjects._replace(ground_truth=None, object_masks=None),
                       **settings | {"explorer_images": 0})
    work._score = lambda *arrays, done: {}
    work._evaluate = lambda *arrays: {end: np.zeros((len(subjects.images), 3)) for end in ("whole", "empty")}
    work._remove = lambda *arrays, done: (np.zeros((0, 4)), np.zeros((0, 5)))
    found = work.measure(registry.METHODS["phi"])
    assert events[0] == "compiled" and set(events[1:]) == {"clock"}
    blocks = -(-len(subjects.images) // settings["block"])  # of a multiple of the devices
    assert found["cost/seconds"] == 1 / (blocks * settings["block"]) and len(subjects.images) % settings["block"]
    assert found["explorer/attributions"].shape[0] == 0


@pytest.mark.parametrize(("counts", "devices", "block"), [
    ((1, 0), 1, 1), ((1, 5), 1, 1), ((16, 15), 1, 16), ((16, 5), 1, 8), ((17, 3), 1, 3), ((0, 0), 1, 16),
    ((1, 5), 2, 2), ((11, 6), 8, 8), ((1000, 40), 8, 16)])
def test_a_block_has_few_empty_places(counts, devices, block):
    assert fullest_block(16, *counts, devices=devices) == block


def test_one_image_is_not_worked_on_as_if_it_were_a_block_of_them(game, subjects, settings):
    one = subjects._replace(ground_truth=None, **{name: getattr(subjects, name)[:1] for name in (
        "images", "labels", "predicted", "targets", "probabilities", "object_masks")})
    work = Measurement(game.model, one, **settings | {"block": 100, "explorer_images": 0})
    assert work._score.block == work._remove.block == jax.local_device_count()


def test_attributions_that_are_not_finite_name_the_method(work):
    nan = np.full((1, 4), np.nan, np.float32)
    method = registry.METHODS["phi"]._replace(fn=lambda *_, **options: nan)
    with pytest.raises(ValueError, match="attributions of phi are not finite"):
        work.measure(method)


@pytest.mark.parametrize("field", ["targets", "labels"])
def test_a_target_or_label_that_is_no_class_is_named(game, subjects, settings, field):
    classes = getattr(subjects, field).copy()
    classes[4] = 3
    with pytest.raises(ValueError, match="target 3 of row 4 is no class: expected 0 to 2"):
        Measurement(game.model, subjects._replace(**{field: classes}), **settings)


def test_explorer_classes_hold_the_label_and_the_target_and_fall_in_probability():
    p = np.array([[0.1, 0.5, 0.02, 0.3, 0.08]])
    assert classes_to_explore(p, np.array([2]), np.array([1]), 3).tolist() == [[1, 3, 2]]
    assert classes_to_explore(p, np.array([1]), np.array([1]), 9).tolist() == [[1, 3, 0, 4, 2]]
