"""Figures as files: each composed figure of a document as PNG and SVG, under the names known from the recipe."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_df.errors import UsageError
from robustbench_df.report.document import Block, Document, Figure, Gallery, Picture
from robustbench_df.report.drawing.canvas import GREEN, VERMILLION, Canvas, Look, drawing_style, new_drawing, text_width
from robustbench_df.report.drawing.svg import FONT_SIZE
from robustbench_df.report.figures import draw, look_of, size
from robustbench_df.report.formatting import slug, visible
from robustbench_df.rundir import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TITLE, GAP = 30, 24
"""Height of a block's title, and the gap between blocks, in pixels."""

ACROSS = 3
"""Most blocks side by side; further blocks go into the next row, and four blocks make two rows of two."""

DPI, CAPTION_SIZE, HEAD_SIZE = 200, 7.5, 8.5

THUMBNAIL, CAPTION, LABEL, HEAD = 84, 30, 110, 32
"""Sizes in a gallery in pixels: a picture's side, the caption's height below it, the width of a row's label, and the
height of the labels above the columns."""


def draw_exports(document: Document, directory: Path) -> list[Path]:
    """Write every figure that the document names in ``exports`` to ``directory`` and return the files."""
    return [
        path
        for name, blocks in document.exports.items()
        if blocks
        for path in draw_export(document, name, blocks, directory)
    ]


def draw_export(document: Document, name: str, blocks: Sequence[str], directory: Path) -> list[Path]:
    """Draw blocks side by side into ``<name>.png`` and ``<name>.svg``; the same document gives the same bytes.

    Raises:
        UsageError: the directory is a file.
        ValueError: an id is not in the document, or its block is neither a figure nor a gallery.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--figures '{directory}' is a file; name a folder")
    shown = [block for section in document.sections for block in section.blocks]
    known = {block.id: block for block in (*shown, *document.exhibits)}
    missing = [id for id in blocks if not isinstance(known.get(id), Figure | Gallery)]
    if missing:
        raise ValueError(f"figure '{name}' asks for {', '.join(missing)}, which cannot be drawn")
    with drawing_style():
        drawing = _compose([known[id] for id in blocks], document)
        return [_save(drawing, directory / f"{slug(name)}.{kind}", settings) for kind, settings in _KINDS.items()]


_KINDS: dict[str, dict[str, Any]] = {
    "png": {"dpi": DPI, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}


def _save(drawing: Drawing, path: Path, settings: dict[str, Any]) -> Path:
    out = io.BytesIO()
    drawing.savefig(out, format=path.suffix[1:], facecolor="white", **settings)
    write_atomic(path, lambda temporary: temporary.write_bytes(out.getvalue()))
    return path


def _compose(blocks: Sequence[Block], document: Document) -> Drawing:
    """Lay the blocks out in rows and draw them."""
    look = look_of(document)
    across = 2 if len(blocks) == 4 else ACROSS
    rows = [blocks[i : i + across] for i in range(0, len(blocks), across)]
    sizes = [[_size(block) for block in row] for row in rows]
    width = max(sum(w for w, _ in row) + GAP * (len(row) + 1) for row in sizes)
    heights = [max(h for _, h in row) + TITLE + GAP for row in sizes]
    drawing = new_drawing(width, sum(heights) + GAP)
    top = float(GAP)
    for row, row_sizes, height in zip(rows, sizes, heights, strict=True):
        left = float(GAP)
        for block, (w, h) in zip(row, row_sizes, strict=True):
            _titled(block, Canvas(drawing, left, top, w, h + TITLE), document, look)
            left += w + GAP
        top += height
    return drawing


def _size(block: Block) -> tuple[float, float]:
    if isinstance(block, Gallery):
        columns = max((len(pictures) for _, pictures in block.rows), default=0)
        return LABEL + columns * (THUMBNAIL + 8), _head(block) + len(block.rows) * (THUMBNAIL + CAPTION)
    assert isinstance(block, Figure)
    return size(block)


def _head(gallery: Gallery) -> float:
    return HEAD if gallery.head else 0


def _titled(block: Block, canvas: Canvas, document: Document, look: Look) -> None:
    x, y = canvas.share(6, TITLE / 2 - 4)
    assert isinstance(block, Figure | Gallery)
    canvas.drawing.text(x, y, visible(block.title), fontsize=11, fontweight="bold", va="center")
    below = Canvas(canvas.drawing, canvas.left, canvas.top + TITLE, canvas.width, canvas.height - TITLE)
    if isinstance(block, Gallery):
        _gallery(block, below, document.pictures)
    else:
        draw(block, below, look)


def _gallery(gallery: Gallery, canvas: Canvas, pictures: Mapping[str, bytes]) -> None:
    for j, label in enumerate(gallery.head):
        x, y = canvas.share(LABEL + j * (THUMBNAIL + 8), HEAD - 4)
        text = _folded(visible(label), THUMBNAIL + 6, HEAD_SIZE)
        canvas.drawing.text(x, y, text, fontsize=HEAD_SIZE, va="bottom")
    for i, (label, row) in enumerate(gallery.rows):
        top = _head(gallery) + i * (THUMBNAIL + CAPTION)
        x, y = canvas.share(0, top + THUMBNAIL / 2)
        canvas.drawing.text(x, y, _folded(visible(label), LABEL, FONT_SIZE), fontsize=FONT_SIZE, va="center")
        for j, picture in enumerate(row):
            if picture is not None:
                _picture(picture, canvas, LABEL + j * (THUMBNAIL + 8), top, pictures[picture.key])


def _picture(picture: Picture, canvas: Canvas, left: float, top: float, png: bytes) -> None:
    import numpy as np
    from PIL import Image

    axes = canvas.axes(left, canvas.width - left - THUMBNAIL, top, canvas.height - top - THUMBNAIL)
    with Image.open(io.BytesIO(png)) as image:
        axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
    axes.set_axis_off()
    mark = {"right": "✓ ", "wrong": "✕ "}.get(picture.tone, "")
    colour = {"right": GREEN, "wrong": VERMILLION}.get(picture.tone, "black")
    x, y = canvas.share(left, top + THUMBNAIL + 3)
    text = _folded(mark + visible(picture.caption), THUMBNAIL, CAPTION_SIZE)
    canvas.drawing.text(x, y, text, fontsize=CAPTION_SIZE, va="top", color=colour)


def _folded(text: str, width: float, size: float) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, int(width / text_width("x", size)))[:2])
