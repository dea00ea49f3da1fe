"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and results only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
RunPath = Annotated[Path | None, typer.Option("--run", help="Run folder; the latest one when not given.")]
Part = Annotated[
    str,
    typer.Option("--split", help="test, oof (out of fold), cal, val, or auto: the first of these in the run."),
]
Layout = Annotated[str, typer.Option(help="auto, folders, challenge, manifest or unlabelled.")]
Labels = Annotated[
    Literal["folder", "predictions"], typer.Option(help="What is learnt: folder labels, or a black box's predictions.")
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
