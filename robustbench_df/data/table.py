"""Parse the bytes of a CSV or Parquet table into column names and rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_df.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".csv", ".parquet")
_SEPARATORS = ",;\t"


def read_table(raw: bytes, file: str) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Return the columns' names in lower case and the rows; a row may be shorter than the header.

    A CSV is UTF-8, or UTF-16 with a byte-order mark. Its separator is the comma, semicolon or tab, whichever its header
    holds; the comma if it holds several. Parquet columns without plain values come last, and the rows hold no values
    for them.

    Raises:
        DataError: the bytes are no such table (this may be raised while the rows are read), or a Parquet file holds the
            images themselves.
    """
    header, rows = _parquet(raw, file) if file.lower().endswith(".parquet") else _csv(raw, file)
    return [column.strip().lower() for column in header], rows


def _csv(raw: bytes, file: str) -> tuple[list[str], Iterator[list[str]]]:
    text = decode(raw, file, "surrogateescape")  # a file name on disk need not be UTF-8
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text))

    def rows() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise DataError(f"line {reader.line_num} of '{file}' is no CSV: {error}") from error

    lines = rows()
    return next(lines, []), lines


def separator(text: str) -> str:
    """Return the separator of a CSV: comma, semicolon or tab, whichever its header holds; the comma if several."""
    header = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text, maxsplit=1)[0])  # without quoted text
    found = [mark for mark in _SEPARATORS if mark in header]
    return found[0] if len(found) == 1 else ","


def decode(raw: bytes, file: str, errors: str = "strict") -> str:
    """Decode UTF-8, or UTF-16 with a byte-order mark; ``errors`` says what to do with bytes that are no UTF-8.

    Raises:
        DataError: it has the mark of UTF-16, but is none.
        UnicodeDecodeError: it is no UTF-8, and ``errors`` is ``strict``.
    """
    if not raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-8-sig", errors)
    try:
        return raw.decode("utf-16")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read '{file}' as UTF-16 ({error.reason}); save it as UTF-8") from error


def _parquet(raw: bytes, file: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(pa.BufferReader(raw))
        plain = [field.name for field in schema if not _holds_bytes(field.type) and not pa.types.is_nested(field.type)]
        images = [field.name for field in schema if _holds_bytes(field.type)]
        if images and "path" not in (name.strip().lower() for name in plain):
            raise DataError(
                f"'{file}' holds the images themselves (column '{images[0]}'), not their paths; export them to "
                "folders real/ and fake/"
            )
        table = pq.read_table(pa.BufferReader(raw), columns=plain)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read '{file}' as Parquet: {' '.join(str(error).split())}") from error
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [*plain, *(name for name in schema.names if name not in plain)], rows


def _holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a column's values are or contain bytes, as with the type Image of Hugging Face's datasets."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(_holds_bytes(kind.field(k).type) for k in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))
