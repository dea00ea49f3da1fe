"""What phase 2 may be trained on: accuracy against robustness, and what it costs. See README.md."""

from __future__ import annotations

import json
from typing import Any

import torch

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
        "standard 4/255": standard(lab, detector),
        "seconds": sum(row["seconds"] for row in history),
    }


def standard(lab: rdf.Lab, detector: rdf.Detector) -> rdf.Interval:
    """The suite `standard` with fewer queries of Square: the share of images that none of its attacks fools."""
    eps, queries = lab.config["eps"], lab.config["standard_queries"]
    suite = {"apgd": {"steps": 100, "restarts": 2}, "fab": {"steps": 100}, "square": {"queries": queries}}
    robust = [lab.attack(detector, name, eps, **settings).robust for name, settings in suite.items()]
    return rdf.wilson(int(torch.stack(robust).all(0).sum()), len(robust[0]))


if __name__ == "__main__":
    rdf.experiment_main(__file__)
