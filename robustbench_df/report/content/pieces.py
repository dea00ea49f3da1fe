"""A section with what belongs to it: its pictures, the figures it lends to exports; and the shelf they come from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from robustbench_df.errors import RunError
from robustbench_df.report.content.words import counted
from robustbench_df.report.document import Block, Gallery, Picture, Section

PAGE_SHARE = 260_000
"""Bytes of pictures that a section may hold: with four of them the page stays below 2 MB (base64 adds a third)."""


@dataclass(frozen=True)
class Piece:
    """A section, its pictures by key, and the blocks that composed figures are made of."""

    section: Section
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    exports: Mapping[str, Sequence[str]] = field(default_factory=dict)


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
    tone: str = ""


@dataclass
class Shelf:
    """The pictures of one section, each kept once under a digest of its bytes, up to a number of bytes in all."""

    room: int = PAGE_SHARE
    pictures: dict[str, bytes] = field(default_factory=dict)

    def gallery(
        self,
        id: str,
        title: str,
        head: Sequence[str],
        rows: Sequence[tuple[str, Sequence[Shot | None]]],
        note: str = "",
    ) -> Gallery | None:
        """Build a gallery of as many rows as there is room for; the note says what is left out. None without a row.

        Raises:
            RunError: a picture is missing.
        """
        shown: list[tuple[str, Sequence[Picture | None]]] = []
        for label, shots in rows:
            loaded = [None if shot is None else (shot, _bytes(shot.path)) for shot in shots]
            new = {_digest(one[1]): one[1] for one in loaded if one is not None} | self.pictures
            if sum(map(len, new.values())) > self.room:
                break
            self.pictures |= new
            shown.append((label, [None if one is None else _picture(*one) for one in loaded]))
        if len(shown) < len(rows):
            left = counted(len(rows) - len(shown), "row")
            note = f"{note} {left} left out, to keep the page small.".strip()
        return Gallery(id, title, head, shown, note) if shown else None


def _picture(shot: Shot, data: bytes) -> Picture:
    tone = shot.tone if shot.tone in ("right", "wrong") else ""
    return Picture(_digest(data), shot.caption, shot.alt, tone)  # type: ignore[arg-type]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"the picture '{path}' is missing ({error.strerror}); make it again with: rdf explain"
        ) from error


def picture_path(folder: Path, key: str) -> Path:
    """Where the picture of a key is kept; a key is a name, never a path.

    Raises:
        RunError: it could lead elsewhere.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", key):
        raise RunError(f"'{key}' is no name of a picture; make the run's pictures again with: rdf explain")
    return folder / f"{key}.png"
