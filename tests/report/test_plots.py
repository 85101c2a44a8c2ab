"""Plots have axes that can be compared, and show each run and every record once."""

import numpy as np
from matplotlib.text import Text

from shapjax.report import figures, plots


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_agreement_panels_share_equal_axes_and_state_r2():
    exact = [np.random.default_rng(seed).normal(size=(5, 2, 2, 3)) * (seed + 1) for seed in range(2)]
    predicted = [exact[0], np.zeros_like(exact[1]) + exact[1].mean((1, 2, 3), keepdims=True)]
    figure = plots.agreement_figure(predicted, exact, r2=[0.98, None], titles=["Model", "Baseline model"])
    limits = {axes.get_xlim() for axes in figure.axes} | {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1
    assert all(axes.collections[0].get_offsets().shape == (60, 2) for axes in figure.axes)
    assert ["R² = 0.98", "R² undefined"] == [text for text in texts(figure) if text.startswith("R²")]


def test_agreement_puts_exact_values_on_x():
    exact, predicted = np.array([[[1.0, 2.0]]]), np.array([[[3.0, 4.0]]])
    figure = plots.agreement_figure([predicted], [exact], r2=[0.5], titles=["Model"])
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), [[1, 3], [2, 4]])


def test_errors_are_drawn_by_level_and_by_pairs_and_what_is_undefined_is_left_out():
    points = [{"pairs": pairs, "curve": [0.4, 0.9 - pairs / 100], "rmse": 0.2 / (1 + pairs), "permutation_rmse": None,
               "kernel_shap_rmse": 0.5 / pairs if pairs else None} for pairs in (0, 4, 16)]
    coverage, error = plots.errors_figure(points, [0.5, 0.95]).axes
    curves = [list(line.get_ydata()) for line in coverage.lines]
    assert curves == [[0, 1], [0.4, 0.9], [0.4, 0.86], [0.4, 0.74]]
    lines = {line.get_label(): list(line.get_ydata()) for line in error.lines}
    assert lines == {"phi + pairs": [0.04, 0.2 / 17], "KernelSHAP": [0.125, 0.03125], "phi alone": [0.2, 0.2]}
    assert plots.errors_figure(points, [0.5, 0.95], stacked=True).get_figheight() > 6


def test_curves_show_each_run_and_the_accuracy_by_step():
    def records(scale):
        train = [{"step": s, "split": "train", "loss_classification": scale / s, "loss_masked": 1.0,
                  "loss_shapley": 0.0} for s in (10, 20, 30)]
        return [*train, {"step": 30, "split": "test", "accuracy": 0.5 * scale}]

    figure = plots.curves_figure([("Model", records(1)), ("Baseline model", records(2))])
    classification, _, shapley, accuracy = figure.axes
    assert classification.get_yscale() == "log"
    assert "not recorded" in [text.get_text() for text in shapley.texts]  # zero has no place on a log scale
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.5], [1.0]]
    assert {"Model", "Baseline model"} <= set(texts(figure))
    assert figures.figure_bytes(figure, format="svg")


def test_a_loss_that_hardly_moves_still_has_two_ticks():
    records = [{"step": s, "split": "train", "loss_masked": 1.3 + s / 1e4} for s in (10, 20, 30)]
    axes = plots.curves_figure([("Model", records)]).axes[1]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


def test_series_are_in_order_and_the_later_record_of_a_step_counts():
    records = [{"step": 20, "split": "train", "loss": 2.0}, {"step": 10, "split": "train", "loss": 1.0},
               {"step": 20, "split": "train", "loss": 3.0}, {"step": 30, "split": "train", "loss": float("nan")},
               {"step": 20, "split": "test", "loss": 9.0}, {"step": 40, "split": "train"}]
    steps, values = plots.series(records, "train", "loss")
    assert list(steps) == [10, 20]
    assert list(values) == [1.0, 3.0]
