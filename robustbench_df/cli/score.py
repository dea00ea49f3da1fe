"""``rdf score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_df.cli.options import AsJson, FakeIs
from robustbench_df.wording import figure

if TYPE_CHECKING:
    from robustbench_df.scoring import Scored


def score(
    predictions: Annotated[
        Path, typer.Argument(help="A file of rdf predict, or a CSV, JSON or zip of ids and answers.")
    ],
    truth: Annotated[Path, typer.Option(help="CSV, JSON, manifest, or a folder or zip of labelled images.")],
    fake_is: FakeIs = None,
    as_json: AsJson = False,
) -> None:
    """Score anyone's prediction file against labels, and say when its ids look mis-ordered."""
    from dataclasses import asdict

    from robustbench_df.cli.console import print_json, reporting
    from robustbench_df.scoring import score_file

    with reporting(quiet=True) as reporter:  # no progress is needed, but warnings are printed
        scored = score_file(predictions, truth, fake_is)
        for line in scored.warnings():
            reporter.warn(line)
    if as_json:
        print_json(asdict(scored) | {"warnings": scored.warnings()})
    else:
        print_scores(scored, f"{predictions.name} against {truth.name}")


def print_scores(scored: Scored, title: str) -> None:
    """Print the table of scores and the confusion matrix."""
    from rich.table import Table
    from rich.text import Text

    from robustbench_df.cli.console import out

    table = Table(title=f"{title}: {scored.n} images", title_justify="left")
    for heading in ("score", "value", "95% interval", "by"):
        table.add_column(heading, justify="left" if heading in ("score", "by") else "right")
    named = {
        "accuracy": scored.accuracy,
        "balanced accuracy": scored.balanced_accuracy,
        "F1 (fake)": scored.f1,
        "AUC": scored.auc,
    }
    for name, value in named.items():
        if value is None:
            table.add_row(name, "not given", "", "the file has no probabilities")
            continue
        form = ".3f" if name == "AUC" else ".1%"
        ends = "undefined" if value.low != value.low else f"{value.low:{form}} to {value.high:{form}}"
        table.add_row(name, figure(value.value, form), ends, value.method)
    out.print(table)
    c = scored.confusion
    out.print(Text(f"real: {c.tn} called real, {c.fp} called fake.  fake: {c.fn} called real, {c.tp} called fake."))
    out.print(
        Text(
            f"Matched by {scored.matched_by}. Verdicts are the file's own; where it gives probabilities alone, fake is "
            "from 0.5 on."
        )
    )
    if scored.unlabelled:
        out.print(Text(f"{scored.unlabelled} images carry no label and are not scored."))
