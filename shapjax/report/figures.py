"""Draws the explanation of one image as a matplotlib figure.

Every function returns a `Figure` that no global state knows of (no pyplot); `figure_bytes` turns it into a file. Red
patches speak for a class and blue ones against it; zero is white. Teal is the model and amber the run that it is
compared with, so that runs are never mistaken for values. Both pairs stay apart for color-blind readers.
"""

import io
import math
import unicodedata
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from shapjax.report import fonts
from shapjax.report.formatting import probability_text, signed
from shapjax.report.heatmap import COLORS, MAX_LABELED_PATCHES, color_limit, number_colors, overlay, rgb, value_text

# A generic family, resolved when a figure is drawn: an SVG names the whole list, the browser picks.
FONTS = {
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Segoe UI", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "shapjax",  # ids of clip paths are random without it
}
_MARGIN = 0.08  # inches


class Theme(NamedTuple):
    """Holds the colors of text and lines, and of the runs (the first is the model)."""

    paper: str
    ink: str
    muted: str
    rule: str
    runs: tuple[str, str]

    def style(self) -> dict:
        """Returns matplotlib's parameters for figures of this theme, for `matplotlib.rc_context`."""
        return FONTS | {
            "text.color": self.ink, "text.parse_math": False,  # "$" in a name is no formula
            "figure.facecolor": self.paper, "figure.constrained_layout.use": True,
            "figure.constrained_layout.w_pad": _MARGIN, "figure.constrained_layout.h_pad": _MARGIN,
            "figure.constrained_layout.wspace": 0.03, "figure.constrained_layout.hspace": 0.06,
            "figure.titlesize": 12, "figure.titleweight": "bold",
            "axes.facecolor": "none", "axes.edgecolor": self.rule, "axes.spines.top": False, "axes.spines.right": False,
            "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 9, "axes.titlesize": 10.5,
            "axes.labelcolor": self.muted, "axes.labelsize": 9, "grid.color": self.rule, "grid.linewidth": 0.6,
            "xtick.labelcolor": self.muted, "xtick.labelsize": 8.5, "xtick.major.size": 0, "xtick.minor.size": 0,
            "ytick.labelcolor": self.muted, "ytick.labelsize": 8.5, "ytick.major.size": 0, "ytick.minor.size": 0,
        }


LIGHT = Theme("#ffffff", "#1c2430", "#5d6878", "#dfe4ea", ("#00736b", "#c4770e"))
DARK = Theme("#171c23", "#e8ecf1", "#9aa6b5", "#333c48", ("#3fc1b0", "#eba54a"))


def explanation_figure(image: np.ndarray, shapley: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], *,
                       top: int = 3, half_width: np.ndarray | None = None, label: str | int | None = None,
                       title: str = "", smooth: bool = False, theme: Theme = LIGHT) -> Figure:
    """Draws the image and, for each of the `top` most probable classes, the Shapley value of every patch.

    All classes shown share one color scale, symmetric around zero. Each is headed by its name, its probability and the
    sum of its values, which is its logit.

    Args:
      image: uint8 [H, W, C], C = 1 or 3.
      shapley: float [gh, gw, K], logits.
      probabilities: float [K].
      class_names: K names.
      top: how many classes.
      half_width: float [gh, gw, K], half of the values' 95 % intervals, if they are known. Patches whose interval holds
        0 are hatched, unless `smooth`.
      label: the true class, an index or a name, if known.
      title: above it all.
      smooth: blend the colors of patches (`heatmap.overlay`), without lines between them and without numbers.
      theme: LIGHT or DARK.

    Raises:
      ValueError: if arrays do not fit together or values are not finite.
    """
    classes = len(class_names)
    if shapley.ndim != 3 or shapley.shape[-1] != classes or np.shape(probabilities) != (classes,):
        raise ValueError(f"shapley {shapley.shape} and probabilities {np.shape(probabilities)} must be [grid_h, "
                         f"grid_w, K] and [K] with K = {classes}, the number of class names")
    if not np.isfinite(shapley).all():
        raise ValueError("shapley has values that are not finite: the training run probably diverged")
    # Stable: of equally probable classes the first one comes first.
    shown = np.argsort(-np.asarray(probabilities), kind="stable")[: max(1, top)]
    limit = color_limit(shapley[..., shown])
    columns = min(len(shown) + 1, 4)
    rows = math.ceil((len(shown) + 1) / columns)

    with matplotlib.rc_context(theme.style()):
        figure = Figure((2.2 * columns + 0.75, 2.62 * rows + (0.4 if title else 0.0)))
        if title:  # the empty line is the distance to the panels
            figure.suptitle(f"{title}\n", x=_MARGIN / figure.get_figwidth(), ha="left", linespacing=0.6)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        panels[0].imshow(rgb(image))
        name = class_names[label] if isinstance(label, int | np.integer) else label
        _heading(panels[0], "Input", f"label {_shorten(str(name))}" if name is not None else " ", theme)
        for axes, index in zip(panels[1:], shown, strict=False):
            values = shapley[..., index]
            _draw_values(axes, image, values, None if half_width is None else half_width[..., index], limit, smooth)
            total = signed(float(np.sum(values, dtype=np.float64)))
            below = f"{probability_text(float(probabilities[index]))}  ·  sum {total}"
            _heading(axes, _shorten(class_names[index]), below, theme)
        bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), COLORS), ax=list(panels), aspect=26,
                              fraction=0.05, pad=0.02, shrink=0.86)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8)
        bar.ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True))
        errors = "" if half_width is None or smooth else "\n± 95 %; hatched: sign not certain"
        bar.set_label(f"Shapley value of a patch (logits){errors}", fontsize=8.5)
    return figure


