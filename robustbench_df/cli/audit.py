"""``rdf audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson, FakeIs, GroupBy, Labels, Layout, MaxBad, Quiet, Size


def audit(
    source: Annotated[
        str | None, typer.Argument(help="Folder, zip or manifest; the run's images, or the demo set, if none.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Another source: shared images, and do the labels agree?")] = None,
    run: Annotated[Path | None, typer.Option(help="A run: did anything it was judged on leak into training?")] = None,
    predictions: Annotated[Path | None, typer.Option(help="A submission: JSON, CSV or zip, as rdf predict.")] = None,
    truth: Annotated[Path | None, typer.Option(help="The true labels for --predictions, as for rdf score.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Only what takes seconds: what train-all looks at.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when a finding fails.")] = False,
    layout: Layout = "auto",
    labels: Labels = "folder",
    fake_is: FakeIs = None,
    size: Size = None,
    group_by: GroupBy = None,
    max_bad: MaxBad = 0.05,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find what would make a score a lie: copies, wrong labels, shortcuts, leaks, a garbled submission."""
    from robustbench_df.audit.front import audit_images
    from robustbench_df.audit.gate import keep_audit
    from robustbench_df.cli.audit_tables import audit_json, print_audit
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.data.sources import load_images
    from robustbench_df.errors import UsageError
    from robustbench_df.run import open_run

    if truth is not None and predictions is None:
        raise UsageError("--truth belongs to a submission; name it with --predictions")
    with reporting(quiet or as_json) as reporter:
        opened = open_run(run) if run is not None else None
        if source is None and opened is not None:
            images = opened.images()
        else:
            # Do not refuse the images for problems that the audit itself reports, such as a missing class.
            images = load_images(
                source,
                layout=layout,
                labels=labels,
                fake_is=fake_is,
                size=size,
                max_bad=max_bad,
                require_classes=False,
                group_by=group_by,
            )
        other = None
        if against is not None:
            other = load_images(against, fake_is=fake_is, size=size, max_bad=max_bad, require_classes=False)
        found = audit_images(
            images,
            other,
            run=opened,
            predictions=predictions,
            truth=truth,
            fake_is=fake_is,
            fast=fast,
            progress=reporter.say,
        )
        if opened is not None:
            keep_audit(opened, found)
            reporter.say(f"kept in {opened.file('audit.json')}")
    if as_json:
        print_json(audit_json(found))
    else:
        print_audit(found)
    if strict and found.severity == "fail":
        raise typer.Exit(1)
