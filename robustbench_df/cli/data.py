"""``rdf data``: inspect a source, or fetch a public data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson, FakeIs, GroupBy, Labels, Layout, MaxBad, Quiet, Size
from robustbench_df.progress import BYTES, Reporter

app = typer.Typer(no_args_is_help=True, help="Look at a data source, or fetch a public one.")


COMMON_SIDE = 64
"""Images of different sizes are resized to this side, in pixels, to look for duplicates."""


@app.command("info")
def info(
    source: Annotated[str, typer.Argument(help="Folder, zip, CSV or Parquet manifest.")] = "demo",
    layout: Layout = "auto",
    labels: Labels = "folder",
    fake_is: FakeIs = None,
    size: Size = None,
    group_by: GroupBy = None,
    max_bad: MaxBad = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show layout, counts by class and split, sizes, formats, bad files and exact duplicates."""
    from robustbench_df.cli.console import print_json
    from robustbench_df.cli.tables import print_data_info
    from robustbench_df.data.info import describe
    from robustbench_df.data.sources import image_sizes, load_images

    sizes = image_sizes(source, layout=layout, fake_is=fake_is)
    # Do not refuse the images for what the command itself reports: mixed sizes, one class only, many bad files.
    side = size or (COMMON_SIDE if len(sizes) > 1 else None)
    images = load_images(
        source,
        layout=layout,
        labels=labels,
        fake_is=fake_is,
        size=side,
        max_bad=max_bad,
        require_classes=False,
        group_by=group_by,
    )
    facts = describe(images)
    facts["sizes"] = sizes or facts["sizes"]
    facts["compared_at"] = images.size[0] if side else None
    if as_json:
        print_json(facts)
    else:
        print_data_info(facts)


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Which set: cifake.")],
    dest: Annotated[Path, typer.Option("--to", help="Folder to put it in.")] = Path("data/cifake"),
    quiet: Quiet = False,
) -> None:
    """Download a public data set; an interrupted download goes on where it stopped."""
    from robustbench_df.cli.console import reporting
    from robustbench_df.data.fetch import fetch_cifake
    from robustbench_df.errors import UsageError, nearest

    if name != "cifake":
        raise UsageError(f"unknown data set '{name}'{nearest(name, ['cifake'])}; choose cifake")
    with reporting(quiet) as reporter:
        path = fetch_cifake(dest, progress=DownloadProgress(reporter))
    typer.echo(str(path))


class DownloadProgress:
    """Translate ``(bytes so far, total bytes)`` into calls of a reporter's start and advance."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._done = reporter, -1

    def __call__(self, done: int, total: int | None) -> None:
        """Report the state of the download."""
        if self._done < 0:
            self._reporter.start("downloading", total, done, unit=BYTES)
        else:
            self._reporter.advance(done - self._done)
        self._done = done
