"""Training curves of both phases, from the recorded training histories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_df.errors import RunError
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.reading import PHASES
from robustbench_df.report.document import Block, Curves, Series, Text

Rows = list[dict[str, Any]]


def curves(facts: Facts) -> list[Block]:
    """Return loss, accuracy and AUC over the epochs, phase 2 after phase 1; a sentence if there is no history."""
    histories = {name: _history(facts, name) for name in facts.models}
    if not any(any(folds) for history in histories.values() for folds in history.values()):
        return [Text(f"Training curves: not run. {facts.material.command('train-all --resume')}")]
    drawn = [
        ("training-loss", "Loss in training", {"loss": ""}, "loss on training images", False),
        ("training-accuracy", "Accuracy on val", {"val_accuracy": ""}, "accuracy", True),
        ("training-auc", "AUC on val", {"val_auc": ""}, "AUC", True),
    ]
    attacked = {
        f"val_{attack}_accuracy": f", {attack.upper()}"
        for attack in ("fgsm", "pgd")
        if any(f"val_{attack}_accuracy" in row for h in histories.values() for f in h["final"] for row in f)
    }
    if attacked:
        eps = facts.material.config.phase2.select_epsilon
        title = f"Accuracy on val under attack, ε = {eps:g}"
        drawn.append(("training-attacked", title, attacked, "accuracy", True))
    return [figure for one in drawn if (figure := _figure(*one, histories=histories))]


def _history(facts: Facts, name: str) -> dict[str, list[Rows]]:
    """Epochs by phase and fold."""
    run = facts.material.run
    folds = run.folds if facts.material.split is not None else 1
    found: dict[str, list[Rows]] = {}
    for phase in PHASES:
        paths = [run.model_dir(name, k if folds > 1 else None) / f"{phase}-history.jsonl" for k in range(folds)]
        found[phase] = []
        for path in paths:
            if path.exists():
                try:
                    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise RunError(f"'{path}' is damaged: {error}; delete it to leave its curve out") from error
                found[phase].append(rows)
    return found


def _figure(
    id: str,
    title: str,
    wanted: Mapping[str, str],
    y_label: str,
    percent: bool,
    *,
    histories: Mapping[str, Mapping[str, Sequence[Rows]]],
) -> Curves | None:
    series: list[Series] = []
    for name, history in histories.items():
        for column, word in wanted.items():
            x, y = _joined(history, column)
            if any(value is not None for value in y):
                series.append(Series(f"{name}{word}", x, y))
    if not series:
        return None
    folds = max(len(folds) for history in histories.values() for folds in history.values())
    mean = f" Means over {folds} folds." if folds > 1 else ""
    names = ", ".join(one.name for one in series)
    return Curves(
        id=id,
        title=title,
        alt=f"{title} over epochs, phase 2 after phase 1: {names}.",
        x_label="epoch (the gap: phase 2 begins)",
        y_label=y_label,
        series=series,
        percent=percent,
        note=f"Phase 2 begins anew from phase 1's checkpoint.{mean}",
    )


def _joined(history: Mapping[str, Sequence[Rows]], column: str) -> tuple[list[float], list[float | None]]:
    """Mean per epoch over the folds that reached it, phase after phase with a gap between them."""
    x: list[float] = []
    y: list[float | None] = []
    for phase in PHASES:
        values = _means(history[phase], column)
        if x and values:
            x.append(x[-1])  # a point without a value, which breaks the line
            y.append(None)
        begin = int(x[-1]) if x else 0
        x += [float(begin + k) for k in range(1, len(values) + 1)]
        y += values
    return x, y


def _means(folds: Sequence[Rows], column: str) -> list[float | None]:
    longest = max((len(rows) for rows in folds), default=0)
    out: list[float | None] = []
    for epoch in range(longest):
        known = [rows[epoch][column] for rows in folds if epoch < len(rows) and rows[epoch].get(column) is not None]
        out.append(round(sum(known) / len(known), 6) if known else None)
    return out
