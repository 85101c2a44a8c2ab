"""Pictures of votes, agreement and training, as matplotlib figures.

Every function returns a `Figure` that no global state knows of (no pyplot); `figure_bytes` turns it into a
file. Colors: red votes for a class and blue against it, zero is white. Teal is the model and amber the run
it is compared with, so runs are never mistaken for votes; both pairs stay apart for color-blind readers.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator, PercentFormatter

from shapjax.metrics.shapley_error import shapley_error
from shapjax.report.formatting import probability_text, signed
from shapjax.report.heatmap import (
    COLORS,
    MAX_LABELED_PATCHES,
    color_limit,
    number_colors,
    overlay,
    rgb,
    value_text,
)


class Theme(NamedTuple):
    """Colors of what is not data, and of the runs (the first is the model)."""

    paper: str
    ink: str
    muted: str
    rule: str
    runs: tuple[str, str]


LIGHT = Theme("#ffffff", "#1c2430", "#5d6878", "#dfe4ea", ("#00736b", "#c4770e"))
DARK = Theme("#171c23", "#e8ecf1", "#9aa6b5", "#333c48", ("#3fc1b0", "#eba54a"))

# A generic family, resolved when a figure is drawn: an SVG names the whole list, the browser picks.
_FONTS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Segoe UI", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "shapjax",  # ids of clip paths are random without it
}
_MARGIN = 0.08  # inches
_TITLE = {"loc": "left", "fontweight": "bold", "pad": 9, "parse_math": False}  # "$" in a name is no formula


def explanation_figure(
    image: np.ndarray,
    shapley: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    *,
    top: int = 3,
    label: str | int | None = None,
    title: str = "",
    theme: Theme = LIGHT,
) -> Figure:
    """The input and, for each of the `top` most probable classes, every patch's vote.

    All classes shown share one color scale, symmetric around zero. Each is headed by its name, its
    probability and the sum of its votes, which is its logit.

    Args:
      image: uint8 [H, W, C], C = 1 or 3.
      shapley: float [gh, gw, K], logits.
      probabilities: float [K].
      class_names: K names.
      top: how many classes.
      label: the true class, an index or a name, if known.
      title: above it all.
      theme: LIGHT or DARK.

    Raises:
      ValueError: if arrays do not fit together or votes are not finite.
    """
    classes = len(class_names)
    if shapley.ndim != 3 or shapley.shape[-1] != classes or np.shape(probabilities) != (classes,):
        raise ValueError(
            f"shapley {shapley.shape} and probabilities {np.shape(probabilities)} must be [grid_h, grid_w, K]"
            f" and [K] with K = {classes}, the number of class names"
        )
    if not np.isfinite(shapley).all():
        raise ValueError("shapley has values that are not finite: the training run probably diverged")
    # Stable: of equally probable classes the first one comes first.
    shown = np.argsort(-np.asarray(probabilities), kind="stable")[: max(1, top)]
    limit = color_limit(shapley[..., shown])
    columns = min(len(shown) + 1, 4)
    rows = math.ceil((len(shown) + 1) / columns)

    with matplotlib.rc_context(_FONTS):
        figure = _new_figure(2.2 * columns + 0.75, 2.62 * rows + (0.4 if title else 0.0), theme)
        if title:
            figure.suptitle(
                f"{title}\n",  # the empty line is the distance to the panels
                x=_MARGIN / figure.get_figwidth(), ha="left", color=theme.ink, fontsize=12, fontweight="bold",
                linespacing=0.6, parse_math=False)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        panels[0].imshow(rgb(image))
        name = class_names[label] if isinstance(label, int | np.integer) else label
        _heading(panels[0], "Input", f"label {_shorten(str(name))}" if name is not None else " ", theme)
        for axes, index in zip(panels[1:], shown, strict=False):
            votes = shapley[..., index]
            _draw_votes(axes, image, votes, limit)
            total = signed(float(np.sum(votes, dtype=np.float64)))
            below = f"{probability_text(float(probabilities[index]))}  ·  sum {total}"
            _heading(axes, _shorten(class_names[index]), below, theme)
        bar = figure.colorbar(
            ScalarMappable(Normalize(-limit, limit), COLORS), ax=list(panels), aspect=26, fraction=0.05, pad=0.02,
            shrink=0.86)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor=theme.muted)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True))
        bar.set_label("vote of a patch (logits)", color=theme.muted, fontsize=8.5)
    return figure


def agreement_figure(
    predicted: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    *,
    titles: Sequence[str],
    truth: str = "exact",
    stacked: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """Predicted against true Shapley values, one panel a run, all panels on the same axes.

    The R² in a panel is the mean over images (`metrics.shapley_error`).

    Args:
      predicted: for each run (one or two) float [n, ..., K]: n images, their patches, K classes; logits.
      true: the same for the true values.
      titles: a name for each run.
      truth: what the true values are, for the axis: "exact" or "estimated".
      stacked: panels below each other, for narrow screens.
      theme: LIGHT or DARK.
    """
    limit = 1.05 * max(color_limit(values) for values in (*predicted, *true))
    with matplotlib.rc_context(_FONTS):
        rows, columns = (len(titles), 1) if stacked else (1, len(titles))
        figure = _new_figure(4.1 * columns + 0.3, 4.35 * rows, theme)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for run, axes in enumerate(panels):
            _style(axes, theme)
            axes.axhline(0, color=theme.rule, linewidth=0.8, zorder=0)
            axes.axvline(0, color=theme.rule, linewidth=0.8, zorder=0)
            ends = (-limit, limit)
            axes.plot(ends, ends, color=theme.muted, linewidth=0.9, linestyle=(0, (4, 3)))
            points = axes.scatter(true[run].ravel(), predicted[run].ravel(), s=9, color=theme.runs[run], linewidths=0)
            points.set_alpha(float(np.clip(15 / math.sqrt(true[run].size), 0.04, 0.6)))
            points.set_rasterized(True)  # thousands of vector points would make the page slow
            axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=True))
            axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
            axes.set_title(titles[run], **_TITLE, color=theme.ink, fontsize=10.5)
            r2 = shapley_error(predicted[run], true[run])["r2"]
            axes.text(
                0.04, 0.955, "R² undefined" if r2 is None else f"R² = {signed(r2, plus='')}", transform=axes.transAxes,
                va="top", color=theme.runs[run], fontsize=13, fontweight="bold")
            axes.set_xlabel(f"{truth} Shapley value (logits)", color=theme.muted, fontsize=9)
            if stacked or run == 0:
                axes.set_ylabel("predicted vote (logits)", color=theme.muted, fontsize=9)
            else:
                axes.tick_params(labelleft=False)
        panels[0].annotate(
            "equal", (0.93 * limit, 0.93 * limit), (-2, 3), textcoords="offset points", rotation=45,
            rotation_mode="anchor", ha="right", va="bottom", color=theme.muted, fontsize=8)
    return figure


def curves_figure(runs: Sequence[tuple[str, Sequence[Mapping]]], *, stacked: bool = False, theme: Theme = LIGHT
                  ) -> Figure:
    """How training went: the three losses (log scale) and the accuracy on the test split, by step.

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
    with matplotlib.rc_context(_FONTS):
        rows, columns = (4, 1) if stacked else (2, 2)
        figure = _new_figure(4.35 * columns, 2.65 * rows + 0.3, theme)
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
            line = {"color": theme.runs[run], "linewidth": 1.7, "marker": "o", "markersize": 3}
            accuracy.plot(steps, values, label=name, **line)
        _finish_curve(accuracy, "Test accuracy", theme)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        figure.legend(
            *accuracy.get_legend_handles_labels(), loc="outside upper left", ncols=len(runs), frameon=False,
            labelcolor=theme.ink, fontsize=9.5, borderaxespad=0.2, handlelength=1.6)
        for axes in panels[-columns:]:
            axes.set_xlabel("step", color=theme.muted, fontsize=9)
    return figure


