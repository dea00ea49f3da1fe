"""A rectangle to draw in, and what all drawings share: colours, sizes, and settings that make them the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_df.report.drawing.svg import FONT_SIZE, INK

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
"""Okabe and Ito, "Color Universal Design" (2008), without yellow, which is too faint on white."""

FAINT = "#808080"
"""Grid lines, half transparent: they show on white and on black alike."""

WIDTH, HEIGHT = 340, 236
"""Pixels of a figure in the grid of the page, and its height without a legend."""

LEGEND_LINE = 16
_LETTER = 0.58
"""Mean width of a letter as a share of its size (DejaVu Sans, which is wider than most)."""


@dataclass(frozen=True)
class Look:
    """What the drawings of one document share, so that they can be compared."""

    colours: Mapping[str, str]
    """Colour of every name of a series."""
    floors: Mapping[str, float]
    """Lower end of the y axis by id of a figure that shows shares of 1; 0 where there is none."""


@dataclass(frozen=True)
class Canvas:
    """A rectangle of a drawing, in pixels (72 to the inch) from the drawing's upper left corner."""

    drawing: Drawing
    left: float
    top: float
    width: float
    height: float

    def axes(self, left: float, right: float, top: float, bottom: float) -> Axes:
        """Return axes with these margins inside the rectangle, without frame and ticks."""
        x, low = self.share(left, self.height - bottom)
        end, high = self.share(self.width - right, top)
        axes = self.drawing.add_axes((x, low, end - x, high - low))
        axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=INK, pad=4)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_facecolor("none")
        return axes

    def share(self, x: float, y: float) -> tuple[float, float]:
        """Return a place in the rectangle as shares of the whole drawing, from its lower left corner."""
        width, height = self.drawing.get_size_inches() * 72
        return (self.left + x) / width, 1 - (self.top + y) / height

    def legend(self, handles: Sequence[Artist], names: Sequence[str]) -> None:
        """Write a legend along the lower edge, in as many lines as `legend_lines` says."""
        lines = legend_lines(names)
        if lines:
            self.drawing.legend(
                handles,
                names,
                loc="upper left",
                bbox_to_anchor=self.share(4, self.height - lines * LEGEND_LINE - 2),
                ncols=_per_line(names),
                frameon=False,
                fontsize=FONT_SIZE,
                borderpad=0,
                borderaxespad=0,
                handlelength=1.8,
                handletextpad=0.5,
                columnspacing=1.4,
                labelspacing=0.35,
            )


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Return about how many pixels a text takes."""
    return len(text) * size * _LETTER


def legend_lines(names: Sequence[str]) -> int:
    """Return how many lines a legend of these names takes; one series without a name needs none."""
    return -(-len(names) // _per_line(names)) if any(names) else 0


def _per_line(names: Sequence[str]) -> int:
    widest = max(text_width(name) for name in names) + 31
    return int(max(1, min(len(names), (WIDTH - 8) // widest)))


@contextmanager
def drawing_style() -> Iterator[None]:
    """Set what makes a drawing the same bytes each time, and names with ``$`` or foreign letters harmless."""
    import matplotlib

    settings: dict[Any, Any] = {
        "svg.hashsalt": "robustbench_df",
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": FONT_SIZE,
        "text.color": INK,
        "axes.labelcolor": INK,
        "hatch.linewidth": 0.6,
        "path.simplify_threshold": 0.2,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Only widths are measured with this font; the reader's own draws the letter.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


def new_drawing(width: float, height: float) -> Drawing:
    """Return an empty drawing of that many pixels, bound to no window and to no list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure((width / 72, height / 72), dpi=72)
    FigureCanvasAgg(drawing)
    return drawing
