"""A table of images: ``path,label[,group,source,split,prediction]`` as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator
from typing import Any

from robustbench_df.data.archive import safe_name
from robustbench_df.data.imageset import SPLIT_NAMES, Finding
from robustbench_df.data.layouts import Entry, Plan, parse_label, split_of
from robustbench_df.data.stores import Store, Unreadable, natural_key
from robustbench_df.errors import DataError, nearest

ENDINGS = (".csv", ".parquet")
COLUMNS = ("path", "label", "group", "source", "split", "prediction")


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
    names may be in any case; other columns are ignored. On disk a path may also be absolute; with ``inside``
    (an archive) it must name an entry.

    Raises:
        DataError: no ``path`` column, an unknown label or split, a path listed twice with different labels.
    """
    entries: dict[str, Entry] = {}
    findings = []
    for line, row in _rows(store, file):
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


def _rows(store: Store, file: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number from 1, column -> text); absent values are left out."""
    try:
        raw = store.read(file)
    except Unreadable as error:
        raise DataError(f"cannot read the manifest '{file}': {error}") from error
    header, rows = _parquet(raw, file) if file.lower().endswith(".parquet") else _csv(raw, file)
    columns = [str(column).strip().lower() for column in header]
    if "path" not in columns:
        raise DataError(f"the manifest '{file}' has no column 'path' (it has {', '.join(columns) or 'none'}); add one")
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        wanted = [c for c in pq.read_schema(pa.BufferReader(raw)).names if c.strip().lower() in COLUMNS]
        table = pq.read_table(pa.BufferReader(raw), columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read '{file}' as Parquet: {' '.join(str(error).split())}") from error
    return wanted, zip(*(column.to_pylist() for column in table.columns), strict=True)
