"""A section with what belongs to it: its pictures, the figures it lends to exports; and the shelf they come from."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from robustbench_df.errors import RunError
from robustbench_df.report.document import Block, Gallery, Picture, Section
from robustbench_df.wording import counted

PAGE_SHARE = 110_000
"""Bytes of pictures that a section may hold: with four of them a page of six detectors stays below 2 MB."""

SIDE = 64
"""Longest side of a picture on the page in pixels; larger ones are reduced, and stay whole in the run."""


ACROSS = 8
"""Pictures in a row."""


@dataclass(frozen=True)
class Piece:
    """A section, its pictures by key, the blocks that composed figures are made of, and those not on the page."""

    section: Section
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    exports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exhibits: Sequence[Block] = ()


class Tab(NamedTuple):
    """Blocks under one label."""

    label: str
    blocks: Sequence[Block]


def tabbed(id: str, title: str, lead: str, tabs: Sequence[Tab], after: Sequence[Block] = ()) -> Section:
    """Build a section of tabs; empty ones are left out, and a single one needs no tab."""
    kept = [tab for tab in tabs if tab.blocks]
    blocks = [block for tab in kept for block in tab.blocks] + list(after)
    counts = tuple((tab.label, len(tab.blocks)) for tab in kept) if len(kept) > 1 else ()
    return Section(id, title, lead, blocks, counts)


class Shot(NamedTuple):
    """A picture to be shown: its file, what is said about it, and whether the verdict was right."""

    path: Path
    caption: str
    alt: str
    tone: Literal["right", "wrong", ""] = ""


class Rows(NamedTuple):
    """What a gallery is made of."""

    id: str
    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shot | None]]]
    note: str = ""


@dataclass
class Shelf:
    """The pictures of one section, each kept once under a digest of its bytes, up to a number of bytes in all."""

    room: int = PAGE_SHARE
    pictures: dict[str, bytes] = field(default_factory=dict)
    _read: dict[Path, bytes] = field(default_factory=dict)

    def _bytes(self, path: Path) -> bytes:
        if path not in self._read:
            self._read[path] = _png(path)
        return self._read[path]

    def galleries(self, wanted: Sequence[Rows]) -> list[Gallery | None]:
        """Build galleries with as many rows of each as there is room for; the notes say what is left out.

        None where a gallery has no row.

        Raises:
            RunError: a picture is missing or damaged.
        """
        most = max((len(gallery.rows) for gallery in wanted), default=0)
        while most and not self.holds([gallery.rows[:most] for gallery in wanted]):
            most -= 1
        return [self._build(gallery, most) for gallery in wanted]

    def gallery(self, wanted: Rows) -> list[Gallery]:
        """Build one gallery; empty where there is no row, or room for none."""
        return [gallery for gallery in self.galleries([wanted]) if gallery is not None]

    def holds(self, rows: Sequence[Sequence[tuple[str, Sequence[Shot | None]]]]) -> bool:
        """Say whether there is room for some more rows."""
        shots = [shot for own in rows for _, shots in own for shot in shots if shot is not None]
        new = {_digest(data): len(data) for data in (self._bytes(shot.path) for shot in shots)}
        return sum((new | {key: len(data) for key, data in self.pictures.items()}).values()) <= self.room

    def _build(self, wanted: Rows, most: int) -> Gallery | None:
        shown = [(label, [self._picture(shot) for shot in shots]) for label, shots in wanted.rows[:most]]
        left, note = len(wanted.rows) - len(shown), wanted.note
        if left:
            note = f"{note} {counted(left, 'row')} left out, to keep the page small.".strip()
        return Gallery(wanted.id, wanted.title, wanted.head, shown, note) if shown else None

    def _picture(self, shot: Shot | None) -> Picture | None:
        if shot is None:
            return None
        data = self._bytes(shot.path)
        self.pictures[_digest(data)] = data
        return Picture(_digest(data), shot.caption, shot.alt, shot.tone)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _png(path: Path) -> bytes:
    """Read a PNG, reduced to `SIDE`."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if max(picture.size) <= SIDE:
                return data
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            picture.save(out, "PNG", optimize=True)
            return out.getvalue()
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise RunError(f"the picture '{path}' cannot be read ({error}); make it again with: rdf explain") from error


def picture_path(folder: Path, key: str) -> Path:
    """Where the picture of a key is kept; a key is a name, never a path.

    Raises:
        RunError: it could lead elsewhere.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", key):
        raise RunError(f"'{key}' is no name of a picture; make the run's pictures again with: rdf explain")
    return folder / f"{key}.png"


def wrapped(rows: Sequence[tuple[str, Sequence[Shot]]]) -> list[tuple[str, Sequence[Shot | None]]]:
    """Break long rows, so that a page need not be scrolled sideways."""
    return [
        (label if begin == 0 else "", shots[begin : begin + ACROSS])
        for label, shots in rows
        for begin in range(0, len(shots), ACROSS)
    ]
