"""The figure of an experiment as SVG text, drawn only from its results: the same results give the same bytes.

By default it shows dots with intervals, one panel per metric; ``[figure]`` in the config may name ``columns``, and set
``one_axis`` for a common axis of all shares. If ``[figure]`` names ``x`` and ``y``, it plots one metric against the
other, with the Pareto front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

PANEL, GAP, LINE, HEAD = 240, 36, 22, 40
"""Width of a panel, space between panels, height of a row and height of the head, in pixels."""
WIDE = 6.6
"""Approximate width of a letter of a label, in pixels."""
SIDE = 420
"""Side of the plot of one metric against another, in pixels."""
PER_LINE = 3
"""Panels per line."""

_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600}.a{font-size:10px;fill:#666}"
    ".g{stroke:#ddd}.i{stroke:#4477aa;stroke-width:2;opacity:.55}.f{stroke:#cc6677;fill:none;stroke-dasharray:4 3}"
    ".d{fill:#4477aa}.s{fill:none;stroke:#222}"
)

Row = dict[str, Any]


def draw(results: dict[str, Any]) -> str:
    """Return the figure, or an empty string if there is nothing to draw."""
    rows = [row for row in results["rows"] if row["values"]]
    wanted = results["config"].get("figure", {})
    if {"x", "y"} <= set(wanted):
        return _plane(rows, wanted["x"], wanted["y"])
    columns = wanted.get("columns") or results["config"].get("columns") or list(rows[0]["values"] if rows else ())
    drawn = [c for c in columns if any(_known(row, c) is not None for row in rows)]
    return _panels(rows, drawn, bool(wanted.get("one_axis"))) if drawn else ""


def _known(row: Row, column: str) -> dict[str, float] | None:
    value = row["values"].get(column)
    return value if isinstance(value, dict) and value["value"] is not None else None


@dataclass(frozen=True)
class _Axis:
    """An axis with round tick values that enclose all values and their interval ends."""

    ticks: tuple[float, ...]
    share: bool

    def at(self, value: float) -> float:
        """Return the position of a value on the axis, 0 to 1."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def _axis(values: Sequence[dict[str, float]]) -> _Axis:
    share = any("method" in v for v in values)
    ends = [v[end] for v in values for end in ("value", "low", "high", "seed_low", "seed_high") if end in v]
    low, high = min(ends), max(ends)
    rough = max(high - low, 1e-9) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return _Axis(tuple(k * step for k in range(first, max(last, first + 1) + 1)), share)


def _said(value: float, share: bool) -> str:
    return f"{100 * value:.4g}%" if share else f"{value:.4g}"


def _label(row: Row) -> str:
    return f"{row['cell']} · {row['row']}" if row["row"] else str(row["cell"])


def _panels(rows: Sequence[Row], columns: Sequence[str], one_axis: bool) -> str:
    deep, side = HEAD + LINE * len(rows) + 24, 24 + max(WIDE * len(_label(row)) for row in rows)
    axes = {c: _axis([value for row in rows if (value := _known(row, c))]) for c in columns}
    shares = [v for row in rows for c in columns if axes[c].share and (v := _known(row, c))]
    parts = []
    for k, column in enumerate(columns):
        left, top = side + (k % PER_LINE) * (PANEL + GAP), (k // PER_LINE) * deep
        if k % PER_LINE == 0:
            parts += [_text(side - 12, _y(top, r) + 4, _label(row), "end") for r, row in enumerate(rows)]
        axis = _axis(shares) if one_axis and axes[column].share else axes[column]
        parts += _panel(rows, column, axis, left, top)
    return _svg(side + min(len(columns), PER_LINE) * (PANEL + GAP), -(-len(columns) // PER_LINE) * deep, parts)


def _y(top: float, r: int) -> float:
    return top + HEAD + LINE * (r + 0.5)


def _panel(rows: Sequence[Row], column: str, axis: _Axis, left: float, top: float) -> list[str]:
    foot = top + HEAD + LINE * len(rows)

    def x(value: float) -> float:
        return left + axis.at(value) * PANEL

    parts = [_text(left + PANEL / 2, top + 18, column, "middle", "t")]
    for tick in axis.ticks:
        parts.append(_line("g", x(tick), top + HEAD - 8, x(tick), foot))
        parts.append(_text(x(tick), foot + 14, _said(tick, axis.share), "middle", "a"))
    for r, row in enumerate(rows):
        value, y = _known(row, column), _y(top, r)
        if value is None:
            continue
        if "low" in value:
            parts.append(_line("i", x(value["low"]), y, x(value["high"]), y))
        parts += [_line("s", x(value[e]), y - 5, x(value[e]), y + 5) for e in ("seed_low", "seed_high") if e in value]
        parts.append(f'<circle class="d" cx="{x(value["value"]):.1f}" cy="{y:.1f}" r="4"/>')
    return parts


def _plane(rows: Sequence[Row], across: str, up: str) -> str:
    known = [(row, a, b) for row in rows if (a := _known(row, across)) and (b := _known(row, up))]
    if not known:
        return ""
    right, top = _axis([a for _, a, _ in known]), _axis([b for _, _, b in known])

    def place(a: float, b: float) -> tuple[float, float]:
        return 70 + right.at(a) * SIDE, 24 + SIDE - top.at(b) * SIDE

    parts = [_text(70 + SIDE / 2, SIDE + 62, across, "middle", "t"), _text(70, 14, up, "start", "t")]
    for tick in right.ticks:
        x, y = place(tick, top.ticks[0])
        parts += [_line("g", x, y - SIDE, x, y), _text(x, y + 16, _said(tick, right.share), "middle", "a")]
    for tick in top.ticks:
        x, y = place(right.ticks[0], tick)
        parts += [_line("g", x, y, x + SIDE, y), _text(x - 6, y + 4, _said(tick, top.share), "end", "a")]
    front = " ".join(
        "{:.1f},{:.1f}".format(*place(*p)) for p in pareto([(a["value"], b["value"]) for _, a, b in known])
    )
    parts.append(f'<polyline class="f" points="{front}"/>')
    for row, a, b in known:
        x, y = place(a["value"], b["value"])
        if "low" in a:
            parts.append(_line("i", place(a["low"], 0)[0], y, place(a["high"], 0)[0], y))
        if "low" in b:
            parts.append(_line("i", x, place(0, b["low"])[1], x, place(0, b["high"])[1]))
        parts.append(f'<circle class="d" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(_text(x + 7, y - 6, _label(row), "start", "a"))
    return _svg(70 + SIDE + 180, SIDE + 74, parts)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point equals or beats in both coordinates, from left to right."""
    front = [p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)]
    return sorted(set(front))


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">'
    body = "\n".join(parts)
    return f'{head}\n<style>{_STYLE}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
