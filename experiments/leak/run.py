"""The leak, reproduced: a published protocol's faults, one at a time, against images nobody had seen. See README.md."""

from __future__ import annotations

from typing import Any

import protocols
import torch

import robustbench_df as rdf

PROTOCOLS = {
    "split first (right)": lambda lab: protocols.split_first(lab),
    "fault 1: copies before the split": lambda lab: protocols.copy_first(lab),
    "fault 2: training set rebuilt": lambda lab: protocols.rebuilt(protocols.split_first(lab)),
    "70/30, true labels (right)": lambda lab: protocols.attacked(lab, protocols.split_first(lab), coin_flip=False),
    "fault 3: 70/30, coin-flip labels": lambda lab: protocols.attacked(lab, protocols.split_first(lab), coin_flip=True),
    "faults 1 + 2 + 3, as published": lambda lab: protocols.attacked(
        lab, protocols.rebuilt(protocols.copy_first(lab)), coin_flip=True
    ),
}
CLAMP = "fault 4: FGSM clamped after normalising"


def cells(_: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(name) for name in (*PROTOCOLS, CLAMP)]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    if cell.name == CLAMP:
        return clamped(lab)
    done = PROTOCOLS[cell.name](lab)
    detector = protocols.second_stage(lab, done)
    right = protocols.replace(lab, images=done.images).accuracy(detector, done.test)
    true = lab.accuracy(detector)
    under_attack = {"FGSM .05": lab.robust(detector, "fgsm", lab.config["eps"])}
    return {**judged(right, true), **under_attack, **caught(protocols.audited(lab, done, detector))}


def clamped(lab: rdf.Lab) -> dict[str, Any]:
    """Accuracy under the recipe's FGSM and under FGSM in pixels at the same ε, and how far each really goes."""
    done, eps = protocols.split_first(lab), lab.config["eps"]
    detector = protocols.second_stage(lab, done)
    x, y, _ = lab.batch(lab.attacked_index)
    broken = protocols.fgsm_in_normalised_space(detector, x, y, eps)
    with torch.no_grad():
        right = (detector(broken).argmax(1) == y) & (detector(x).argmax(1) == y)
    found = protocols.audited(lab, done, detector, protocols.fgsm_in_normalised_space)
    return {**judged(rdf.wilson(int(right.sum()), len(y)), lab.robust(detector, "fgsm", eps)), **caught(found)}


def judged(claimed: rdf.Interval, true: rdf.Interval) -> dict[str, Any]:
    return {"claimed": claimed, "true": true, "points too much": round(100 * (claimed.value - true.value), 2)}


def caught(found: list[Any]) -> dict[str, str]:
    names = ", ".join(f"{finding.id} ({finding.severity})" for finding in found) or "nothing to catch"
    return {"caught by": names, "audit": "; ".join(finding.detail for finding in found)}


def tell(results: dict[str, Any]) -> list[str]:
    """What the table says, a sentence per fault."""
    lines = []
    for row in results["rows"]:
        if row["cell"].startswith("fault") and row["values"]:
            claimed, true = (100 * row["values"][key]["value"] for key in ("claimed", "true"))
            audit = row["values"]["audit"].split(" / ")[0]  # of the first seed
            lines.append(f"{row['cell']}: says {claimed:.1f}%, is {true:.1f}%. The audit: {audit}")
    return lines


if __name__ == "__main__":
    rdf.experiment_main(__file__)
