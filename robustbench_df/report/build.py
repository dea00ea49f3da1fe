"""Write a report from the files of a run: the page, `results.json`, and every table as CSV."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustbench_df.errors import RunError
from robustbench_df.report.document import Document, Table
from robustbench_df.report.formatting import csv_of, slug
from robustbench_df.report.page import render, results_json
from robustbench_df.rundir import find_run, write_atomic, write_text

REPORTS = Path("reports")
PAGE, RESULTS, TABLES = "index.html", "results.json", "tables"

LARGE = 10_000_000
"""Size of a page in bytes from which it opens slowly and many mail servers refuse it."""


def build_report(run: Path | str, out: Path | None = None) -> Path:
    """Write the report of one run and return the path of its page.

    Args:
        run: a run folder, its name under ``runs/``, or ``runs/latest``.
        out: folder to write into; ``reports/<run name>`` when not given. The page is ``index.html`` in it, beside
            ``results.json`` and ``tables/<id>.csv``. Every file is written atomically, the page last.

    Raises:
        RunError: there is no such run, or its files do not belong together.
    """
    from robustbench_df.report.content import document_of

    path = find_run(run, finished=True).path
    return write_report(document_of(path), out or report_folder([path]))


def report_folder(runs: Sequence[Path]) -> Path:
    """Return the default folder for the report of a run, or for the comparison of several runs."""
    names = [slug(run.resolve().name) for run in runs]
    if len(names) == 1:
        return REPORTS / names[0]
    # Many long names would exceed the length of a file name; the first two identify the comparison.
    more = f"-and-{len(names) - 2}-more" if len(names) > 2 else ""
    return REPORTS / f"compare-{names[0][:80]}-{names[1][:80]}{more}"


def write_report(document: Document, folder: Path) -> Path:
    """Write a document as a page with its tables and numbers beside it, and return the page's path.

    The same document gives the same bytes. CSV files of an earlier report in the folder are removed if this report does
    not have them, because readers would think that they belong to it.

    Raises:
        RunError: the folder is a file, or holds a ``results.json`` that is not a report's, such as a run's.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"'{folder}' is a file, not a folder; choose another --out")
    former = _former(folder)
    html = render(document).encode("utf-8")
    if len(html) >= LARGE:
        warnings.warn(
            f"the page is {len(html) / 1e6:.0f} MB; pictures make most of it, and over {LARGE / 1e6:.0f} MB it is hard "
            "to send",
            stacklevel=2,
        )
    tables = {
        f"{slug(block.id)}.csv": csv_of(block)
        for section in document.sections
        for block in section.blocks
        if isinstance(block, Table)
    }
    for stale in _tables_of(former) - set(tables):
        (folder / TABLES / stale).unlink(missing_ok=True)
    for name, text in tables.items():
        write_text(folder / TABLES / name, text)
    results = results_json(document)
    write_atomic(folder / RESULTS, lambda temporary: temporary.write_bytes(results))
    write_atomic(folder / PAGE, lambda temporary: temporary.write_bytes(html))
    return folder / PAGE


def _former(folder: Path) -> dict[str, Any]:
    """Return the document of the report already in a folder; empty if there is none.

    Raises:
        RunError: the folder is a run's, or has a ``results.json`` that is not a report's.
    """
    path = folder / RESULTS
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"type": "document"}
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("type") != "document" or (folder / "config.json").exists():
        raise RunError(f"'{folder}' is a run's folder, or its {RESULTS} is not a report's; choose another --out")
    return found


def _tables_of(document: dict[str, Any]) -> set[str]:
    """Return the names of a document's CSV files."""
    blocks = [block for section in document.get("sections", ()) for block in section["blocks"]]
    return {f"{slug(block['id'])}.csv" for block in blocks if block["type"] == "table"}
