"""The figures of a report as inline SVG; `drawing` has the code for each kind, `export` writes them as files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from robustbench_df.report.document import Block, Confusion, Curves, Document, Figure, Heat, Histogram, Points
from robustbench_df.report.drawing import grids, lines, points, svg
from robustbench_df.report.drawing.canvas import COLOURS, Canvas, Look, drawing_style, new_drawing
from robustbench_df.report.formatting import slug, visible


def svg_of(figure: Figure, look: Look) -> str:
    """Return one figure as inline SVG; ``look`` as from `look_of`. The same figure gives the same bytes."""
    width, height = size(figure)
    with drawing_style():
        drawing = new_drawing(width, height)
        draw(figure, Canvas(drawing, 0, 0, width, height), look)
        out = io.StringIO()
        drawing.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return svg.slim(out.getvalue(), slug(figure.id), visible(figure.alt))


CHANCE = 0.5


def look_of(document: Document) -> Look:
    """Return the colours and axis limits that all figures of a document share.

    A series name has the same colour in every figure, and, as far as possible, a different one from the other series of
    the figure. If a figure has more series than there are colours, colours repeat and markers distinguish the series.
    Figures of one section with the same axis labels share the lower end of shares: chance, or 0 if any value is below
    chance.
    """
    colours: dict[str, str] = {}
    floors: dict[str, float] = {}
    for section in document.sections:
        for block in section.blocks:
            _colour(_series_names(block), colours)
        curves = [block for block in section.blocks if isinstance(block, Curves)]
        for one in curves:
            alike = [two for two in curves if (two.x_label, two.y_label) == (one.x_label, one.y_label)]
            floors[one.id] = CHANCE if min(lines.lowest(two) for two in alike) >= CHANCE else 0.0
    return Look(colours, floors)


def _colour(names: Sequence[str], chosen: dict[str, str]) -> None:
    """Give each name without a colour one that none of these names has, while there are such colours."""
    taken = {chosen[name] for name in names if name in chosen}
    free = [colour for colour in COLOURS if colour not in taken]
    for name in names:
        if name not in chosen:
            chosen[name] = free.pop(0) if free else COLOURS[len(chosen) % len(COLOURS)]


def _series_names(block: Block) -> list[str]:
    if isinstance(block, Curves):
        return [series.name for series in block.series]
    if isinstance(block, Histogram):
        return list(block.counts)
    return list(block.names) if isinstance(block, Points) else []


def size(figure: Figure) -> tuple[float, float]:
    """Return (width, height) of a figure in pixels."""
    if isinstance(figure, Heat):
        return grids.heat_size(figure)
    if isinstance(figure, Confusion):
        return grids.CONFUSION_SIZE
    if isinstance(figure, Points):
        return points.SIZE
    return lines.lines_size(figure)


def draw(figure: Figure, canvas: Canvas, look: Look) -> None:
    """Draw one figure into a rectangle of the figure's own `size`."""
    if isinstance(figure, Heat):
        grids.draw_heat(figure, canvas)
    elif isinstance(figure, Confusion):
        grids.draw_confusion(figure, canvas)
    elif isinstance(figure, Points):
        points.draw_points(figure, canvas, look)
    elif isinstance(figure, Curves):
        lines.draw_curves(figure, canvas, look)
    else:
        lines.draw_histogram(figure, canvas, look)
