"""``rdf explain``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_df.cli.options import AsJson, Device, Models, Part, Quiet, RunPath, Seed, chosen, one_of, open_latest
from robustbench_df.wording import figure, interval

if TYPE_CHECKING:
    from robustbench_df.run import Run


def explain(
    models: Models = None,
    n: Annotated[
        int, typer.Option("--n", min=1, help="Images to explain: a quarter each right, wrong, attacked, corrupted.")
    ] = 8,
    cam: Annotated[str, typer.Option(help="gradcam, gradcam++, xgradcam, hirescam, layercam, eigencam …")] = "gradcam",
    eps: Annotated[str, typer.Option(help="FGSM's budget for the attacked images: 0.05 or 8/255.")] = "0.05",
    corruption: Annotated[str, typer.Option(help="What the corrupted images suffer.")] = "jpeg_compression",
    severity: Annotated[int, typer.Option(help="How badly, 1 to 5.")] = 3,
    phase: Annotated[
        str, typer.Option(help="base, final, or auto: as shipped.", callback=one_of("base", "final", "auto"))
    ] = "auto",
    measured: Annotated[int, typer.Option(min=1, help="Images on which the maps themselves are checked.")] = 48,
    part: Part = "auto",
    run: RunPath = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Draw where detectors and ensemble look, check that the maps mean something, and collect telling images."""
    from robustbench_df.attacks.threat import Threat, parse_eps
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.explain import ExplainPlan
    from robustbench_df.explain import explain as work
    from robustbench_df.settings import validated

    plan = validated(
        ExplainPlan,
        {
            "models": chosen(models),
            "images": n,
            "measured": measured,
            "cam": cam,
            "eps": Threat("linf", parse_eps(eps)).eps,
            "corruption": corruption,
            "severity": severity,
            "phase": phase,
            "part": part,
            "seed": seed,
            "device": device,
        },
    )
    with reporting(quiet or as_json) as reporter:
        opened = open_latest(run, reporter)
        explained = work(opened, plan, reporter)
    if as_json:
        print_json(explained)
    else:
        _print(opened, explained)


def _print(run: Run, explained: dict[str, Any]) -> None:
    """Print how far the maps can be trusted, and where they are."""
    from rich.table import Table
    from rich.text import Text

    from robustbench_df.cli.audit_tables import print_allowed
    from robustbench_df.cli.console import out

    shown = explained["images"]
    table = Table(
        title=f"{run.name}: {explained['cam']} of {len(shown)} {explained['part']} images", title_justify="left"
    )
    for heading in ("detector", "phase", "layer"):
        table.add_column(heading, no_wrap=heading != "layer")
    for heading in ("cells", "rank correlation", "extra drop (bootstrap, 95%)", "blank"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in explained["detectors"]:
        sanity, drop = row["sanity"], row["faithfulness"]
        table.add_row(
            row["model"],
            row["phase"],
            row["layer"],
            "×".join(map(str, row["size"])),
            figure(sanity["correlation"], ".2f") + (" passed" if sanity["passed"] else " FAILED"),
            interval(drop["value"], drop["low"], drop["high"], ".3f"),
            f"{row['blank']} of {row['maps']}",
        )
    out.print(table)
    if explained["detectors"]:
        out.print(
            Text(
                "rank correlation: of the maps with those of the same network with random weights, mean of "
                f"{explained['detectors'][0]['sanity']['n']} pairs; near 1 a map shows the image, not what was learnt."
            )
        )
        out.print(Text(f"extra drop: {explained['detectors'][0]['faithfulness']['meaning']}"))
    out.print(Text("blank: maps that are zero everywhere, for nothing in the layer speaks for the verdict."))
    counts = Counter(image["state"] for image in shown)
    out.print(Text("Shown: " + ", ".join(f"{count} {state}" for state, count in counts.items())))
    print_allowed(run)
    out.print(Text(f"Maps: {run.file('explain', 'explain.json')}   pictures: {run.file('explain', 'pictures')}"))
