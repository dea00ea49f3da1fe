"""``rdf report`` and ``rdf compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_df.cli.options import AsJson, Quiet, RunPath, find_latest

if TYPE_CHECKING:
    from robustbench_df.report.document import Document

Out = Annotated[Path | None, typer.Option(help="Folder for the page and its files; under reports/ when not given.")]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]
Pdf = Annotated[bool, typer.Option("--pdf", help="Also print it to index.pdf; needs Chromium or Chrome.")]


def report(
    run: RunPath = None,
    out: Out = None,
    show: Open = False,
    pdf: Pdf = False,
    figures: Annotated[Path | None, typer.Option(help="Also draw each figure as PNG and SVG into this folder.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one page of a run: what to ship, how far to trust it, and every number behind it."""
    from robustbench_df.cli.console import reporting
    from robustbench_df.report.build import report_folder, write_report
    from robustbench_df.report.content import document_of
    from robustbench_df.report.export import draw_exports

    with reporting(quiet or as_json) as reporter:
        found = find_latest(run, reporter)
        document = document_of(found.path)
        drawn = draw_exports(document, figures) if figures is not None else []
        page = write_report(document, out or report_folder([found.path]))
    _say({"run": str(found.path)}, document, page, drawn, as_json)
    _hand_over(page, show, pdf)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more runs, judged on the same images.")],
    out: Out = None,
    show: Open = False,
    pdf: Pdf = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write one page of several runs: paired tests on common images, and clean against robust against cost."""
    from robustbench_df.cli.console import reporting
    from robustbench_df.errors import UsageError
    from robustbench_df.report.build import report_folder, write_report
    from robustbench_df.report.content import compare_of
    from robustbench_df.rundir import find_run

    if len(runs) < 2:
        raise UsageError("rdf compare takes two runs or more; for one use: rdf report --run RUN")
    paths = [find_run(run, finished=True).path for run in runs]
    with reporting(quiet or as_json):
        document = compare_of(paths)
        page = write_report(document, out or report_folder(paths))
    _say({"runs": [str(path) for path in paths]}, document, page, [], as_json)
    _hand_over(page, show, pdf)


def _say(what: dict[str, Any], document: Document, page: Path, drawn: list[Path], as_json: bool) -> None:
    from robustbench_df.cli.console import print_json

    if as_json:
        print_json({**what, **facts_json(document, page), "figures": [str(p) for p in drawn]})
        return
    if drawn:
        typer.echo(f"Figures: {len(drawn)} files in {drawn[0].parent}")
    print_report(document, page)


def print_report(document: Document, page: Path) -> None:
    """Print the verdict and where the page is."""
    from rich.text import Text

    from robustbench_df.cli.console import out

    for sentence in document.verdict:
        out.print(Text(sentence))
    out.print(Text(f"Report: {page}   {page.stat().st_size / 1e6:.1f} MB, with results.json and tables/ beside it"))


def facts_json(document: Document, page: Path) -> dict[str, Any]:
    """Return the page's path and size, and its main content: verdict, alerts, and the first table's rows."""
    from robustbench_df.report.document import Table, as_json

    sections = as_json(document)["sections"]
    tables = (block for section in sections for block in section["blocks"] if block["type"] == Table.__name__.lower())
    return {
        "report": str(page),
        "bytes": page.stat().st_size,
        "verdict": list(document.verdict),
        "alerts": [{"severity": alert.severity, "title": alert.title} for alert in document.alerts],
        "headline": next((table["rows"] for table in tables), []),
    }


def _hand_over(page: Path, show: bool, pdf: bool) -> None:
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    if pdf:
        from robustbench_df.report.browser import print_pdf

        typer.echo(f"PDF: {print_pdf(page, page.with_suffix('.pdf'))}", err=True)
