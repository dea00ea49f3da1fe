"""Curves with bands, and histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.report.document import Curves, Histogram, Series
from robustbench_df.report.drawing.canvas import (
    FAINT,
    HEIGHT,
    LEGEND_LINE,
    WIDTH,
    Canvas,
    Look,
    legend_lines,
    text_width,
)
from robustbench_df.report.drawing.svg import FONT_SIZE, INK
from robustbench_df.report.formatting import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^DvPX"
FEW = 12
"""A line with at most this many points shows measurements at chosen places and gets markers; others are curves."""

LEFT, RIGHT = 46, 14
"""Margins left and right of a plot in pixels."""


def lines_size(figure: Curves | Histogram) -> tuple[float, float]:
    """Return (width, height) in pixels: a plot of the same size for all figures, plus the legend below it."""
    return WIDTH, HEIGHT + LEGEND_LINE * legend_lines(_names(figure))


def _names(figure: Curves | Histogram) -> list[str]:
    """Return the names in the legend: none if the title already says them."""
    names = list(figure.counts) if isinstance(figure, Histogram) else [series.name for series in figure.series]
    return [] if len(names) == 1 and names[0] in figure.title else [visible(name) for name in names]


def draw_curves(figure: Curves, canvas: Canvas, look: Look) -> None:
    """Draw lines with their bands; None becomes a gap."""
    axes = _plot_axes(canvas, figure.x_label, figure.y_label, legend_lines(_names(figure)))
    if figure.x_scale == "log":
        axes.set_xscale("log")
    if figure.diagonal:
        ends = _finite([value for series in figure.series for value in series.x], figure.x_scale == "log")
        reach = np.geomspace(ends.min(), 1, 60) if figure.x_scale == "log" and len(ends) else np.array([0.0, 1.0])
        axes.plot(reach, reach, color=FAINT, linewidth=1, dashes=(3, 3))
    handles = [_line(axes, series, look.colours[series.name], i, figure) for i, series in enumerate(figure.series)]
    _x_axis(axes, figure)
    _y_axis(axes, figure, look.floors.get(figure.id, 0.0))
    canvas.legend(handles, _names(figure))


def _line(axes: Axes, series: Series, colour: str, index: int, figure: Curves) -> Any:
    x, y = np.asarray(series.x, float), _numbers(series.y)
    if figure.x_scale == "log":
        y = np.where(x > 0, y, np.nan)
    few = all(len(one.x) <= FEW for one in figure.series)
    known = np.isfinite(np.concatenate([[np.nan], y, [np.nan]]))
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])  # points without a line to a neighbour
    (line,) = axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.6,
        linestyle=(0, (4, 2)) if series.dashed else "-",
        marker=MARKERS[index % len(MARKERS)] if few or len(alone) else "",
        markevery=None if few else alone.tolist(),
        markersize=4.5,
        markeredgewidth=0,
        clip_on=not (few and figure.percent),  # so that markers at 0 and 100% are not cut in half
    )
    if len(series.low) and len(series.high):
        low, high = _numbers(series.low), _numbers(series.high)
        if np.isfinite(y).sum() == 1:  # a band around one point would have no width
            axes.vlines(x, low, high, color=colour, linewidth=1)
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    return line


def _x_axis(axes: Axes, figure: Curves) -> None:
    log = figure.x_scale == "log"
    x = np.unique(_finite([value for series in figure.series for value in series.x], log))
    axes.set_xlabel(visible(figure.x_label), fontsize=FONT_SIZE, labelpad=4)
    if log:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    elif 1 < len(x) <= FEW and np.diff(x).min() > 0.07 * np.ptp(x):
        axes.set_xticks(x, [f"{value:g}" for value in x])
    else:
        whole = len(x) > 2 and bool((x == np.round(x)).all())  # such as epochs, of which there are no fractions
        axes.locator_params(axis="x", nbins=6, integer=whole)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(x) > 1:
        room = 0.03 * np.ptp(x) if len(x) <= FEW and not log else 0
        axes.set_xlim(x[0] - room, x[-1] + room)


def lowest(figure: Curves) -> float:
    """Return the smallest value drawn, including bands; infinity if there is none."""
    return min((v for series in figure.series for part in (series.y, series.low) for v in part if v is not None),
               default=float("inf"))  # fmt: skip


def _y_axis(axes: Axes, figure: Curves, floor: float) -> None:
    """Set the y axis: shares from the floor to 1, others from 0 if no value is below, so that no part is magnified."""
    if not figure.percent:
        if lowest(figure) >= 0:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        return
    axes.set_ylim(floor, 1)
    axes.set_yticks(np.linspace(floor, 1, 6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def draw_histogram(figure: Histogram, canvas: Canvas, look: Look) -> None:
    """Draw counts as outlined steps over one another, and the threshold as a dashed line."""
    axes = _plot_axes(canvas, figure.x_label, "images", legend_lines(_names(figure)))
    edges = np.asarray(figure.edges, float)
    handles = []
    for i, (name, counts) in enumerate(figure.counts.items()):
        colour = look.colours[name]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
        line = axes.stairs(counts, edges, color=colour, linewidth=1.5, linestyle="-" if i == 0 else (0, (5, 1.5)))
        handles.append(line)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(visible(figure.x_label), fontsize=FONT_SIZE, labelpad=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if float(value).is_integer() else "")
    if figure.marker is not None:
        axes.axvline(figure.marker, color=INK, linewidth=1, dashes=(3, 2))
        text = f"threshold {figure.marker:.3g}"
        # Beside the axis label above the plot, where there are no bars.
        place = LEFT + (canvas.width - LEFT - RIGHT) * (figure.marker - edges[0]) / (edges[-1] - edges[0])
        half = text_width(text) / 2
        x, y = canvas.share(min(max(place, text_width("images") + half + 16), canvas.width - half - 4), 12)
        canvas.drawing.text(x, y, text, fontsize=FONT_SIZE, va="center", ha="center")
    canvas.legend(handles, _names(figure))


def _plot_axes(canvas: Canvas, x_label: str, y_label: str, lines: int) -> Axes:
    """Return axes with horizontal grid lines, the y label lying above them, and room for the legend."""
    axes = canvas.axes(LEFT, RIGHT, 26, 38 + (6 if x_label else 0) + LEGEND_LINE * lines)
    axes.yaxis.grid(visible=True, color=FAINT, alpha=0.28, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", pad=6)
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(FAINT)
    axes.spines["bottom"].set_linewidth(0.8)
    x, y = canvas.share(6, 12)
    canvas.drawing.text(x, y, visible(y_label), fontsize=FONT_SIZE, va="center", ha="left")
    return axes


def _numbers(values: Any) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], float)


def _finite(values: Any, positive: bool = False) -> NDArray[np.float64]:
    found = _numbers(values)
    keep = np.isfinite(found) & (found > 0) if positive else np.isfinite(found)
    return found[keep]
