"""Named points with intervals on both axes: a Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from robustbench_df.report.document import Estimate, Points
from robustbench_df.report.drawing.canvas import FAINT, Canvas, Look, text_width
from robustbench_df.report.drawing.lines import MARKERS
from robustbench_df.report.drawing.svg import FONT_SIZE, INK
from robustbench_df.report.formatting import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (640.0, 380.0)
"""(width, height) in pixels."""

Box = tuple[float, float, float, float]

AROUND = ((7, 10, "left"), (-7, 10, "right"), (7, -10, "left"), (-7, -10, "right"),
          (8, 0, "left"), (-8, 0, "right"), (0, 13, "center"), (0, -13, "center"),
          (7, 22, "left"), (-7, 22, "right"), (7, -22, "left"), (-7, -22, "right"))  # fmt: skip
"""Candidate places of a name around its point, the best first: (pixels right, pixels up, alignment)."""


def draw_points(figure: Points, canvas: Canvas, look: Look) -> None:
    """Draw each point with its 95% intervals and name; a line joins the front, whose names are bold."""
    axes = canvas.axes(54, 24, 28, 46)
    axes.grid(visible=True, color=FAINT, alpha=0.28, linewidth=0.8)
    axes.set_axisbelow(True)
    drawn = [
        (i, name, x.value, y.value)
        for i, (name, x, y) in enumerate(zip(figure.names, figure.x, figure.y, strict=True))
        if x.value is not None and y.value is not None
    ]
    front = sorted((x, y) for _, name, x, y in drawn if name in figure.front)
    axes.plot([x for x, _ in front], [y for _, y in front], color=FAINT, linewidth=1.2, linestyle=(0, (5, 3)))
    for i, name, x, y in drawn:
        colour, place = look.colours[name], ([x], [y])
        ends = _ends(figure.x[i]), _ends(figure.y[i])
        axes.errorbar(*place, xerr=ends[0], yerr=ends[1], color=colour, elinewidth=0.9, alpha=0.6, linestyle="none")
        axes.plot(*place, MARKERS[i % len(MARKERS)], color=colour, markersize=8, markeredgewidth=0)
    axes.margins(0.08)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda v, _: f"{100 * v:.3g}%" if figure.percent else f"{v:g}")
    axes.set_xlabel(visible(figure.x_label), fontsize=FONT_SIZE, labelpad=6)
    left, top = canvas.share(6, 12)
    missing = [visible(name) for i, name in enumerate(figure.names) if i not in {index for index, *_ in drawn}]
    absent = f"   (not drawn, undefined: {', '.join(missing)})" if missing else ""
    canvas.drawing.text(left, top, visible(figure.y_label) + absent, fontsize=FONT_SIZE, va="center")
    bars = [bar for i, *_ in drawn for bar in ((figure.x[i], figure.y[i], 0), (figure.y[i], figure.x[i], 1))]
    _write_names(axes, [(visible(name), x, y, name in figure.front) for _, name, x, y in drawn], bars)


def _ends(value: Estimate) -> list[list[float]] | None:
    if value.value is None or value.low is None or value.high is None:
        return None
    return [[max(0.0, value.value - value.low)], [max(0.0, value.high - value.value)]]


def _write_names(
    axes: Axes, points: Sequence[tuple[str, float, float, bool]], bars: Sequence[tuple[Estimate, Estimate, int]]
) -> None:
    """Write each name at the place where it covers the fewest names, points and intervals.

    ``bars`` are the intervals: (value along it, value across, axis).
    """
    axes.autoscale_view()
    frame = axes.get_window_extent()
    places = [axes.transData.transform((x, y)) for _, x, y, _ in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    taken += [_bar(axes, *bar) for bar in bars]
    for (name, x, y, in_front), (px, py) in zip(points, places, strict=True):
        width = text_width(name)
        boxes = [_box(px + dx, py + dy, width, side) for dx, dy, side in AROUND]
        inside: Box = (frame.x0, frame.y0, frame.x1, frame.y1)
        costs = [sum(_shared(box, other) for other in taken) + 3 * _outside(box, inside) for box in boxes]
        best = costs.index(min(costs))
        dx, dy, side = AROUND[best]
        taken.append(boxes[best])
        weight = "bold" if in_front else "normal"
        axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=FONT_SIZE,
                      color=INK, fontweight=weight)  # fmt: skip


def _bar(axes: Axes, along: Estimate, across: Estimate, axis: int) -> Box:
    ends = [along.value if end is None else end for end in (along.low, along.high)]
    corners = [(end, across.value) if axis == 0 else (across.value, end) for end in ends]
    (x0, y0), (x1, y1) = axes.transData.transform(np.array(corners, float))
    return x0 - 1.0, y0 - 1.0, x1 + 1.0, y1 + 1.0


def _box(x: float, y: float, width: float, side: str) -> Box:
    left = x - {"left": 0, "center": width / 2, "right": width}[side]
    return left, y - 5, left + width, y + 5


def _shared(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0


def _outside(box: Box, frame: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, frame)
