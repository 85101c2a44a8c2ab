"""Agreement with Shapley values, against scikit-learn and scipy, and where it is undefined."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_squared_error, r2_score

from shapjax.metrics import shapley_agreement


def test_the_error_is_measured_an_image_and_averaged_over_images(rng):
    exact = rng.normal(size=(3, 4, 5)) * np.array([1.0, 2.0, 8.0])[:, None, None]
    phi = (exact + rng.normal(size=exact.shape)).astype(np.float32)
    rows = list(zip(phi.reshape(3, -1).astype(np.float64), exact.reshape(3, -1), strict=True))
    error = shapley_agreement.shapley_error(phi, exact)
    assert error["mse"] == pytest.approx(np.mean([mean_squared_error(e, p) for p, e in rows]))
    assert error["r2_per_image"] == pytest.approx([r2_score(e, p) for p, e in rows])
    assert error["r2"] == pytest.approx(np.mean([r2_score(e, p) for p, e in rows]))
    assert error["pearson"] == pytest.approx(np.mean([stats.pearsonr(p, e)[0] for p, e in rows]))
    assert error["spearman"] == pytest.approx(np.mean([stats.spearmanr(p, e)[0] for p, e in rows]))


def test_equal_shares_of_the_right_totals_have_no_r2_of_shares(rng):
    exact = rng.normal(size=(3, 4, 5)) + rng.normal(size=(3, 1, 5)) * 3
    equal = np.broadcast_to(exact.mean(axis=1, keepdims=True), exact.shape)
    error = shapley_agreement.shapley_error(equal, exact)
    assert error["r2_shares"] == pytest.approx(0) and error["r2"] > 0.5
    wrong_totals = exact + 7 * rng.normal(size=(3, 1, 5))
    shifted = shapley_agreement.shapley_error(wrong_totals, exact)
    assert shifted["r2_shares"] == pytest.approx(1) and shifted["r2"] < 0.9


def test_exact_values_have_no_error(rng):
    exact = rng.normal(size=(2, 4, 3))
    error = shapley_agreement.shapley_error(exact, exact)
    assert error["mse"] == 0 and error["r2"] == 1
    assert error["pearson"] == pytest.approx(1) and error["spearman"] == pytest.approx(1)


def test_what_is_undefined_is_none_and_left_out_of_the_mean(rng):
    exact, phi = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3))
    exact[0] = 2.0  # a constant game has no variance to explain
    error = shapley_agreement.shapley_error(phi, exact)
    assert error["r2_per_image"][0] is None
    assert error["r2"] == error["r2_per_image"][1] == pytest.approx(r2_score(exact[1].ravel(), phi[1].ravel()))
    assert error["pearson"] == pytest.approx(stats.pearsonr(phi[1].ravel(), exact[1].ravel())[0])
    error = shapley_agreement.shapley_error(phi[:1], exact[:1])
    assert error["r2"] is error["pearson"] is error["spearman"] is None and error["mse"] > 0


def test_constant_estimates_have_an_r2_but_no_correlation(rng):
    error = shapley_agreement.shapley_error(np.zeros((1, 4, 3)), rng.normal(size=(1, 4, 3)))
    assert error["pearson"] is error["spearman"] is None and error["r2"] <= 0


def test_the_efficiency_gap_is_the_largest_missing_or_surplus_worth(rng):
    phi = rng.normal(size=(3, 4, 2))
    empty = rng.normal(size=(3, 2))
    totals = phi.sum(axis=1) + empty
    assert shapley_agreement.efficiency_gap(totals, empty, phi) < 1e-12
    phi[1, 2, 0] += 0.25
    phi[2, 3, 1] -= 0.5
    assert shapley_agreement.efficiency_gap(totals, empty, phi) == pytest.approx(0.5)
    assert shapley_agreement.efficiency_gap(totals, 0 * empty, phi) > 0.5


def test_each_image_has_its_own_measures_undefined_ones_nan(rng):
    exact, phi = rng.normal(size=(3, 4, 1)), rng.normal(size=(3, 4, 1))
    phi[1] = 0.0
    exact[2] = 1.0
    measures = shapley_agreement.agreement(phi, exact)
    assert all(values.shape == (3,) for values in measures.values())
    assert measures["spearman"][0] == pytest.approx(stats.spearmanr(phi[0, :, 0], exact[0, :, 0]).statistic)
    assert measures["r2_shares"][0] == pytest.approx(
        r2_score(exact[0, :, 0] - exact[0].mean(), phi[0, :, 0] - phi[0].mean()))
    np.testing.assert_array_equal(np.isnan(measures["pearson"]), [False, True, True])
    np.testing.assert_array_equal(np.isnan(measures["r2"]), [False, False, True])


def test_the_ceiling_is_the_r2_of_perfect_values_against_an_estimate(rng):
    """Exact values are compared with ground truth that has errors of known size."""
    exact = rng.normal(size=(4, 400, 5)) * np.array([1.0, 2, 3, 4])[:, None, None]
    errors = np.broadcast_to(np.array([0.2, 0.2, 0.6, 0.6])[:, None, None], exact.shape)
    estimate = exact + errors * rng.normal(size=exact.shape)
    ceiling = shapley_agreement.r2_ceiling(estimate, errors)
    by_hand = np.mean([1 - np.mean(e**2) / np.var(t) for t, e in zip(estimate, errors, strict=True)])
    assert ceiling == pytest.approx(by_hand)
    assert ceiling == pytest.approx(shapley_agreement.shapley_error(exact, estimate)["r2"], abs=0.005)
    assert shapley_agreement.r2_ceiling(exact, 0 * errors) == 1
    assert shapley_agreement.r2_ceiling(np.ones((2, 4, 3)), np.ones((2, 4, 3))) is None
    with pytest.raises(ValueError, match="standard errors have shape"):
        shapley_agreement.r2_ceiling(exact, errors[:2])


def test_values_of_another_shape_are_refused(rng):
    with pytest.raises(ValueError, match=r"values have shape \(3, 4, 1\), expected \(3, 4, 2\)"):
        shapley_agreement.agreement(np.zeros((3, 4, 1)), np.zeros((3, 4, 2)))