def figure_bytes(figure: Figure, *, format: str = "png", dpi: int = 160, transparent: bool = False) -> bytes:
    """Returns the file of a figure, "png" or "svg" (text stays text); the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else {"Software": None}
    families = FONTS["font.sans-serif"]
    if format != "svg":  # whose fonts the browser picks
        families = fonts.with_glyphs(families, [text.get_text() for text in figure.findobj(Text)])
    with matplotlib.rc_context(FONTS | {"font.sans-serif": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said by `with_glyphs`
        figure.savefig(buffer, format=format, dpi=dpi, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def _draw_values(axes: Axes, image: np.ndarray, values: np.ndarray, half_width: np.ndarray | None, limit: float,
                 smooth: bool) -> None:
    height, width = image.shape[:2]
    grid_h, grid_w = values.shape
    axes.imshow(overlay(image, values, limit, smooth=smooth), interpolation="nearest")
    if smooth:
        return
    lines = {"color": "#1c2430", "alpha": 0.22, "linewidth": 0.5}
    axes.hlines(np.arange(1, grid_h) * height / grid_h - 0.5, -0.5, width - 0.5, **lines)
    axes.vlines(np.arange(1, grid_w) * width / grid_w - 0.5, -0.5, height - 0.5, **lines)
    if half_width is not None:
        size = width / grid_w, height / grid_h
        for row, column in np.argwhere(np.abs(values) <= half_width):
            axes.add_patch(Rectangle((column * size[0] - 0.5, row * size[1] - 0.5), *size, fill=False, linewidth=0,
                                     hatch="////", edgecolor="#1c2430", alpha=0.28))
    if values.size > MAX_LABELED_PATCHES:
        return
    for (row, column), value in np.ndenumerate(values):
        color, halo = number_colors(float(value) / limit)
        text = value_text(float(value), limit)
        if half_width is not None:
            text += f"\n±{value_text(float(half_width[row, column]), limit).lstrip('+')}"
        axes.text(
            (column + 0.5) * width / grid_w - 0.5, (row + 0.5) * height / grid_h - 0.5, text, ha="center", va="center",
            fontsize=7.5 if half_width is None else 6.5, linespacing=1.05, color=color,
            path_effects=[withStroke(linewidth=2, foreground=halo)])


def _heading(axes: Axes, above: str, below: str, theme: Theme) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(above, (0, 1), (0, 20), fontsize=10.5, fontweight="bold", **place)
    axes.annotate(below, (0, 1), (0, 6), color=theme.muted, fontsize=8.5, **place)


def _shorten(name: str, length: int = 22) -> str:
    """Cuts a name to a width in letters; those of East Asian scripts are as wide as two."""
    ends = np.cumsum([1 + (unicodedata.east_asian_width(letter) in "WF") for letter in name])
    if not name or ends[-1] <= length:
        return name
    return name[: np.searchsorted(ends, length - 1, side="right")].rstrip(" ,") + "…"
