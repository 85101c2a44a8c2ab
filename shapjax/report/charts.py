"""Lays out line charts for the page's templates: points and ticks in the units of an SVG."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator

from shapjax.report.formatting import count

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 428, 10, 222  # of the plot inside


class Line(NamedTuple):
    """A method's curve: its key, its title and its points (x, y)."""

    key: str
    title: str
    points: list[tuple[float, float]]


def fraction_chart(lines: Sequence[Line], *, x_end: float) -> dict:
    """Lays out shares (0 to 1) over the fraction of patches, from 0 to `x_end`.

    Args:
      lines: the later ones are drawn above the earlier ones.
      x_end: the largest fraction.
    """
    ticks = [tick for tick in np.linspace(0, 1, 6) if tick <= x_end + 1e-9]
    return _chart(lines, [(tick, f"{100 * tick:.0f} %") for tick in ticks], (0, x_end), lambda y: f"{100 * y:.4g} %")


def budget_chart(lines: Sequence[Line]) -> dict:
    """Lays out R² over the number of coalitions, on a logarithmic axis; R² below 0 lies at the lower edge."""
    budgets = sorted({x for line in lines for x, _ in line.points})
    lines = [Line(key, title, [(math.log2(x), max(y, 0.0)) for x, y in points]) for key, title, points in lines]
    ends = math.log2(budgets[0]), math.log2(budgets[-1])
    if ends[0] == ends[1]:
        ends = ends[0] - 1, ends[1] + 1
    shown = budgets[:: math.ceil(len(budgets) / 8)]
    return _chart(lines, [(math.log2(x), count(x)) for x in shown], ends, lambda y: f"{y:.3g}")


def _chart(lines: Sequence[Line], x_ticks: Sequence[tuple[float, str]], x_range: tuple[float, float],
           y_text: Callable[[float], str]) -> dict:
    values = [y for line in lines for _, y in line.points]
    low, high = min(values), max(values)
    if high - low < 0.01:
        low, high = max(0.0, low - 0.05), min(1.0, high + 0.05)
    y_ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    y_ticks = [tick for tick in y_ticks if -1e-9 <= tick <= 1 + 1e-9]  # shares and R² end there
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def x_of(x: float) -> float:
        return round(float(np.interp(x, x_range, (LEFT, RIGHT))), 2)

    def y_of(y: float) -> float:
        return round(float(np.interp(y, (low, high), (BOTTOM, TOP))), 2)

    return {
        "size": f"{WIDTH} {HEIGHT}", "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM,
        "low": round(low, 6), "high": round(high, 6), "x_end": x_range[1],
        "x_ticks": [{"at": x_of(x), "text": text} for x, text in x_ticks],
        "y_ticks": [{"at": y_of(y), "text": y_text(y)} for y in y_ticks],
        "lines": [{"key": line.key, "title": line.title, "values": [y for _, y in line.points],
                   "points": " ".join(f"{x_of(x):g},{y_of(y):g}" for x, y in line.points)} for line in lines],
    }
