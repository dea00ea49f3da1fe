"""``rdf experiment``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_df.cli.options import AsJson, Device, Quiet


def experiment(
    name: Annotated[str | None, typer.Argument(help="A folder of experiments/; without it they are listed.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The demo set and small budgets, to look at.")] = False,
    data: Annotated[str | None, typer.Option(help="The images; else the config's archive in $RDF_DATA.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Run every cell so often; else the config's number.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Forget finished cells, or keep them.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Run so many cells, leave the rest for another call.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; else reports/experiments/NAME.")] = None,
    device: Device = "auto",
    readme: Annotated[bool, typer.Option("--readme", help="Write the results into the README files.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run an ablation or a bench of experiments/, cell by cell; a finished cell is never run again."""
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.experiment import run_experiment
    from robustbench_df.experiment_folder import open_experiment
    from robustbench_df.experiment_readme import write_readmes
    from robustbench_df.experiment_results import read_json

    if readme:
        for path in write_readmes():
            typer.echo(f"written: {path}")
        return
    if name is None:
        _list()
        return
    with reporting(quiet or as_json) as reporter:
        opened = open_experiment(name, quick=quick)
        done = run_experiment(
            opened,
            data,
            quick=quick,
            seeds=seeds,
            out=out,
            fresh=fresh,
            limit=limit,
            device=device,
            reporter=reporter,
        )
    results = read_json(done.out / "results.json")
    if as_json:
        print_json(results)
    else:
        _print(results, done)
    if done.failed:
        raise typer.Exit(1)


def experiment_main(script: str) -> None:
    """Run ``rdf experiment`` with the folder of ``script``; a ``run.py`` calls this in its last line."""
    from robustbench_df.cli import main

    sys.argv[1:] = ["experiment", str(Path(script).parent), *sys.argv[1:]]
    main()


def _list() -> None:
    from rich.table import Table
    from rich.text import Text

    from robustbench_df.cli.console import out
    from robustbench_df.errors import UsageError
    from robustbench_df.experiment import REPORTS
    from robustbench_df.experiment_folder import EXPERIMENTS, find_experiments, question
    from robustbench_df.experiment_results import kept_results

    found = find_experiments()
    if not found:
        raise UsageError(f"there is no folder '{EXPERIMENTS}' with experiments here; change to a checkout's root")
    table = Table()
    for column in ("experiment", "question", "measured"):
        table.add_column(column, no_wrap=column != "question")
    for name, folder in found.items():
        results = kept_results(REPORTS / name)
        when = str(results["finished"] or "not run")[:10] if results else "not run"
        table.add_row(Text(name), Text(question(folder)), Text(when, style="" if results else "dim"))
    out.print(table)


def _print(results: dict[str, Any], done: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from robustbench_df.cli.console import out
    from robustbench_df.experiment_results import table_of

    head, *lines = table_of(results)
    data = results["data"]
    table = Table(title=Text(f"{results['name']}: {results['question']}"), title_justify="left")
    for k, column in enumerate(head):
        table.add_column(Text(column), no_wrap=k == 0)
    for line in lines:
        table.add_row(*(Text(word, style="dim" if word == "not run" else "") for word in line))
    out.print(table)
    out.print(
        Text(
            f"{data['source']}, {data['images']:,} images, {results['seeds']} seed(s), {results['cells_run']} of "
            f"{results['cells']} cells, {results['seconds']:,.0f} s; shares: mean [95% over images] (range over seeds)"
        )
    )
    for line in results["said"]:
        out.print(Text(line))
    for title, error in done.failed.items():
        out.print(Text(f"failed: {title}: {error}", style="red"))
    if done.kept:
        machines = ", ".join(dict.fromkeys(h["processor"] for h in results["hardware"]))
        when = str(results["finished"])[:10]
        known = f"{done.kept} cells were finished before (until {when}, on {machines}): --fresh measures them again"
        out.print(Text(known, style="yellow"))
    if done.waiting:
        out.print(Text(f"{done.waiting} cells wait: go on with the same command", style="yellow"))
    out.print(Text(f"results in {done.out}", style="dim"))
