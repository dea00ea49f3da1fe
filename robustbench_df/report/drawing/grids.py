"""Matrices of numbers: heat maps and confusion matrices. The darker a cell, the worse it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from robustbench_df.report.document import Confusion, Heat
from robustbench_df.report.drawing.canvas import FAINT, WIDTH, Canvas, text_width
from robustbench_df.report.drawing.svg import FONT_SIZE
from robustbench_df.report.formatting import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RAMP = ("#f4f1ea", "#f6d9b0", "#ee9f5c", "#c75a1a", "#7a2e0b")
"""Colours from light beige to rust: lightness falls monotonically, so the ramp also works in grey print and for readers
with colour blindness."""

RIGHT, WRONG = "#cfe3f1", "#f6d9b0"
DARK, PALE = "#111111", "#fffaf2"
CHANCE = 0.5
"""Share of right verdicts of a coin flip; below it a detector is just as useless."""

CELL_HEIGHT, SLOPE = 25, math.radians(40)
NARROWEST, WIDEST = 38, 72

CONFUSION_SIZE = (WIDTH, 176.0)
"""(width, height) of a confusion matrix in pixels."""


def heat_size(figure: Heat) -> tuple[float, float]:
    """Return (width, height) in pixels; the width is at least that of other figures."""
    left, top, cell, right = _margins(figure)
    return left + cell * len(figure.columns) + right, top + CELL_HEIGHT * len(figure.rows) + 6


def _margins(figure: Heat) -> tuple[float, float, float, float]:
    """Return left, top, cell width, right, with room for the longest names, which slope if cells are narrow."""
    left = max([text_width(visible(name)) for name in figure.rows] + [20]) + 12
    columns = max(len(figure.columns), 1)
    widest = max([text_width(visible(name)) for name in figure.columns] + [0])
    cell = min(max((WIDTH - left - 8) / columns, NARROWEST), WIDEST)
    sloping = widest > cell - 4
    top = 26 + (widest * math.sin(SLOPE) + 10 if sloping else 18)
    overhang = text_width(visible(figure.columns[-1])) * math.cos(SLOPE) - cell / 2 if sloping else 0
    return left, top, cell, max(8.0, overhang, WIDTH - left - cell * columns)


def draw_heat(figure: Heat, canvas: Canvas) -> None:
    """Draw one cell per value with its figure inside; a cell that was not run is an outline with a text saying so."""
    left, top, cell, right = _margins(figure)
    axes = canvas.axes(left, right, top, 6)
    _frame(axes, len(figure.rows), len(figure.columns))
    names = [visible(name) for name in figure.columns]
    sloping = max([text_width(name) for name in names] + [0]) > cell - 4
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=math.degrees(SLOPE) if sloping else 0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left" if sloping else "center")
        label.set_rotation_mode("anchor")
    axes.set_yticks(np.arange(len(figure.rows)) + 0.5, [visible(name) for name in figure.rows])
    for i, row in enumerate(figure.values):
        for j, value in enumerate(row):
            if value is None or value != value:
                _cell(axes, i, j, None, "not run", 7.5)
            else:
                text = f"{100 * value:.0f}" if figure.percent else _short(value)
                _cell(axes, i, j, _badness(value, figure), text, FONT_SIZE)
    x, y = canvas.share(6, 12)
    unit, darkest = (", %", "; chance is darkest") if figure.percent else ("", "")
    canvas.drawing.text(
        x, y, f"{visible(figure.label)}{unit} (darker is worse{darkest})", fontsize=FONT_SIZE, va="center"
    )


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def _badness(value: float, figure: Heat) -> float:
    """Return 0 (good) to 1 (bad): shares on a fixed scale from perfect to chance, others by the figure's range."""
    if figure.percent:
        return min(1.0, abs(float(figure.better == "higher") - value) / CHANCE)
    finite = [v for row in figure.values for v in row if v is not None and v == v]
    low, high = min(finite), max(finite)
    share = (value - low) / (high - low) if high > low else 0.5
    return 1 - share if figure.better == "higher" else share


def _cell(axes: Axes, row: int, column: int, badness: float | None, text: str, size: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patches import Rectangle

    gap = 0.03
    box = ((column + gap, row + gap), 1 - 2 * gap, 1 - 2 * gap)
    if badness is None:
        axes.add_patch(
            Rectangle(*box, fill=False, edgecolor=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), clip_on=False)
        )
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", fontsize=size)
        return
    fill = to_hex(LinearSegmentedColormap.from_list("paper to rust", RAMP)(badness))
    axes.add_patch(Rectangle(*box, facecolor=fill, linewidth=0, clip_on=False))
    ink = PALE if badness > 0.62 else DARK
    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", fontsize=size, color=ink)


def _frame(axes: Axes, rows: int, columns: int) -> None:
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)


def draw_confusion(figure: Confusion, canvas: Canvas) -> None:
    """Draw the four counts, each with its share of the images of that class."""
    from matplotlib.patches import Rectangle

    axes = canvas.axes(70, 20, 46, 8)
    _frame(axes, 2, 2)
    axes.set_xticks([0.5, 1.5], ["called real", "called fake"])
    axes.set_yticks([0.5, 1.5], ["real", "fake"])
    for i, row in enumerate(figure.counts):
        for j, count in enumerate(row):
            fill = RIGHT if i == j else WRONG
            axes.add_patch(Rectangle((j + 0.01, i + 0.02), 0.98, 0.96, facecolor=fill, linewidth=0))
            axes.text(j + 0.5, i + 0.42, f"{count:,}", ha="center", va="center", fontsize=15, color=DARK)
            share = f"{count / sum(row):.1%} of {'fake' if i else 'real'}" if sum(row) else "no such images"
            axes.text(j + 0.5, i + 0.76, share, ha="center", va="center", fontsize=FONT_SIZE, color=DARK)
    x, y = canvas.share(6, 12)
    canvas.drawing.text(x, y, "images, at the deployed threshold", fontsize=FONT_SIZE, va="center")
