"""Tables of ``rdf attack`` for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from robustbench_df.attack_plan import Cell
from robustbench_df.attacks.summary import summarise
from robustbench_df.cli.audit_tables import print_allowed
from robustbench_df.cli.console import out
from robustbench_df.run import Run
from robustbench_df.wording import figure, interval

_STYLES = {"fail": "bold red", "warn": "yellow", "pass": "green", "not run": "dim"}


def rows_json(run: Run, cells: list[Cell]) -> list[dict[str, Any]]:
    """Return one entry per cell, for `console.print_json`."""

    rows = []
    for cell in cells:
        predictions = cell.load(run)
        head = {"model": cell.model, "phase": cell.phase, "attack": cell.attack_name, "norm": cell.threat.norm}
        rows.append(
            {
                **head,
                "eps": cell.threat.eps,
                **summarise(predictions.table, run.groups),
                "seconds": predictions.notes.get("seconds"),
                "file": str(cell.path),
            }
        )
    return rows


def print_attacks(run: Run, cells: list[Cell]) -> None:
    """Print one table per attack and budget."""
    shipped = run.shipped["phase"]
    seen = list(dict.fromkeys((cell.attack_name, cell.threat) for cell in cells))
    for name, threat in seen:
        chosen = [cell for cell in cells if (cell.attack_name, cell.threat) == (name, threat)]
        part = str(chosen[0].load(run).table["part"].iloc[0])
        table = Table(title=f"{name}, {threat}: {part} images of {run.name}, 95% intervals", title_justify="left")
        table.add_column("detector", no_wrap=True)
        table.add_column("phase")
        headings = (
            "clean",
            "under attack",
            "AUC after",
            "fake→real",
            "real→fake",
            "F + B per image",
            "n",
            "s",
        )
        for heading in headings:
            table.add_column(heading, justify="right")
        for cell in chosen:
            predictions = cell.load(run)
            s = summarise(predictions.table, run.groups)
            is_shipped = cell.model == "ensemble" and cell.phase == shipped
            share = s["accuracy"]
            table.add_row(
                cell.model + (" ◀ ship" if is_shipped else ""),
                cell.phase,
                figure(s["clean_accuracy"].value, ".1%"),
                interval(share.value, share.low, share.high, ".1%"),
                figure(s["auc"].value, ".3f"),
                figure(s["fake_to_real"].value, ".1%"),
                figure(s["real_to_fake"].value, ".1%"),
                f"{s['forwards']:.1f} + {s['backwards']:.1f}",
                str(s["n"]),
                f"{predictions.notes.get('seconds', float('nan')):.1f}",
                style="bold" if is_shipped else "",
            )
        out.print(table)
    grouped = any(run.groups.values())
    method = "a bootstrap of whole groups, whose images err together" if grouped else "Wilson"
    lines = (
        "Attacked as deployed, with the calibrated threshold; the ensemble as one. Only images that are right when "
        "clean are attacked, each ends at its first success, and any image the attack asked about counts.",
        "fake→real: share of the rightly recognised fakes that the attack passed off as real. "
        "F, B: forwards and backwards through the detector.",
        f"Interval of the accuracy under attack: {method}.",
    )
    for line in lines:
        out.print(Text(line))
    if run.folds > 1:
        out.print(
            Text(
                "Detectors have not seen the images they are judged on; the decision is the shipped one, fitted on all."
            )
        )
    print_allowed(run)
    out.print(Text(f"Cells: {run.file('attacks')}"))


def print_transfer(matrix: dict[str, Any]) -> None:
    """Print accuracy by detector that images were crafted on × detector that they were scored on."""
    names = list(matrix["scored_on"])
    table = Table(
        title=f"Transfer, {matrix['threat']}: accuracy of the column on {matrix['n']} images crafted on the row",
        title_justify="left",
    )
    table.add_column("crafted on", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for crafted, row in matrix["accuracy"].items():
        table.add_row(crafted, *(f"{row[name]:.1%}" for name in names))
    out.print(table)


def print_checks(findings: dict[str, list[dict[str, Any]]]) -> None:
    """Print the checks of each detector, the worst first."""
    order = ["fail", "warn", "not run", "pass"]
    for name, found in findings.items():
        table = Table(title=f"Can the number be believed? {name}", title_justify="left", show_lines=False)
        table.add_column("")
        table.add_column("check", no_wrap=True)
        table.add_column("what was seen")
        for check in sorted(found, key=lambda c: order.index(c["status"])):
            detail = check["detail"] + (f" → {check['remedy']}" if check["remedy"] else "")
            table.add_row(Text(check["status"], style=_STYLES[check["status"]]), check["id"], detail)
        out.print(table)
