"""Options that several commands share, and functions that interpret them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustbench_df.errors import UsageError, nearest

if TYPE_CHECKING:
    from robustbench_df.progress import Reporter
    from robustbench_df.run import Run
    from robustbench_df.rundir import RunDir


def one_of(*choices: str) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Return a callback that checks that an option is one of these words; a wrong one is an error of one line."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in choices:
            known = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise UsageError(f"{param.opts[0]} takes {known}, not '{value}'{nearest(value, choices)}")
        return value

    return check


DEVICE = typer.Option(help="auto, cpu, cuda, cuda:N or mps.")
SEED = typer.Option(help="Key of all randomness.")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and results only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
RunPath = Annotated[Path | None, typer.Option("--run", help="Run folder; the latest one when not given.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A detector, ensemble, or all (default). May be repeated.")
]
Phase = Annotated[str | None, typer.Option(help="base or final; as shipped if none.", callback=one_of("base", "final"))]
Part = Annotated[
    str,
    typer.Option(
        "--split",
        help="test, oof (out of fold), cal, val, or auto: the first of these in the run.",
        callback=one_of("auto", "test", "oof", "cal", "val"),
    ),
]
Device = Annotated[str, DEVICE]
Seed = Annotated[int, SEED]
Layout = Annotated[str, typer.Option(help="auto, folders, challenge, manifest or unlabelled.")]
Labels = Annotated[
    Literal["folder", "predictions"], typer.Option(help="What is learnt: folder labels, or a black box's predictions.")
]
GroupBy = Annotated[
    Literal["folder"] | None,
    typer.Option(help="folder: keep each lowest folder (a video's frames, a person) in one part."),
]
FakeIs = Annotated[int | None, typer.Option(min=0, max=1, help="Which of 0/1 means fake in a manifest (default 1).")]
Size = Annotated[int | None, typer.Option(min=8, help="Bring every image to this side in pixels.")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Largest share of unreadable images to go on with.")]


def given(**values: Any) -> dict[str, Any]:
    """Keep the options that were given; nested names (``data__size``) become nested tables."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == ():
            continue
        table, _, key = name.partition("__")
        if key:
            out.setdefault(table, {})[key] = value
        else:
            out[table] = value
    return out


def chosen(models: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names given with ``--model``, each once; empty, which means all, if none or ``all`` was given."""
    return () if "all" in (models or ()) else tuple(dict.fromkeys(models or ()))


def find_latest(run: Path | None, reporter: Reporter) -> RunDir:
    """Return the run that ``--run`` names; without it, choose the latest (a finished one if possible) and report it.

    Raises:
        RunError: there is no such run, or no run at all.
    """
    from robustbench_df.rundir import find_run

    found = find_run(run, finished=True)
    if run is None:
        reporter.say(f"using the latest run, {found.path}")
    return found


def open_latest(run: Path | None, reporter: Reporter) -> Run:
    """Open the run that `find_latest` returns.

    Raises:
        RunError: there is no such run, or it was written by a version with another schema.
    """
    from robustbench_df.run import open_run

    return open_run(find_latest(run, reporter).path)