def series(records: Sequence[Mapping], split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of `key` in one split's records, in order of the steps.

    Of two records of a step the later counts. Returns int64 [s] and float64 [s].
    """
    rows = (record for record in records if record.get("split") == split and record.get(key) is not None)
    by_step = {row["step"]: float(row[key]) for row in rows}
    steps = np.array(sorted(by_step), dtype=np.int64)
    values = np.array([by_step[step] for step in steps], dtype=np.float64)
    return steps[np.isfinite(values)], values[np.isfinite(values)]


def figure_bytes(figure: Figure, *, format: str = "png", dpi: int = 160, transparent: bool = False) -> bytes:
    """The file of a figure, "png" or "svg" (text stays text): no date in it, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    with matplotlib.rc_context(_FONTS):
        figure.savefig(buffer, format=format, dpi=dpi, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def _draw_votes(axes: Axes, image: np.ndarray, votes: np.ndarray, limit: float) -> None:
    height, width = image.shape[:2]
    grid_h, grid_w = votes.shape
    axes.imshow(overlay(image, votes, limit), interpolation="nearest")
    lines = {"color": "#1c2430", "alpha": 0.22, "linewidth": 0.5}
    axes.hlines(np.arange(1, grid_h) * height / grid_h - 0.5, -0.5, width - 0.5, **lines)
    axes.vlines(np.arange(1, grid_w) * width / grid_w - 0.5, -0.5, height - 0.5, **lines)
    if votes.size > MAX_LABELED_PATCHES:
        return
    for (row, column), vote in np.ndenumerate(votes):
        color, halo = number_colors(float(vote) / limit)
        axes.text(
            (column + 0.5) * width / grid_w - 0.5, (row + 0.5) * height / grid_h - 0.5,
            value_text(float(vote), limit), ha="center", va="center", fontsize=7.5, color=color,
            path_effects=[withStroke(linewidth=2, foreground=halo)])


def _new_figure(width: float, height: float, theme: Theme) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=_MARGIN, h_pad=_MARGIN, wspace=0.03, hspace=0.06)
    return figure


def _style(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.rule)
    axes.tick_params(which="both", length=0, labelsize=8.5, labelcolor=theme.muted)


def _heading(axes: Axes, above: str, below: str, theme: Theme) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axes.annotate(above, (0, 1), (0, 20), color=theme.ink, fontsize=10.5, fontweight="bold", **place)
    axes.annotate(below, (0, 1), (0, 6), color=theme.muted, fontsize=8.5, **place)


def _finish_curve(axes: Axes, title: str, theme: Theme) -> None:
    _style(axes, theme)
    axes.set_title(title, **_TITLE, color=theme.ink, fontsize=10)
    axes.grid(axis="y", color=theme.rule, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not any(len(line.get_xdata()) for line in axes.lines):
        middle = {"transform": axes.transAxes, "ha": "center", "va": "center"}
        axes.text(0.5, 0.5, "not recorded", color=theme.muted, fontsize=9, **middle)


def _use_log_scale(axes: Axes) -> None:
    """A logarithmic y axis with ticks at 1, 2 and 5 (or powers of ten, if those are many), at least two of them.

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
    """Mean of the values around each, with a shorter window at the ends."""
    ones = np.ones(2 * window + 1)
    total = np.convolve(np.pad(values, window), ones, "valid")
    return total / np.convolve(np.pad(np.ones_like(values), window), ones, "valid")


def _shorten(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1].rstrip(" ,") + "…"
