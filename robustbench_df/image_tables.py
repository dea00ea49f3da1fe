"""Tables about images, in CSV, JSON or Parquet: their columns, and which of these name the images."""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_df.data.table import decode, read_table, separator
from robustbench_df.errors import DataError, nearest

IDS = ("image_id", "filename", "path", "file", "image", "name", "id", "index")
"""Headers of columns that name an image, in any letter case."""


@dataclass(frozen=True)
class Ids:
    """The image name in each row of ``where``, for every column that may name images, in the order of `IDS`.

    Paths are normalised: forward slashes, and no ``.`` component. ``""`` if a row has no name.
    """

    where: str
    columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Table:
    """A table: lower-case column name -> one cell per row, None if a row has none."""

    where: str
    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def ids(self) -> Ids:
        """Return the names that the rows give their images.

        Raises:
            DataError: there is no column of `IDS`.
        """
        columns = {name: tuple(map(_image_name, self.columns[name])) for name in IDS if name in self.columns}
        if not columns:
            raise DataError(f"'{self.where}' has no id (it has {self.listed}); name its images under {', '.join(IDS)}")
        return Ids(self.where, columns)

    @property
    def listed(self) -> str:
        """The column names, for a message."""
        return ", ".join(self.columns)


def _image_name(cell: Any) -> str:
    text = "" if cell is None else str(cell).strip()
    return posixpath.normpath(text.replace("\\", "/")) if text else ""


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        DataError: the file does not exist, is a folder, or cannot be read.
    """
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; give one of the files in it")
    if not path.exists():
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise DataError(f"no such file: '{path}'{near}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}") from error


def parse_table(raw: bytes, where: str, value: str) -> Table:
    """Read a CSV with a header, a JSON list of objects, or a JSON object ``{name: value}``; the content decides which.

    Encodings and separators are those of `robustbench_df.data.table.read_table`, but a CSV must be valid Unicode. A
    name that ends in ``.parquet`` means Parquet.

    Args:
        raw: content of the file.
        where: name of the file in messages.
        value: name of the column for the values of a JSON object.

    Raises:
        DataError: none of these formats, or a column name occurs twice.
    """
    if where.lower().endswith(".parquet"):
        return _parquet(raw, where)
    try:
        text = decode(raw, where)
        rows = json.loads(text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(text, where)
    except (ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read '{where}': {error}; it must be CSV or JSON") from error
    if isinstance(rows, dict):
        return Table(where, {"id": list(rows), value: list(rows.values())} if rows else {})
    for k, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {k} of '{where}' is {str(row)[:60]!r}; it must hold an id and an answer")
    rows = [{str(key).strip().lower(): cell for key, cell in row.items() if key is not None} for row in rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, {name: [row.get(name) for row in rows] for name in names})


def _parquet(raw: bytes, where: str) -> Table:
    names, rows = read_table(raw, where)
    _refuse_twice(names, where)
    return Table(where, dict(zip(names, map(list, zip(*rows, strict=True)), strict=False)))


def _csv_rows(text: str, where: str) -> list[dict[Any, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(text))
    _refuse_twice([name.strip().lower() for name in reader.fieldnames or ()], where)
    return list(reader)


def _refuse_twice(names: list[str], where: str) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{where}' has the column '{twice}' twice; leave only the right one")
