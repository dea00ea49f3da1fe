"""``rdf export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustbench_df.cli.options import AsJson, Phase, Quiet, RunPath, open_latest
from robustbench_df.wording import interval

MOST_LOST = 0.005
"""Largest loss of accuracy by int8 that is not yet a warning."""


def export(
    model: Annotated[str, typer.Option(help="A detector's name, or ensemble: the shipped one.")] = "ensemble",
    form: Annotated[
        Literal["onnx", "exported-program"], typer.Option("--format", help="onnx, or exported-program (torch.export).")
    ] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to int8, and judge what it costs.")] = False,
    phase: Phase = None,
    refit: Annotated[bool | None, typer.Option(help="Use the detectors refitted on everything, if any.")] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Most images on which int8 is judged; 0 takes all.")] = 500,
    attacked: Annotated[int, typer.Option(min=0, help="How many of them are also attacked.")] = 100,
    to: Annotated[Path | None, typer.Option(help="The file; in the run's exports/ when not given.")] = None,
    run: RunPath = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a detector as a file that runs without this package, checked against it, with its decision beside it."""
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.deploy.fidelity import FidelityPlan
    from robustbench_df.exporting import ExportPlan, export_run
    from robustbench_df.settings import validated

    with reporting(quiet or as_json) as reporter:
        opened = open_latest(run, reporter)
        plan = validated(
            ExportPlan,
            {
                "model": model,
                "phase": phase,
                "form": form,
                "int8": int8,
                "refit": opened.refitted if refit is None else refit,
                "judged": FidelityPlan(images=n, attacked=attacked),
            },
        )
        made = export_run(opened, plan, to, reporter)
        if int8:
            lost = -made.facts["int8"]["conditions"]["clean"]["difference"]["difference"]
            if lost > MOST_LOST:
                reporter.warn(f"int8 loses {lost * 100:.1f} percentage points of accuracy; the float32 file loses none")
    if as_json:
        print_json({"path": str(made.path), **made.facts})
        return
    _print(made.path, made.sidecar, made.facts)


def _print(path: Path, sidecar: Path, facts: dict[str, Any]) -> None:
    checked = facts["checked"]
    typer.echo(
        f"float32 against the detector: logits differ by at most {checked['largest_difference']:.1e} on "
        f"{checked['images']} images"
    )
    if "int8" in facts:
        _print_int8(facts["int8"])
    typer.echo(f"{path} ({facts['bytes'] / 2**20:.1f} MiB)")
    typer.echo(f"{sidecar}: input, output, temperature and threshold")


def _print_int8(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from robustbench_df.cli.console import out

    n = facts["conditions"]["clean"]["int8"]["n"]
    title = f"int8 against float32: accuracy on {facts['part']} images that no detector was trained on, 95% intervals"
    table = Table("condition", title=title, title_justify="left")
    for heading in ("n", "float32 (Wilson)", "int8 (Wilson)", "int8 − float32 (McNemar)", "changed"):
        table.add_column(heading, justify="right")
    for name, row in facts["conditions"].items():
        before, after, change = row["float32"], row["int8"], row["difference"]
        table.add_row(
            name,
            str(after["n"]),
            *(interval(v["value"], v["low"], v["high"], ".1%") for v in (before, after)),
            interval(100 * change["difference"], 100 * change["low"], 100 * change["high"], "+.1f") + " pp",
            str(row["verdicts_changed"]),
        )
    out.print(table)
    if len(facts["conditions"]) > 1:
        typer.echo(
            "Attacked images are crafted on float32 and shown to both: for int8, which has no gradient, that is "
            "transfer from a near copy."
        )
    typer.echo(f"calibrated on {facts['recipe']['calibrated_on']}; {n} others judged")
