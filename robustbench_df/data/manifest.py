"""A table of images: ``path,label[,group,source,split,prediction]`` as CSV or Parquet."""

from __future__ import annotations

import csv
import difflib
import io
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from robustbench_df.data.archive import safe_name
from robustbench_df.data.imageset import SPLIT_NAMES, Finding
from robustbench_df.data.layouts import Entry, Plan
from robustbench_df.data.naming import parse_label, split_of
from robustbench_df.data.stores import Store, Unreadable, natural_key
from robustbench_df.errors import DataError, nearest

ENDINGS = (".csv", ".parquet")
COLUMNS = ("path", "label", "group", "source", "split", "prediction")
DECISIVE = ("label", "group", "split")
"""Without one of these other things are learnt, or what belongs together is divided: a misspelt one is refused."""
UNUSED = "unused-column"
_NEUTRAL = {"id", "ids", "name", "no", "true", "gt", "image", "img", "class"}
_MISSPELT = 0.7  # least likeness: "grp" is group (0.75), but a hospital's "site" is not split (0.67)


def find_manifest(store: Store, *, named: bool) -> str | None:
    """Return a store's ``manifest.csv`` or ``.parquet``; unless ``named``, the only table at its top."""
    tables = [name for name in store.names if "/" not in name and name.lower().endswith(ENDINGS)]
    exact = [name for name in tables if posixpath.splitext(name)[0].lower() == "manifest"]
    if exact:
        return exact[0]
    return tables[0] if len(tables) == 1 and not named else None


def manifest(store: Store, file: str, fake_is: int | None = None, *, inside: bool = False) -> Plan:
    """Read a manifest; its paths are relative to the folder it lies in.

    Labels are ``real``/``fake`` or 0/1 (`parse_label`); a missing or empty label means unlabelled. Column
    names may be in any case; each other column is a finding. On disk a path may also be absolute; with ``inside``
    (an archive) it must name an entry.

    Raises:
        DataError: no ``path`` column, a column twice, one that looks like a misspelt label, group or split where
            there is none, an unknown label or split, a path listed twice with different labels.
    """
    entries: dict[str, Entry] = {}
    columns, rows = _table(store, file)
    findings = _unused(columns, file)
    for line, row in _cells(columns, rows):
        where = f"row {line} of '{file}'"
        path = row.get("path", "")
        name = safe_name(path) if inside else posixpath.normpath(path)
        if not path or name is None:
            raise DataError(f"{where} has the path {path!r}; it must name an image{' in the archive' * inside}")
        entry = Entry(
            name,
            parse_label(row.get("label"), fake_is, where),
            parse_label(row.get("prediction"), fake_is, where),
            row.get("group", ""),
            row.get("source", ""),
            _split(row.get("split", ""), where),
        )
        if (former := entries.setdefault(name, entry)) is not entry:
            if former.label != entry.label:
                raise DataError(f"'{path}' is listed twice with different labels, again in {where}; keep one row")
            findings.append(Finding("duplicate-row", name, f"listed again in row {line}; the first row counts"))
    ordered = sorted(entries.values(), key=lambda entry: natural_key(entry.name))
    return Plan("manifest", ordered, tuple(findings))


def _split(word: str, where: str) -> str:
    split = split_of(word) if word else ""
    if split is None:
        raise DataError(f"unknown split '{word}'{nearest(word, SPLIT_NAMES)} in {where}; use {', '.join(SPLIT_NAMES)}")
    return split


def _unused(columns: Sequence[str], file: str) -> list[Finding]:
    """List the columns that are not read; refuse one that seems to be a `DECISIVE` one misspelt."""
    absent = [name for name in COLUMNS if name not in columns]
    unused = [column for column in columns if column not in COLUMNS]
    for column in unused:
        if name := _misspelt(column, [name for name in absent if name in DECISIVE]):
            raise DataError(
                f"the manifest '{file}' has no column '{name}' but '{column}'; rename it to '{name}' if that is what "
                "it holds, or leave it out"
            )
    return [Finding(UNUSED, file, f"column '{column}' is not used{nearest(column, absent)}") for column in unused]


def _misspelt(column: str, names: Sequence[str]) -> str:
    """Return which of ``names`` a column seems to be; empty for none.

    It is one with a word that adds nothing (``group_id``; but not ``age_group``), or nearly one.
    """
    words = set(re.split(r"[\W\d_]+", column)) - {""}
    if held := [name for name in names if name in words]:
        return held[0] if words - {held[0]} <= _NEUTRAL else ""
    return next(iter(difflib.get_close_matches(column, names, 1, _MISSPELT)), "")


def _table(store: Store, file: str) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """Return a manifest's columns, in lower case, and its rows; a row may end early."""
    try:
        raw = store.read(file)
    except Unreadable as error:
        raise DataError(f"cannot read the manifest '{file}': {error}") from error
    header, rows = _parquet(raw, file) if file.lower().endswith(".parquet") else _csv(raw, file)
    columns = [str(column).strip().lower() for column in header]
    if "path" not in columns:
        raise DataError(f"the manifest '{file}' has no column 'path' (it has {', '.join(columns) or 'none'}); add one")
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        raise DataError(f"the manifest '{file}' has the column '{twice[0]}' twice; keep one")
    return columns, rows


def _cells(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number from 1, column -> text); absent values are left out."""
    for line, values in enumerate(rows, start=1):
        cells = {
            c: v for c, v in zip(columns, values, strict=False) if c in COLUMNS and v is not None and v == v
        }  # NaN
        if cells:
            yield line, {c: str(v) if c == "path" else str(v).strip() for c, v in cells.items()}


def _csv(raw: bytes, file: str) -> tuple[list[str], Iterator[list[str]]]:
    text = io.StringIO(raw.decode("utf-8-sig", "surrogateescape"), newline="")
    reader = csv.reader(text)

    def rows() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(f"line {reader.line_num} of '{file}' is no CSV: {error}") from error

    lines = rows()
    return next(lines, []), lines


def _parquet(raw: bytes, file: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Return the columns, those that are not read last, and rows of those that are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(pa.BufferReader(raw)).names
        wanted = [c for c in names if c.strip().lower() in COLUMNS]
        table = pq.read_table(pa.BufferReader(raw), columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read '{file}' as Parquet: {' '.join(str(error).split())}") from error
    return [*wanted, *(c for c in names if c not in wanted)], zip(
        *(column.to_pylist() for column in table.columns), strict=True
    )
