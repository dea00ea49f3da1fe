"""``rdf corrupt``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson, Quiet, RunPath


def corrupt(
    corruption: Annotated[
        list[str] | None, typer.Option("--corruption", help="A name, all (default), common or web. May be repeated.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option("--severity", help="1 to 5; all five when not given. May be repeated.")
    ] = None,
    constants: Annotated[
        str, typer.Option(help="cifar (made for small images), imagenet, or auto: by the images' size.")
    ] = "auto",
    backend: Annotated[str, typer.Option(help="own, or imagecorruptions: the library itself, slowly.")] = "own",
    chain: Annotated[
        list[str] | None, typer.Option(help="Several in turn, e.g. 'resize:0.7|jpeg:75'. May be repeated.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A detector, ensemble, or all (default). May be repeated.")
    ] = None,
    phase: Annotated[
        str, typer.Option(help="base, final, or auto: detectors after clean training, the ensemble as shipped.")
    ] = "auto",
    reference: Annotated[
        str | None, typer.Option(help="The detector whose errors are 100% in mCE; the first one when not given.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Most images, evenly spaced; 0 takes all.")] = 400,
    part: Annotated[str, typer.Option("--split", help="test, val, oof (out of fold), or auto.")] = "auto",
    run: RunPath = None,
    seed: Annotated[int, typer.Option(help="Key of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, or auto: bf16 where it is faster here and says the same of clean images.")
    ] = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Judge a run's detectors and ensemble on corrupted images: what fails, the ranking or the threshold?"""
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.cli.corrupt_tables import facts_json, print_corruptions
    from robustbench_df.corruption_grid import corrupt_run
    from robustbench_df.corruption_plan import CorruptionPlan
    from robustbench_df.run import open_run
    from robustbench_df.settings import validated

    opened = open_run(run, finished=True)
    wanted = [name for name in models or [] if name != "all"] or [*opened.models, "ensemble"]
    if reference is not None:
        wanted.append(reference)  # needed whether asked for or not, and a misspelt one is refused before any work
    plan = validated(
        CorruptionPlan,
        {
            # A chain alone asks for nothing else.
            "corruptions": tuple(corruption or (() if chain else ("all",))),
            **({"severities": tuple(severity)} if severity else {}),
            "chains": tuple(chain or ()),
            "constants": constants,
            "backend": backend,
            "models": tuple(dict.fromkeys(wanted)),
            "phase": phase,
            "part": part,
            "images": n,
            "seed": seed,
            "device": device,
            "precision": precision,
        },
    )
    with reporting(quiet or as_json) as reporter:
        if run is None:
            reporter.say(f"using the latest run, {opened.path}")
        cells = corrupt_run(opened, plan, reporter)
    if as_json:
        print_json(facts_json(opened, cells, reference))
    else:
        print_corruptions(opened, cells, reference)
