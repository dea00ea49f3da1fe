"""``rdf train-all``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_df.cli.options import DEVICE, SEED, AsJson, FakeIs, GroupBy, Quiet, Size, given

RunFolder = Annotated[Path | None, typer.Option("--run", help="Folder for the run; runs/<time>-… when not given.")]


def train_all(
    source: Annotated[str | None, typer.Option("--data", help="Folder, zip or manifest; the demo set if none.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="full (default), pretrained (ImageNet weights), quick, robust, seed (the published recipe)."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings on top of the preset.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. phase1.lr=3e-4.")] = None,
    models: Annotated[str | None, typer.Option(help="Comma-separated names; see rdf list models.")] = None,
    run: RunFolder = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped run (--run, or the latest).")] = False,
    folds: Annotated[int | None, typer.Option(min=1, max=20, help="Train K times, judge out of fold.")] = None,
    refit: Annotated[bool | None, typer.Option("--refit", help="Also train once more on everything.")] = None,
    seed: Annotated[int | None, SEED] = None,
    stem: Annotated[str | None, typer.Option(help="auto, native or small.")] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(help="ImageNet weights: never, auto (where they can be had), required; see --preset pretrained."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Start from a weight file (one model only).")] = None,
    objective: Annotated[
        str | None, typer.Option(help="Phase 2: fgsm (the recipe), fast, free, pgd or trades.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="corruption: noise and JPEG in half of the images; blur stays held out.")
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Detectors trained at the same time on a CPU; decided if not given.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="auto, folders, challenge or manifest.")] = None,
    labels: Annotated[str | None, typer.Option(help="Learn 'folder' labels or a black box's 'predictions'.")] = None,
    fake_is: FakeIs = None,
    size: Size = None,
    group_by: GroupBy = None,
    max_bad: Annotated[float | None, typer.Option(min=0, max=1, help="Largest share of unreadable images.")] = None,
    allow_findings: Annotated[
        bool, typer.Option("--allow-findings", help="Train although the audit fails; the run will say so.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train every detector in two phases, weigh them into an ensemble, judge it, and keep it all in a run folder."""
    from robustbench_df.config import load_config
    from robustbench_df.errors import RunError, UsageError
    from robustbench_df.preflight import resume_config
    from robustbench_df.run import open_run

    if augment not in (None, "corruption"):
        raise UsageError(
            f"unknown augmentation '{augment}'; --augment takes corruption, --set augment.KEY=… the others"
        )
    values = given(
        seed=seed,
        refit=refit,
        allow_findings=allow_findings or None,
        models=tuple(name.strip() for name in models.split(",")) if models else None,
        data__source=source,
        data__layout=layout,
        data__labels=labels,
        data__fake_is=fake_is,
        data__size=size,
        data__max_bad=max_bad,
        data__group_by=group_by,
        split__folds=folds,
        model__stem=stem,
        model__pretrained=pretrained,
        model__weights=weights,
        phase2__objective=objective,
        augment__corruption=0.5 if augment else None,
        speed__device=device,
    )
    if resume:
        found = open_run(run, finished=False)
        if overrides or config or preset:
            raise UsageError("--resume goes on with the run's own settings; leave out --preset, --set and --config")
        if found.finished and found.whole:
            raise RunError(f"run '{found.path}' is finished; predict with: rdf predict SOURCE --run {found.path}")
        _work(resume_config(found, values), found.path, jobs, quiet=quiet, as_json=as_json, resume=True)
        return
    settings = load_config(preset or "full", config, overrides or (), **values)
    if settings.model.weights is not None and len(settings.models) > 1:
        raise UsageError("--weights starts one model; name it with --models")
    _work(settings, run, jobs, quiet=quiet, as_json=as_json)


def _work(
    config: Any, path: Path | None, jobs: int | None, *, quiet: bool, as_json: bool, resume: bool = False
) -> None:
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.cli.tables import print_summary, summary_json
    from robustbench_df.pipeline import train_all as train

    with reporting(quiet or as_json) as reporter:
        run = train(config, path, resume=resume, jobs=jobs, reporter=reporter)
    if as_json:
        print_json(summary_json(run))
    else:
        print_summary(run)
