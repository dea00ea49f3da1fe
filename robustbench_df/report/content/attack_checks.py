"""The blocks that complement the numbers of attacks: transfer, the checks of the attacks, and black boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from robustbench_df.audit.finding import WORST_FIRST
from robustbench_df.errors import RunError
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.document import Block, Cell, Column, Estimate, Heat, Table, Text
from robustbench_df.wording import counted


def transfer(facts: Facts) -> list[Block]:
    """Return the matrix of `rdf attack --transfer`: images crafted on one detector, scored on another."""
    matrix = facts.material.transfer
    if matrix is None:
        return [Text(f"Transfer between detectors: not run. {facts.material.command('attack --transfer')}")]
    names, crafted = [str(name) for name in matrix["scored_on"]], list(matrix["accuracy"])
    values = [[matrix["accuracy"][a].get(b) for b in names] for a in crafted]
    return [
        Heat(
            id="transfer",
            title="Do attacks carry over? Crafted on the row, scored on the column",
            alt="; ".join(
                f"crafted on {a}: "
                + ", ".join(f"{b} {v:.0%}" for b, v in zip(names, row, strict=True) if v is not None)
                for a, row in zip(crafted, values, strict=True)
            ),
            rows=crafted,
            columns=names,
            values=values,
            label="accuracy",
            note=f"{matrix['threat']}; {counted(int(matrix['n']), 'image')}; phase {matrix['phase']}.",
        )
    ]


def checks(facts: Facts) -> list[Block]:
    """Return the checks of the attacks, the worst first."""
    if not facts.material.checks:
        return [Text(f"Can these numbers be believed? Not run. {facts.material.command('attack --checks all')}")]
    shipped = f"ensemble · {facts.shipped.phase}" if facts.shipped else ""
    found = [(name, check) for name, own in facts.material.checks.items() for check in own]
    kept = [(name, check) for name, check in found if check["status"] != "pass" or name == shipped]
    rows: list[Mapping[str, Cell]] = [
        {
            "status": str(check["status"]),
            "detector": name,
            "check": str(check["id"]),
            "detail": str(check["detail"]),
            "remedy": str(check["remedy"]),
        }
        for name, check in kept
    ]
    order: dict[str, int] = {status: k for k, status in enumerate(WORST_FIRST)}
    rows = sorted(rows, key=lambda row: order.get(str(row["status"]), len(order)))
    columns = [
        Column("detector", "Detector"),
        Column("status", "Status", "verdict"),
        Column("check", "Check"),
        Column("detail", "What was seen"),
        Column("remedy", "What to do"),
    ]
    left = counted(len(found) - len(kept), "pass", "passes")
    note = f"{left} of what does not ship left out; all are in attacks/checks.json." if len(kept) < len(found) else ""
    return [Table("checks-table", "Can the numbers be believed?", columns, rows, note, "status")]


def black_boxes(facts: Facts) -> list[Block]:
    """Return the results of `rdf attack --detector`: attacks on an external black-box detector."""
    rows: list[Mapping[str, Cell]] = []
    for path in sorted(facts.material.run.path.glob("attacks/blackbox-*/result.json")):
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rows += [
                {
                    "detector": str(found["detector"]),
                    "attack": str(row["attack"]),
                    "threat": str(row["threat"]),
                    "clean": float(row["clean_accuracy"]),
                    "accuracy": Estimate(*(row["accuracy"][end] for end in ("value", "low", "high", "n"))),
                    "questions": float(row["questions_per_image"]),
                }
                for row in found["attacks"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{path}' is damaged ({error}); delete its folder and attack again") from error
    columns = [
        Column("detector", "Detector"),
        Column("attack", "Attack"),
        Column("threat", "Budget"),
        Column("clean", "Clean accuracy", "percent", better="higher"),
        Column("accuracy", "Accuracy under attack", "percent", better="higher"),
        Column("questions", "Questions per image", "number", better="higher"),
    ]
    return [Table("black-box-table", "Black boxes", columns, rows)] if rows else []
