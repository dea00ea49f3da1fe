"""Turn a `Document` into one self-contained HTML page.

The page makes no request, and its content security policy allows only its own style and script, by their hashes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from robustbench_df.report.document import (
    Block,
    Column,
    Document,
    Figure,
    Gallery,
    Section,
    Table,
    as_json,
)
from robustbench_df.report.figures import look_of, size, svg_of
from robustbench_df.report.formatting import csv_of, parts, slug, sort_key, visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

WIDE = 420
"""A drawing wider than this, in pixels, takes a whole row of the grid."""

TALL, DENSE, LONG = 24, 8, 28
"""A table with more than `TALL` rows scrolls in its own box. One with more than `DENSE` columns shows intervals below
their figures. A column in which a text has more than `LONG` characters wraps its lines."""

RESERVED = ("verdict", "alerts", "content", "theme", "zoom", "zoom-title")
"""Anchors that the page itself uses."""

_PNG = b"\x89PNG\r\n\x1a\n"

_TONES = {"pass": "good", "yes": "good", "fail": "fail", "no": "fail", "warn": "warn", "not run": "none"}
_MARKS = {"good": "✓", "fail": "✕", "warn": "▲", "none": "–", "info": "i"}


def render(document: Document) -> str:
    """Return the whole page. The same document gives the same bytes.

    Raises:
        ValueError: two sections, blocks or tabs share an anchor, or a shown picture is missing or not a PNG.
    """
    known = _checked_anchors(document)
    style, script = _asset("style.css"), _asset("page.js")
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            document=document,
            known=known,
            style=style,
            script=script,
            policy=_policy(style, script),
            sections=[(section, list(_panels(section))) for section in document.sections],
            drawings=_drawings(document),
            pictures=_pictures(document),
            # Compression makes it eight times smaller. mtime=0 leaves the time out of the gzip header, so that the same
            # document gives the same bytes.
            results=_data_uri("application/gzip", gzip.compress(results_json(document), mtime=0)),
            facts=list(_flat(document.provenance)),
        )
    )


def results_json(document: Document) -> bytes:
    """Return `results.json`, all content of the page; a lone surrogate in a file name becomes its JSON escape."""
    text = json.dumps(as_json(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def anchors(section: Section) -> list[str]:
    """Return the anchors of a section in order: its own, its tabs' and its blocks'."""
    tabs = [tab_anchor(section, label) for label, _ in section.tabs]
    return [slug(section.id), *tabs, *(slug(block.id) for block in section.blocks if block.id)]


def tab_anchor(section: Section, label: str) -> str:
    """Return the anchor of a tab."""
    return slug(f"{section.id}--{label}")


def _checked_anchors(document: Document) -> set[str]:
    counts = Counter([*RESERVED, *(anchor for section in document.sections for anchor in anchors(section))])
    double = sorted(anchor for anchor, count in counts.items() if count > 1)
    if double:
        raise ValueError(f"two parts of the report share the anchor {', '.join(double)}")
    return set(counts)


def _panels(section: Section) -> Iterator[tuple[str, list[list[Block]]]]:
    """Yield (tab label, groups of blocks); the blocks after the last tab have an empty label.

    Figures in a row form one group, which the page lays out as a grid; every other block is a group of its own.
    """
    start = 0
    for label, count in [*section.tabs, ("", len(section.blocks))]:
        blocks = section.blocks[start : start + count]
        start += count
        groups: list[list[Block]] = []
        for block in blocks:
            if groups and isinstance(block, Figure) and isinstance(groups[-1][-1], Figure):
                groups[-1].append(block)
            else:
                groups.append([block])
        if groups:
            yield label, groups


def _drawings(document: Document) -> dict[str, str]:
    look = look_of(document)
    return {
        block.id: svg_of(block, look)
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Figure)
    }


def _pictures(document: Document) -> dict[str, dict[str, Any]]:
    """Return the anchor, size and data URI of each shown picture by key; each picture is included once."""
    shown = (
        picture.key
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Gallery)
        for _, row in block.rows
        for picture in row
        if picture is not None
    )
    return {key: _picture(f"_pic-{i}", key, document) for i, key in enumerate(dict.fromkeys(shown))}


def _picture(anchor: str, key: str, document: Document) -> dict[str, Any]:
    png = document.pictures.get(key, b"")
    if not png.startswith(_PNG):
        raise ValueError(f"the report shows the picture '{key}', which is {'no PNG' if png else 'missing'}")
    width, height = struct.unpack(">II", png[16:24])
    return {"id": anchor, "width": width, "height": height, "uri": _data_uri("image/png", png)}


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every leaf of nested provenance."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield visible(name), visible(str(value))


def _policy(style: str, script: str) -> str:
    def named(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"

    return (
        f"default-src 'none'; style-src {named(style)}; script-src {named(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> str:
    from importlib import resources

    return resources.files("robustbench_df.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_asset),
    )
    environment.filters |= {
        "visible": visible,
        "slug": slug,
        "parts": parts,
        "markup": Markup,
        "prose": _prose,
        "csv_uri": lambda table: _data_uri("text/csv;charset=utf-8", csv_of(table).encode()),
        "cell": _cell,
        "groups": _group_values,
        "long_columns": _long_columns,
    }
    environment.globals |= {
        "tab_anchor": tab_anchor,
        "is_wide": lambda figure: size(figure)[0] > WIDE,
        "tall": TALL,
        "dense": DENSE,
        "marks": _MARKS,
    }
    environment.tests |= {
        "table": lambda block: isinstance(block, Table),
        "gallery": lambda block: isinstance(block, Gallery),
        "figure": lambda block: isinstance(block, Figure),
    }
    return environment


def _prose(text: str) -> Markup:
    """Return a sentence as markup that prevents line breaks within options (``--run``): browsers break after dashes."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<!\S)(--[\w-]+)", r'<span class="option">\1</span>', str(escape(visible(text)))))


def _cell(row: dict[str, Any], column: Column) -> dict[str, Any]:
    """Return the values that the template needs for one cell."""
    value = row.get(column.key)
    figure, interval = parts(value, column.kind)
    n = getattr(value, "n", None)
    key = sort_key(value)
    return {
        "figure": figure,
        "interval": interval,
        "hint": "" if n is None else f"n = {n:,}",
        "sort": "" if key is None else f"{key:.9g}",
        "tone": _TONES.get(figure, "info") if column.kind == "verdict" else "",
        "absent": value is None or figure == "undefined",
        "name": isinstance(value, str),
    }


def _long_columns(table: Table) -> set[str]:
    """Return the keys of the columns with long texts."""
    keys = (column.key for column in table.columns)
    return {
        key for key in keys if any(isinstance(row.get(key), str) and len(str(row[key])) > LONG for row in table.rows)
    }


def _group_values(table: Table) -> list[str]:
    """Return the values by which a table may be filtered, in order of appearance."""
    if not table.group:
        return []
    return list(dict.fromkeys(parts(row.get(table.group), "text")[0] for row in table.rows))
