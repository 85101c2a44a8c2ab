"""A fitted law is the one that games were drawn from, and its intervals hold on other games."""

import jax
import numpy as np
import pytest

from shapjax import games
from shapjax.evaluation import calibration
from shapjax.evaluation.calibration import Sample
from shapjax.evaluation.ground_truth import GroundTruth
from shapjax.evaluation.refinement_quality import measure
from shapjax.games.error_law import ErrorLaw
from tests.games.test_error_law import LAW, N, drawn


def sample_of(law, *, games, seed, near_error=0.0):
    """Returns a sample of games drawn from a law, whose Shapley values are known up to an error."""
    prior, masks, differences, totals, truth = drawn(law, games=games, m=4 * N, seed=seed)
    near = truth + near_error * np.random.default_rng(seed + 1).normal(size=truth.shape)
    arrays = (prior, masks, differences, totals, near, np.full(near.shape, near_error))
    return Sample(*(x if x.dtype == bool else x.astype(np.float32) for x in arrays))


@pytest.fixture(scope="module")
def fitted():
    return calibration.fit(sample_of(LAW, games=150, seed=0, near_error=0.05))


def test_the_law_is_found_again(fitted):
    assert fitted.scale == pytest.approx(LAW.scale, rel=0.15)
    assert fitted.ridge == pytest.approx(LAW.ridge, rel=0.3)
    assert fitted.floor == pytest.approx(LAW.floor, rel=0.5)
    assert 3 < fitted.freedom < 15
    np.testing.assert_allclose(fitted.factors, 1, atol=0.1)
    np.testing.assert_array_equal(fitted.budgets, np.float32(calibration.BUDGETS))


def test_its_intervals_hold_on_other_games_whether_their_values_are_known_or_estimated(fitted):
    for near_error in (0.0, 0.2):
        other = sample_of(LAW, games=300, seed=9, near_error=near_error)
        for refined in calibration.refined(other, fitted):
            error = np.abs(refined.values - other.near)
            for level in calibration.LEVELS:
                half = calibration.half_widths(refined, level, extra=other.near_errors)
                assert np.mean(error <= half) == pytest.approx(level, abs=0.03), (near_error, level)


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_a_factor_mends_errors_that_are_too_small_or_too_large(wrong):
    found = sample_of(LAW, games=300, seed=3)
    law = LAW._replace(scale=LAW.scale * wrong)
    without_pairs = calibration.refined(found, law)[0]
    assert calibration.factor_for(without_pairs, found) == pytest.approx(1 / wrong, rel=0.1)


def test_images_whose_values_are_not_known_are_left_out(fitted):
    found = sample_of(LAW, games=150, seed=0, near_error=0.05)
    unknown = found.near_errors.copy()
    unknown[:3] = np.inf
    for a, b in zip(calibration.fit(found._replace(near_errors=unknown)), fitted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.25, atol=0.05)
    unknown[5:] = np.inf
    with pytest.raises(ValueError, match="of 2 images are known well enough, expected 8"):
        calibration.fit(found._replace(near_errors=unknown))


@pytest.mark.parametrize(("grid", "width", "expected"), [
    ((4, 4), 2, (256, 64, 1024)), ((4, 4), 10**6, (143, 64, 1024)), ((4, 4), 4 * 10**6, (64, 64, 546)),
    ((4, 4), 10**8, (64, 64, 256)), ((8, 8), 10**8, (40, 256, 256)), ((14, 14), 10**8, (16, 784, 784))])
def test_more_is_asked_of_a_model_whose_passes_cost_less(grid, width, expected):
    """An image of one number a patch, times a matrix of so many columns."""

    def logits(params, images):
        return (images.reshape(len(images), -1) @ params)[:, :2]

    n = grid[0] * grid[1]
    model = games.wrap(logits, jax.ShapeDtypeStruct((n, width), np.float32), grid=grid, removal=games.Constant(0.0))
    assert calibration.plan(model, (*grid, 1)) == expected


def test_too_few_images_are_refused(game):
    with pytest.raises(ValueError, match="11 images are too few to calibrate on; expected at least 16"):
        calibration.calibrate(game.model, game.images)


def test_a_model_is_asked_as_much_as_is_planned(game, monkeypatch):
    monkeypatch.setattr(calibration, "plan", lambda model, image_shape: calibration.Plan(5, pairs=3, near_pairs=6))
    monkeypatch.setattr(calibration, "fit", lambda found: found)
    found = calibration.calibrate(game.model, np.tile(game.images, (2, 1, 1, 1)), progress=False)
    assert found.masks.shape[:2] == (5, 3) and found.near.shape[0] == 5
    assert found.near_errors.any()  # six pairs of the eight that there are


@pytest.fixture(scope="module")
def measured(game):
    """Returns the measures of refined values of the game, less v(∅), by pairs."""
    empty = jax.numpy.asarray(game.values[0, 0], jax.numpy.float32)  # that of every image
    law = ErrorLaw(*map(np.float32, (0.4, 5.0, 1.0, 0.5)), np.float32([0]), np.float32([1]))
    truth = GroundTruth("exact", game.exact.astype(np.float32), np.zeros(game.exact.shape, np.float32),
                        np.zeros(11, np.float32), np.full(11, 16), 0.0)
    model = game.model.replace(
        error_law=law, coalition_fn=lambda *arguments: game.model.coalition_fn(*arguments) - empty,
        phi_fn=lambda *arguments: game.model.phi_fn(*arguments) - empty / 4)
    estimated = truth._replace(standard_errors=np.full(game.exact.shape, 9.0, np.float32))
    return {key: {point["pairs"]: point for point in measure(model, game.images, reference)}
            for key, reference in (("exact", truth), ("estimated", estimated))}


def test_refined_values_are_measured_beside_others_at_equal_pairs(measured):
    points = measured["exact"]
    assert list(points) == [0, 2, 4, 8, 16, 64]
    assert points[0]["kernel_shap_r2"] is points[0]["gain"] is points[2]["permutation_r2"] is None
    assert points[0]["r2"] < points[64]["r2"] and points[64]["rmse"] < points[0]["rmse"]
    assert points[64]["kernel_shap_r2"] > 0.9 and points[64]["permutation_r2"] > 0.9
    assert points[64]["width"] < points[0]["width"] and points[64]["standard_error"] < points[0]["standard_error"]
    for point in points.values():
        assert point["curve"] == sorted(point["curve"])
        for share in point["coverage"].values():
            assert 0 <= share["low"] <= share["mean"] <= share["high"] <= 1
    gain = points[4]["gain"]
    assert gain["mean"] == pytest.approx(points[4]["kernel_shap_rmse"] ** 2 - points[4]["rmse"] ** 2, rel=1e-4)


def test_errors_of_the_ground_truth_widen_the_intervals(measured):
    for exact, estimated in zip(measured["exact"].values(), measured["estimated"].values(), strict=True):
        assert estimated["coverage"]["0.5"]["mean"] == 1 and exact["r2"] == estimated["r2"]
