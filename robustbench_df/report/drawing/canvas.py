"""A rectangle to draw in, and what all drawings share: colours, sizes, and settings for reproducible bytes."""

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
"""Colour of grid lines, drawn half transparent: they are visible on white and on black."""

WIDTH, HEIGHT = 340, 236
"""Width of a figure in the grid of the page, and its height without a legend, in pixels."""

LEGEND_LINE = 16
_LETTER = 0.58
"""Mean width of a letter as a share of the font size (DejaVu Sans, which is wider than most)."""


@dataclass(frozen=True)
class Look:
    """Colours and axis limits that the drawings of one document share, so that they can be compared."""

    colours: Mapping[str, str]
    """Colour of every series name."""
    floors: Mapping[str, float]
    """Lower end of the y axis by figure id, for figures that show shares; 0 for ids that are not included."""


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
        """Convert a position in the rectangle to shares of the whole drawing, from its lower left corner."""
        width, height = self.drawing.get_size_inches() * 72
        return (self.left + x) / width, 1 - (self.top + y) / height

    def legend(self, handles: Sequence[Artist], names: Sequence[str]) -> None:
        """Draw a legend along the lower edge, with the number of lines that `legend_lines` returns."""
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
    """Return the approximate width of a text in pixels."""
    return len(text) * size * _LETTER


def legend_lines(names: Sequence[str]) -> int:
    """Return the number of lines of a legend with these names; a single series without a name needs none."""
    return -(-len(names) // _per_line(names)) if any(names) else 0


def _per_line(names: Sequence[str]) -> int:
    widest = max(text_width(name) for name in names) + 31
    return int(max(1, min(len(names), (WIDTH - 8) // widest)))


@contextmanager
def drawing_style() -> Iterator[None]:
    """Set matplotlib so that drawings have reproducible bytes, and names with ``$`` or foreign letters do no harm."""
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
        # This font only serves to measure widths; the reader's own font draws the letters.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


def new_drawing(width: float, height: float) -> Drawing:
    """Return an empty drawing of that many pixels, without a window and outside pyplot's list of open figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure((width / 72, height / 72), dpi=72)
    FigureCanvasAgg(drawing)
    return drawing
