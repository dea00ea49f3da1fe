"""``rdf list``: list the detectors, attacks, corruptions, presets and runs to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, help="List models, presets or runs.")


@app.command("models")
def models(
    timm: Annotated[str | None, typer.Option(help="Also list timm's models that match, e.g. 'resnet*'.")] = None,
) -> None:
    """List the registered detectors; any other of timm's models is 'timm:NAME'."""
    from robustbench_df.models.architectures import MODELS

    for name in MODELS:
        typer.echo(f"{name:22} {MODELS[name].summary}")
    typer.echo(f"{'timm:NAME':22} any model of timm, built for two classes (--timm PATTERN lists them)")
    if timm is not None:
        from timm import list_models

        for name in list_models(timm):
            typer.echo(f"timm:{name}")


@app.command("attacks")
def attacks() -> None:
    """List the attacks and suites, one line each."""
    from robustbench_df.attacks import library
    from robustbench_df.attacks.catalogue import ATTACKS
    from robustbench_df.attacks.suite import SUITES

    for name in ATTACKS:
        entry = ATTACKS[name]
        typer.echo(f"{name:16} {entry.summary}; sees the detector's {entry.access}; {', '.join(entry.norms)}")
    for line in library.available():
        typer.echo(line)
    for name, specs in SUITES.items():
        typer.echo(f"suite {name:10} {', '.join(spec.name for spec in specs)}: each on what the former left standing")


@app.command("corruptions")
def corruptions() -> None:
    """List the corruptions by group, one line each."""
    from robustbench_df.corruptions.catalogue import CORRUPTIONS

    for name in CORRUPTIONS:
        typer.echo(f"{name:20} {CORRUPTIONS[name].group:8} {CORRUPTIONS[name].summary}")


@app.command("presets")
def presets() -> None:
    """List the presets and what each sets."""
    from importlib import resources

    from robustbench_df.config import PRESETS

    for name in PRESETS:
        text = resources.files("robustbench_df").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")
        typer.echo(f"[{name}]\n{text}")


@app.command("runs")
def runs(as_json: AsJson = False) -> None:
    """List the runs under runs/, the oldest first."""
    from robustbench_df.cli.console import print_json
    from robustbench_df.rundir import RUNS, RunDir

    found = [RunDir(p.parent) for p in sorted(RUNS.glob("*/config.json"), key=lambda p: p.stat().st_mtime_ns)]
    if as_json:
        print_json([{"run": str(r.path), "finished": r.finished} for r in found])
    else:
        for run in found:
            typer.echo(f"{run.path}  {'finished' if run.finished else 'unfinished: ' + run.resume_command}")
