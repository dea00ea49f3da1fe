"""A section with its pictures and the blocks of composed figures (`Piece`), and its store of pictures (`Shelf`)."""

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
"""Most bytes of pictures in a section: with four such sections a page of six detectors stays below 2 MB."""

SIDE = 64
"""Longest side of a picture on the page in pixels; larger ones are downscaled for the page only, not in the run."""


ACROSS = 8
"""Most pictures in a row."""


@dataclass(frozen=True)
class Piece:
    """A section, its pictures by key, the blocks of its composed figures, and those blocks that are not on the page."""

    section: Section
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    exports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exhibits: Sequence[Block] = ()


class Tab(NamedTuple):
    """Blocks under one label."""

    label: str
    blocks: Sequence[Block]


def tabbed(id: str, title: str, lead: str, tabs: Sequence[Tab], after: Sequence[Block] = ()) -> Section:
    """Build a section of tabs; empty tabs are left out, and the blocks of a single tab are shown without a tab."""
    kept = [tab for tab in tabs if tab.blocks]
    blocks = [block for tab in kept for block in tab.blocks] + list(after)
    counts = tuple((tab.label, len(tab.blocks)) for tab in kept) if len(kept) > 1 else ()
    return Section(id, title, lead, blocks, counts)


class Shot(NamedTuple):
    """A picture to be shown: its file, its caption and alternative text, and whether the verdict was right."""

    path: Path
    caption: str
    alt: str
    tone: Literal["right", "wrong", ""] = ""


class Rows(NamedTuple):
    """The content of a gallery before its pictures are read."""

    id: str
    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shot | None]]]
    note: str = ""


@dataclass
class Shelf:
    """The pictures of one section, each stored once under a digest of its bytes, up to ``room`` bytes in total."""

    room: int = PAGE_SHARE
    pictures: dict[str, bytes] = field(default_factory=dict)
    _read: dict[Path, bytes] = field(default_factory=dict)

    def _bytes(self, path: Path) -> bytes:
        if path not in self._read:
            self._read[path] = _png(path)
        return self._read[path]

    def galleries(self, wanted: Sequence[Rows]) -> list[Gallery | None]:
        """Build galleries with as many rows each as there is room for; a note says how many rows are left out.

        A gallery without a row is None.

        Raises:
            RunError: a picture is missing or damaged.
        """
        most = max((len(gallery.rows) for gallery in wanted), default=0)
        while most and not self.holds([gallery.rows[:most] for gallery in wanted]):
            most -= 1
        return [self._build(gallery, most) for gallery in wanted]

    def gallery(self, wanted: Rows) -> list[Gallery]:
        """Build one gallery; the list is empty if there is no row, or no room for one."""
        return [gallery for gallery in self.galleries([wanted]) if gallery is not None]

    def holds(self, rows: Sequence[Sequence[tuple[str, Sequence[Shot | None]]]]) -> bool:
        """Whether there is room for the pictures of these further rows."""
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
    """Read a PNG, downscaled to `SIDE` if it is larger."""
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
    """Path of the picture of a key; a key is a file name without suffix, never a path.

    Raises:
        RunError: the key could lead outside the folder.
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
