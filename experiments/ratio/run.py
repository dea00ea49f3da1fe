"""How much of phase 2 should be adversarial: is 70/30 the right mixture? See README.md."""

from __future__ import annotations

from typing import Any

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    by_sample = [cell(ratio, "sample") for ratio in config["ratios"]]
    return [rdf.Cell("phase 1 alone"), *by_sample, *(cell(ratio, "batch") for ratio in config["batch_mixed"])]


def cell(ratio: float, mix: str) -> rdf.Cell:
    name = f"{100 - 100 * ratio:.0f}/{100 * ratio:.0f}" + ("" if mix == "sample" else " by batch")
    return rdf.Cell(name, {"recipe": {"phase2": {"ratio": ratio, "mix": mix, "select": "last"}}})


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    detector = lab.trained(phase="final" if cell.settings else "base")
    eps, small = lab.config["eps"], lab.config["standard_eps"]
    return {
        "clean": lab.accuracy(detector),
        "FGSM .05": lab.robust(detector, "fgsm", eps),
        "PGD-20 .05": lab.robust(detector, "pgd", eps, steps=20),
        "standard 2/255": lab.robust(detector, "standard", small),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
