"""Draws an evaluation as matplotlib figures: predicted values against ground truth, and how training went.

Colors and files are as in `shapjax.report.figures`.
"""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator, PercentFormatter

from shapjax.report.figures import LIGHT, Theme
from shapjax.report.formatting import signed
from shapjax.report.heatmap import color_limit


def agreement_figure(predicted: Sequence[np.ndarray], ground_truth: Sequence[np.ndarray], *,
                     r2: Sequence[float | None], titles: Sequence[str], kind: str = "exact", stacked: bool = False,
                     theme: Theme = LIGHT) -> Figure:
    """Draws predicted Shapley values against ground truth, one panel a run, all panels on the same axes.

    Args:
      predicted: for each run (one or two) float [n, ..., K]: n images, their patches, K classes; logits.
      ground_truth: the same for ground truth.
      r2: for each run, the mean over images, to be written in its panel; None if undefined.
      titles: a name for each run.
      kind: of ground truth, for the axis: "exact" or "estimated".
      stacked: panels below each other, for narrow screens.
      theme: LIGHT or DARK.
    """
    limit = 1.05 * max(color_limit(values) for values in (*predicted, *ground_truth))
    with matplotlib.rc_context(theme.style()):
        rows, columns = (len(titles), 1) if stacked else (1, len(titles))
        figure = Figure((4.1 * columns + 0.3, 4.35 * rows))
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for run, axes in enumerate(panels):
            axes.axhline(0, color=theme.rule, linewidth=0.8, zorder=0)
            axes.axvline(0, color=theme.rule, linewidth=0.8, zorder=0)
            ends = (-limit, limit)
            axes.plot(ends, ends, color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            alpha = float(np.clip(15 / math.sqrt(ground_truth[run].size), 0.04, 0.6))
            axes.scatter(ground_truth[run].ravel(), predicted[run].ravel(), s=9, color=theme.runs[run], linewidths=0,
                         alpha=alpha, rasterized=True)  # thousands of vector points would make the page slow
            axes.set(xlim=ends, ylim=ends, aspect="equal", title=titles[run], xlabel=f"{kind} Shapley value (logits)")
            axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
            axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
            axes.text(
                0.04, 0.955, "R² undefined" if r2[run] is None else f"R² = {signed(r2[run], plus='')}",
                transform=axes.transAxes, va="top", color=theme.runs[run], fontsize=13, fontweight="bold")
            if stacked or run == 0:
                axes.set_ylabel("predicted Shapley value (logits)")
        panels[0].annotate(
            "equal", (0.93 * limit, 0.93 * limit), (-2, 3), textcoords="offset points", rotation=45,
            rotation_mode="anchor", ha="right", va="bottom", color=theme.muted, fontsize=8)
    return figure


def errors_figure(points: Sequence[Mapping], levels: Sequence[float], *, stacked: bool = False, theme: Theme = LIGHT
                  ) -> Figure:
    """Draws whether intervals hold what they say, and how the error falls with coalition pairs.

    Args:
      points: of `refinement_quality.measure`, by number of pairs, the first without any.
      levels: of the points' "curve".
      stacked: panels below each other, for narrow screens.
      theme: LIGHT or DARK.
    """
    with matplotlib.rc_context(theme.style()):
        rows, columns = (2, 1) if stacked else (1, 2)
        figure = Figure((4.35 * columns, 3.6 * rows + 0.3))
        left, right = figure.subplots(rows, columns).ravel()
        left.plot((0, 1), (0, 1), color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)))
        shown = [points[i] for i in sorted({0, len(points) // 2, len(points) - 1})]
        for point, alpha in zip(shown, (1.0, 0.6, 0.3), strict=False):
            left.plot(levels, point["curve"], color=theme.runs[0], alpha=alpha, linewidth=1.7,
                      label=f"{point['pairs']} pairs")
        left.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the interval")
        left.set_title("Shapley values inside the intervals", fontsize=10)
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        left.grid()
        left.legend(frameon=False, fontsize=8.5)

        for key, name, color, style in (("rmse", "phi + pairs", theme.runs[0], "-"),
                                        ("kernel_shap_rmse", "KernelSHAP", theme.runs[1], "-"),
                                        ("permutation_rmse", "permutation sampling", theme.runs[1], ":")):
            curve = [(point["pairs"], point[key]) for point in points if point["pairs"] and point[key]]
            if curve:
                right.plot(*zip(*curve, strict=True), color=color, linestyle=style, linewidth=1.7, marker="o",
                           markersize=3, label=name)
        right.axhline(points[0]["rmse"], color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)), label="phi alone")
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter(lambda pairs, _: f"{pairs:.0f}")
        right.set_title("Root mean square error (logits)", fontsize=10)
        right.set_xlabel("coalition pairs an image")
        right.grid(axis="y")
        _use_log_scale(right)
        right.legend(frameon=False, fontsize=8.5)
    return figure


def curves_figure(runs: Sequence[tuple[str, Sequence[Mapping]]], *, stacked: bool = False, theme: Theme = LIGHT
                  ) -> Figure:
    """Draws the three losses (log scale) and the accuracy on the test split, by step of training.

    A faint line is what was recorded, a strong one its running mean.

    Args:
      runs: one or two pairs of a name and the run's records (the parsed lines of metrics.jsonl).
      stacked: panels below each other, for narrow screens.
      theme: LIGHT or DARK.
    """
    losses = {
        "Classification loss": "loss_classification",
        "Classification loss, patches hidden": "loss_masked",
        "Shapley loss": "loss_shapley",
    }
    with matplotlib.rc_context(theme.style()):
        rows, columns = (4, 1) if stacked else (2, 2)
        figure = Figure((4.35 * columns, 2.65 * rows + 0.3))
        panels = figure.subplots(rows, columns).ravel()
        for axes, (title, key) in zip(panels, losses.items(), strict=False):
            for run, (_, records) in enumerate(runs):
                steps, values = series(records, "train", key)
                positive = values > 0  # a log scale has no place for a weight of zero
                steps, values = steps[positive], values[positive]
                if not len(values):
                    continue
                smooth = _running_mean(values, max(1, len(values) // 40))
                axes.plot(steps, values, color=theme.runs[run], linewidth=0.8, alpha=0.3)
                axes.plot(steps, smooth, color=theme.runs[run], linewidth=1.7)
            _finish_curve(axes, title, theme)
            _use_log_scale(axes)
        accuracy = panels[-1]
        for run, (name, records) in enumerate(runs):
            steps, values = series(records, "test", "accuracy")
            accuracy.plot(steps, values, label=name, color=theme.runs[run], linewidth=1.7, marker="o", markersize=3)
        _finish_curve(accuracy, "Test accuracy", theme)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        figure.legend(
            *accuracy.get_legend_handles_labels(), loc="outside upper left", ncols=len(runs), frameon=False,
            fontsize=9.5, borderaxespad=0.2, handlelength=1.6)
        for axes in panels[-columns:]:
            axes.set_xlabel("step")
    return figure


def series(records: Sequence[Mapping], split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps and the finite values of `key` in one split's records, in order of the steps.

    Of two records of a step the later counts. The arrays are int64 [s] and float64 [s].
    """
    rows = (record for record in records if record.get("split") == split and record.get(key) is not None)
    by_step = {row["step"]: float(row[key]) for row in rows}
    steps = np.array(sorted(by_step), dtype=np.int64)
    values = np.array([by_step[step] for step in steps], dtype=np.float64)
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def _finish_curve(axes: Axes, title: str, theme: Theme) -> None:
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not any(len(line.get_xdata()) for line in axes.lines):
        axes.text(0.5, 0.5, "not recorded", color=theme.muted, fontsize=9, transform=axes.transAxes, ha="center",
                  va="center")


def _use_log_scale(axes: Axes) -> None:
    """Makes the y axis logarithmic, with two or more ticks at 1, 2 and 5 (or powers of ten, if those are many).

    It ends where the values end, or, where fewer than two ticks lie between, at the nearest others.
    """
    axes.set_yscale("log")
    if not axes.lines:
        axes.set_yticks([])
        return
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    ticks = np.outer(10.0 ** np.arange(-12, 13), (1, 2, 5)).ravel()
    low, high = values.min() / 1.1, values.max() * 1.1
    outside = np.maximum(0, np.maximum(np.log(low / ticks), np.log(ticks / high)))
    shown = max(2, np.count_nonzero(outside == 0))
    ticks = np.sort(ticks[np.argsort(outside, kind="stable")[:shown]])
    if len(ticks) > 9:
        ticks = ticks[np.isclose(np.log10(ticks) % 1, 0)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(min(ticks[0] * 0.98, low), max(ticks[-1] * 1.02, high))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean of the values around each, with a shorter window at the ends."""
    ones = np.ones(2 * window + 1)
    total = np.convolve(np.pad(values, window), ones, "valid")
    return total / np.convolve(np.pad(np.ones_like(values), window), ones, "valid")
