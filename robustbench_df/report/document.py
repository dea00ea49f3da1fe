"""The content of a report, without its layout: sections of tables, figures, pictures and alerts, all plain data.

The builders in `content` fill these records from the files of a run; `page` turns them into HTML, `figures` into
drawings, and `as_json` into the `results.json` beside the page. The page has no number that is not in these records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np

SCHEMA = 1
"""Version of `results.json`; a reader refuses versions that it does not know."""

Severity = Literal["fail", "warn", "info"]


@dataclass(frozen=True)
class Estimate:
    """A measured figure with its 95% interval; a `value` of None is undefined (AUC with one class), not missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None


Cell = str | int | float | bool | Estimate | None
"""The content of a table's cell. None is shown as "not run": the measurement is missing, which is never shown as 0."""


@dataclass(frozen=True)
class Column:
    """A column of a table: `key` in the rows, `label` in the header, and the format of its values (`kind`)."""

    key: str
    label: str
    kind: Literal["text", "percent", "number", "count", "seconds", "bytes", "verdict"] = "text"
    hint: str = ""
    """The meaning of the column in one sentence, shown with the header."""
    better: Literal["higher", "lower", ""] = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells by column key; sortable on the page, downloadable as CSV under its id."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    note: str = ""
    group: str = ""
    """Key of the column by whose values the reader may filter the rows, if any."""


@dataclass(frozen=True)
class Series:
    """One line of a plot. `low` and `high` are a band of the same length as `y`. A y of None is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Curves:
    """Lines over a common x: ROC, training curves, accuracy over epsilon, reliability."""

    id: str
    title: str
    alt: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_scale: Literal["linear", "log"] = "linear"
    diagonal: bool = False
    """Draw y = x: chance in a ROC, perfect calibration in a reliability diagram."""
    percent: bool = False
    """y is a share in [0, 1], labelled in percent."""
    note: str = ""


@dataclass(frozen=True)
class Histogram:
    """Counts over shared bin edges, one series by name (real, fake)."""

    id: str
    title: str
    alt: str
    x_label: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]
    marker: float | None = None
    """A vertical line: the decision threshold."""
    note: str = ""


@dataclass(frozen=True)
class Heat:
    """A matrix with names on both sides; None is a cell that was not run."""

    id: str
    title: str
    alt: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    label: str
    percent: bool = True
    better: Literal["higher", "lower"] = "higher"
    note: str = ""


@dataclass(frozen=True)
class Confusion:
    """Counts [[real as real, real as fake], [fake as real, fake as fake]] at the deployed threshold."""

    id: str
    title: str
    alt: str
    counts: Sequence[Sequence[int]]
    note: str = ""


@dataclass(frozen=True)
class Points:
    """Named points with intervals, and their Pareto front: `front` names those that no other beats on both axes."""

    id: str
    title: str
    alt: str
    x_label: str
    y_label: str
    names: Sequence[str]
    x: Sequence[Estimate]
    y: Sequence[Estimate]
    front: Sequence[str] = ()
    percent: bool = True
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """One image of a gallery: the key of its PNG in `Document.pictures`, its caption, alternative text and tone."""

    key: str
    caption: str
    alt: str
    tone: Literal["right", "wrong", ""] = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows: image × epsilon, image × detector. A missing picture (None) is an empty place."""

    id: str
    title: str
    head: Sequence[str]
    """One label per column, or empty for no labels."""
    rows: Sequence[tuple[str, Sequence[Picture | None]]]
    """A pair (label, pictures) per row."""
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; `id` is set only if the page links to it."""

    text: str
    id: str = ""
    head: bool = False
    """The text is a heading of the blocks after it, so figures below it begin a new row."""


@dataclass(frozen=True)
class Alert:
    """Something the reader must know before quoting a number; `section` is the id of the part with the evidence."""

    severity: Severity
    title: str
    text: str
    section: str = ""


Figure = Curves | Histogram | Heat | Confusion | Points
Block = Table | Figure | Gallery | Text


@dataclass(frozen=True)
class Section:
    """A part of the page: an anchor, a title, a sentence that says what it shows, and its blocks in order.

    `tabs` groups the blocks in order: (label, number of blocks). Any remaining blocks follow without a tab. Empty: no
    tabs.
    """

    id: str
    title: str
    lead: str
    blocks: Sequence[Block]
    tabs: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Document:
    """A whole report; only the `pictures` (PNG bytes by key) are not in `results.json`."""

    title: str
    subtitle: str
    verdict: Sequence[str]
    """Three sentences: what to ship, how far to trust it, what to beware of."""
    alerts: Sequence[Alert]
    """The alerts, worst first."""
    sections: Sequence[Section]
    pictures: Mapping[str, bytes]
    provenance: Mapping[str, Any]
    exports: Mapping[str, Sequence[str]]
    """File name of a composed figure -> ids of the blocks drawn in it, side by side (`rdf report --figures`)."""
    exhibits: Sequence[Block] = ()
    """Blocks for composed figures only; the page shows the same content in other blocks."""


def as_json(document: Document) -> dict[str, Any]:
    """Return the document as plain JSON, without the pictures' bytes; every record has its `type`, NaN becomes null."""
    return {"schema": SCHEMA, **_plain(document), "pictures": sorted(document.pictures)}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        body = {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.name != "pictures"}
        return {"type": type(value).__name__.lower(), **body}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value
