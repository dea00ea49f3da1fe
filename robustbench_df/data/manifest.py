"""A table of images: ``path,label[,group,source,split,prediction]`` as CSV or Parquet."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from robustbench_df.data.archive import safe_name
from robustbench_df.data.columns import COLUMNS, check_names, check_values
from robustbench_df.data.imageset import SPLIT_NAMES, UNLABELLED, Finding
from robustbench_df.data.layouts import Entry, Plan
from robustbench_df.data.naming import parse_label, split_of
from robustbench_df.data.polarity import check_column, check_paths, remedy_for
from robustbench_df.data.stores import FolderStore, Store, Unreadable, natural_key
from robustbench_df.data.table import ENDINGS, read_table
from robustbench_df.data.whereabouts import is_missing
from robustbench_df.errors import DataError, nearest

UNUSED = "unused-column"
_MOST = 100  # distinct pairs of label and value: a column with more does not hold class or part names


def find_manifest(store: Store, *, named: bool) -> str | None:
    """Return a store's ``manifest.csv`` or ``.parquet``, or else, unless ``named``, the only table at its top level."""
    tables = [name for name in store.names if "/" not in name and name.lower().endswith(ENDINGS)]
    exact = [name for name in tables if posixpath.splitext(name)[0].lower() == "manifest"]
    if exact:
        return exact[0]
    return tables[0] if len(tables) == 1 and not named else None


def manifest(store: Store, file: str, fake_is: int | None = None, *, inside: bool = False, strict: bool = True) -> Plan:
    """Read a manifest; its paths are relative to the folder it lies in.

    Labels are ``real``/``fake`` or 0/1 (`parse_label`); a missing or empty label means unlabelled. Column names are
    case-insensitive; each unknown column is a finding. On disk a path may also be absolute; with ``inside`` (an
    archive) it must name an entry. With ``strict``, the labels and the unused columns are checked too: a label that
    contradicts its own path is a finding. Prediction needs neither labels nor parts and skips these checks.

    Raises:
        DataError: no ``path`` column, a column that occurs twice or looks like a misspelt label, group or split that is
            absent, an unknown label or split, a path listed twice with different labels, no row; with ``strict`` also a
            column of labels or splits under another name (`check_values`), and labels that are all contradicted
            (`polarity`).
    """
    columns, rows = _table(store, file)
    entries: dict[str, Entry] = {}
    findings: list[Finding] = []
    written: set[str] = set()
    beside: dict[str, set[tuple[int, str]]] = {column: set() for column in columns if column not in COLUMNS}
    for line, row in _cells(columns, rows):
        where = f"row {line} of '{file}'"
        path = row.get("path", "")
        name = safe_name(path) if inside else _name_on_disk(store, path)
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
        if entry.label != UNLABELLED:
            written.add(row["label"])
        _collect(beside, row, entry.label)
    if not entries:
        raise DataError(f"the manifest '{file}' lists nothing; write a row for each image")
    ordered = sorted(entries.values(), key=lambda entry: natural_key(entry.name))
    if strict:
        remedy = remedy_for(written, fake_is)
        folder = str(store.root.resolve()) if isinstance(store, FolderStore) else ""
        findings += check_paths(ordered, folder, file, remedy)
        for column, pairs in beside.items():
            check_values(column, {value for _, value in pairs}, columns, file, fake_is)
            check_column(column, pairs, file, remedy)
    return Plan("manifest", ordered, (*_unused(columns, file), *findings))


def _name_on_disk(store: Store, path: str) -> str:
    """Return a path in normal form; a backslash separates folders, as in Windows, unless a file of that name exists."""
    if "\\" in path and is_missing(store, path):
        path = path.replace("\\", "/")
    return posixpath.normpath(path)


def _collect(beside: dict[str, set[tuple[int, str]]], row: Mapping[str, str], label: int) -> None:
    """Add a row's pair of label and value to each column's set; a column with too many distinct pairs is dropped."""
    for column in list(beside):
        if value := row.get(column):
            beside[column].add((label, value))
            if len(beside[column]) > _MOST:
                del beside[column]


def _split(word: str, where: str) -> str:
    split = split_of(word) if word else ""
    if split is None:
        raise DataError(f"unknown split '{word}'{nearest(word, SPLIT_NAMES)} in {where}; use {', '.join(SPLIT_NAMES)}")
    return split


def _unused(columns: Sequence[str], file: str) -> list[Finding]:
    absent = [name for name in COLUMNS if name not in columns]
    unused = [column for column in columns if column not in COLUMNS]
    return [Finding(UNUSED, file, f"column '{column}' is not used{nearest(column, absent)}") for column in unused]


def _table(store: Store, file: str) -> tuple[list[str], Iterable[Sequence[Any]]]:
    """Return a manifest's columns, in lower case, and its rows; a row may be shorter than the header."""
    try:
        raw = store.read(file)
    except Unreadable as error:
        raise DataError(f"cannot read the manifest '{file}': {error}") from error
    columns, rows = read_table(raw, file)
    check_names(columns, file)
    return columns, rows


def _cells(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row number from 1, column -> text) of rows with an entry in a known column; absent values are left out."""
    for line, values in enumerate(rows, start=1):
        cells = {c: v for c, v in zip(columns, values, strict=False) if v is not None and v == v}  # NaN
        if not cells.keys().isdisjoint(COLUMNS):
            yield line, {c: str(v) if c == "path" else str(v).strip() for c, v in cells.items()}
