"""What phase 2 may be trained on: accuracy against robustness, and what it costs. See README.md."""

from __future__ import annotations

import json
from typing import Any

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    rows = [rdf.Cell(name, {"recipe": {"phase2": phase2}}) for name, phase2 in config["objectives"].items()]
    return [rdf.Cell("phase 1 alone"), *rows]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    path = lab.checkpoint(phase="final" if cell.settings else "base")
    detector, eps = rdf.load_checkpoint(path.parent, path.stem), lab.config["eps"]
    history = [json.loads(line) for line in (path.parent / f"{path.stem}-history.jsonl").read_text().splitlines()]
    return {
        "clean": lab.accuracy(detector),
        "FGSM 4/255": lab.robust(detector, "fgsm", eps),
        "PGD-20 4/255": lab.robust(detector, "pgd", eps, steps=20),
        "APGD-50 4/255": lab.robust(detector, "apgd", eps, steps=50),
        "seconds": sum(row["seconds"] for row in history),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
