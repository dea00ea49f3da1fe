"""``rdf bench``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robustbench_df.cli.options import AsJson, Device, Models, Phase, Quiet, RunPath, chosen, open_latest


def bench(
    models: Models = None,
    phase: Phase = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per call; 1, 8, 32, 128, 256 if none. May be repeated.")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Also torch.compile, which takes minutes.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="About so long in all; what does not fit is not run.")] = 100.0,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's own choice if none.")] = None,
    run: RunPath = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time a run's detectors on this machine: latency and throughput in every way there is to run them."""
    from robustbench_df.benching import BenchPlan, bench_run
    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.settings import validated

    plan = validated(
        BenchPlan,
        {
            "models": chosen(models),
            "phase": phase,
            **({"batches": tuple(batch)} if batch else {}),
            "compiled": compiled,
            "seconds": seconds,
            "device": device,
            "threads": threads,
        },
    )
    with reporting(quiet or as_json) as reporter:
        facts = bench_run(open_latest(run, reporter), plan, reporter)
    if as_json:
        print_json(facts)
        return
    _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from robustbench_df.cli.console import out

    batches = sorted({row["batch"] for row in facts["rows"]})
    for model in dict.fromkeys(row["model"] for row in facts["rows"]):
        rows = [row for row in facts["rows"] if row["model"] == model]
        table = Table("way", title=f"{model}, {facts['phase']}: ms per call", title_justify="left")
        for heading in ("MiB", f"working MiB at {facts['memory_batch']}", *(f"batch {b}" for b in batches)):
            table.add_column(heading, justify="right")
        reasons = {}
        for way in dict.fromkeys(row["way"] for row in rows):
            cells = {row["batch"]: row for row in rows if row["way"] == way}
            known = next((row for row in cells.values() if "not_run" not in row), None)
            reasons.update({f"{way}, batch {b}": row["not_run"] for b, row in cells.items() if "not_run" in row})
            table.add_row(
                way,
                "" if known is None else _mib(known["weights_bytes"]),
                "" if known is None else _mib(known["memory_bytes"]),
                *(_cell(cells[b]) for b in batches),
            )
        out.print(table)
        for reason in dict.fromkeys(reasons.values()):
            where = [name for name, text in reasons.items() if text == reason]
            typer.echo(f"not run: {'; '.join(where)}: {reason}")
    hardware, versions = facts["hardware"], facts["versions"]
    typer.echo("A cell: median ms per call (95th percentile of 20 calls or more), images/s, × faster than fp32.")
    typer.echo("fp32 is eager torch, NCHW. Ways are timed in turn; × is the median of the rounds' ratios.")
    typer.echo(
        f"{hardware['processor']}, {hardware['threads']} threads, {hardware['device']}; torch {versions['torch']}, "
        f"onnxruntime {versions['onnxruntime'] or 'not installed'}"
    )


def _mib(size: int | None) -> str:
    return "not known" if size is None else f"{size / 2**20:.1f}"


def _cell(row: dict[str, Any]) -> str:
    if "not_run" in row:
        return "not run"
    tail = "" if row["p95_ms"] is None else f" ({row['p95_ms']:.3g})"
    return f"{row['median_ms']:.3g}{tail} {row['images_per_second']:.0f}/s ×{row['times_faster']:.2f}"
