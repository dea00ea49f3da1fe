"""Format values as plain text: on the page, in CSV files, in file names and anchors."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

from robustbench_df.report.document import Cell, Column, Estimate, Table
from robustbench_df.wording import duration

NOT_RUN, UNDEFINED = "not run", "undefined"

_JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner: invisible too, but Persian text and emoji are wrong without them."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make a spreadsheet execute a cell as a formula (OWASP, "CSV Injection")."""


def visible(text: str) -> str:
    r"""Return ``text`` with invisible and reordering characters escaped, as ``\u202e`` or ``\n``.

    These are the Unicode categories Cc (controls), Cf (format, including the bidirectional ones), Cs (lone surrogates,
    from file names that are not UTF-8), Zl and Zp (line and paragraph separators).
    """
    if text.isascii() and text.isprintable():
        return text
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in hidden and c not in _JOINERS else c
        for c in text
    )


def slug(name: str) -> str:
    """Return ``name`` as an anchor and file name: only letters, digits, ``_``, ``.`` and ``-``, with no leading dot."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip(".-") or "unnamed"


def parts(value: Cell, kind: str) -> tuple[str, str]:
    """Return (figure, interval) as text: ``("92.7%", "[91.5, 93.8]")``; without an interval the second is empty.

    ``None`` becomes "not run"; an `Estimate` without a value, and NaN, become "undefined".
    """
    if isinstance(value, Estimate):
        if value.value is None or value.value != value.value:
            return UNDEFINED, ""
        if value.low is None or value.high is None or value.low != value.low or value.high != value.high:
            return _figure(value.value, kind), ""
        ends = (_figure(end, kind, whole=True).removesuffix("%") for end in (value.low, value.high))
        return _figure(value.value, kind, whole=True), f"[{', '.join(ends)}]"
    if value is None:
        return NOT_RUN, ""
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, str):
        return visible(value), ""
    return (_figure(value, kind) if value == value else UNDEFINED), ""


def _figure(value: float, kind: str, whole: bool = False) -> str:
    """Format one number; ``whole`` forces plain decimals, so that both ends of an interval have the same format."""
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    if kind == "percent":
        return f"{round(100 * value, 1) + 0.0:.1f}%".replace("-", "−")
    if kind == "seconds":
        return duration(value)
    if kind == "bytes":
        return _size(value)
    if kind == "count" or isinstance(value, int):
        return f"{value:,.0f}".replace("-", "−") if float(value).is_integer() else f"{value:,.1f}"
    if kind == "text":
        return f"{value:g}".replace("-", "−")
    small = 0 < abs(value) < 0.0005 and not whole
    return (f"{value:.2g}" if small else f"{round(value, 3) + 0.0:,.3f}").replace("-", "−")


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def sort_key(value: Cell) -> float | None:
    """Return the number that a cell is sorted by; None for text and for cells without a value (always last)."""
    if isinstance(value, Estimate):
        value = value.value
    if value is None or isinstance(value, str) or value != value:
        return None
    return float(value)


def csv_of(table: Table) -> str:
    """Return a table as CSV with raw numbers; an estimate takes four columns: value, ``_low``, ``_high``, ``_n``.

    A missing cell is ``not run``, an undefined one ``undefined``. Text that a spreadsheet would execute as a formula
    gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    wide = {c.key for c in table.columns if any(isinstance(row.get(c.key), Estimate) for row in table.rows)}
    writer.writerow([_safe(name) for c in table.columns for name in _heads(c, c.key in wide)])
    for row in table.rows:
        writer.writerow([field for c in table.columns for field in _fields(row.get(c.key), c.key in wide)])
    return out.getvalue()


def _heads(column: Column, wide: bool) -> list[str]:
    return [column.key, *(f"{column.key}_{end}" for end in ("low", "high", "n") if wide)]


def _fields(value: Cell, wide: bool) -> list[str]:
    if not isinstance(value, Estimate):
        return [_field(value), *([""] * 3 if wide else [])]
    if value.value is None:
        return [UNDEFINED, "", "", "" if value.n is None else str(value.n)]
    ends = ("" if end is None or end != end else _field(end) for end in (value.low, value.high, value.n))
    return [_field(value.value), *ends]


def _field(value: Cell) -> str:
    if isinstance(value, str):
        return _safe(value)
    if value is None or isinstance(value, bool) or value != value:
        return parts(value, "text")[0]
    return repr(value)


def _safe(text: str) -> str:
    return ("'" if text.startswith(_FORMULA) else "") + visible(text)
