"""``rdf corrupt``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustbench_df.cli.options import AsJson, Device, Models, Part, Quiet, RunPath, Seed, chosen, one_of, open_latest


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
    models: Models = None,
    phase: Annotated[
        str,
        typer.Option(
            help="base, final, or auto: detectors after clean training, the ensemble as shipped.",
            callback=one_of("base", "final", "auto"),
        ),
    ] = "auto",
    reference: Annotated[
        str | None, typer.Option(help="The detector whose errors are 100% in mCE; the first one when not given.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="Most images, evenly spaced; 0 takes all.")] = 400,
    part: Part = "auto",
    run: RunPath = None,
    seed: Seed = 0,
    device: Device = "auto",
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
    from robustbench_df.settings import validated

    with reporting(quiet or as_json) as reporter:
        opened = open_latest(run, reporter)
        wanted = list(chosen(models)) or [*opened.models, "ensemble"]
        if reference is not None:
            wanted.append(reference)  # it is always needed, and a misspelt name is then refused before any work
        plan = validated(
            CorruptionPlan,
            {
                # With only --chain, no single corruption is run.
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
        cells = corrupt_run(opened, plan, reporter)
    if as_json:
        print_json(facts_json(opened, cells, reference))
    else:
        print_corruptions(opened, cells, reference)
