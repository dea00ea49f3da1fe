"""``rdf predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_df.cli.options import AsJson, Device, Layout, MaxBad, Phase, Quiet, RunPath, Size, open_latest

if TYPE_CHECKING:
    from robustbench_df.predicting import Predicted


def predict(
    source: Annotated[str, typer.Argument(help="Folder, zip, manifest or one image.")],
    run: RunPath = None,
    model: Annotated[str, typer.Option(help="A detector's name, 'ensemble', or 'ensemble-uniform' …")] = "ensemble",
    phase: Phase = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average over fixed views (flip, shift, scale, light).")] = False,
    refit: Annotated[bool | None, typer.Option(help="Use the detectors refitted on everything, if any.")] = None,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="Also say which labels are possible: real, fake, both or neither (csv).")
    ] = False,
    form: Annotated[
        list[str] | None, typer.Option(help="challenge, probability, confidence, csv; all that fit if none.")
    ] = None,
    pack: Annotated[bool, typer.Option("--zip", help="Also write submission.zip.")] = False,
    to: Annotated[Path | None, typer.Option(help="Folder for the files; in the run when not given.")] = None,
    part: Annotated[str, typer.Option(help="auto (unlabelled images if any), all or unlabelled.")] = "auto",
    layout: Layout = "auto",
    size: Size = None,
    max_bad: MaxBad = 0.05,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Predict real or fake for new images with a trained run, each answer under its own image's name."""
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.predicting import PredictPlan, predict_source
    from robustbench_df.settings import validated

    plan = validated(
        PredictPlan,
        {
            "model": model,
            "phase": phase,
            "tta": tta,
            "refit": refit,
            "abstain": abstain,
            "forms": tuple(form or ()),
            "pack": pack,
            "part": part,
            "layout": layout,
            "size": size,
            "max_bad": max_bad,
            "device": device,
        },
    )
    with reporting(quiet or as_json) as reporter:
        opened = open_latest(run, reporter)
        made = predict_source(opened, source, plan, to, reporter)
    verdicts = made.verdicts
    if as_json:
        facts = {
            "run": str(opened.path),
            "images": len(verdicts.ids),
            "findings": made.findings,
            "fake": verdicts.fakes,
            "refit": made.refit,
            **({"abstained": verdicts.abstained, "abstention_band": made.band.to_dict()} if made.band else {}),
            "files": [str(p) for p in made.files],
        }
        print_json(facts)
    else:
        _print(made, plain=not (tta or made.refit))


def _print(made: Predicted, *, plain: bool) -> None:
    """Print the counts and where the files are; ``plain``: without --tta and without --refit."""
    said, band = made.verdicts, made.band
    n, fakes = len(said.ids), said.fakes
    typer.echo(f"{n} images: {fakes} fake, {n - fakes} real")
    if band:
        typer.echo(
            f"{said.abstained} of them abstained from (column possible of the csv): both labels or neither, by "
            f"a band for an error of {band.alpha:.0%} in either class, fitted on {band.n} images ({band.fitted_on})"
            + ("" if plain else ", without --tta or --refit")
        )
    for path in made.files:
        typer.echo(str(path))
