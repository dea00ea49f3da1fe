"""Is an ensemble better than its best member: clean, corrupted and attacked as a whole? See README.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pool
import torch

import robustbench_df as rdf

PICKED, STACKED = "greedy selection from", "all four, stacked"


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    """The four alone, weighed in every way and picked from; then picked from more and more of the registry."""
    four, more, whole = list(config["pool"]), pool.names(config), pool.names(config, costly=True)
    return [
        *(rdf.Cell(name, {"member": name}) for name in four),
        *(rdf.Cell(f"all four, {kind}", {"kind": kind}) for kind in config["kinds"]),
        rdf.Cell(f"{PICKED} the four", {"from": four}),
        rdf.Cell(f"{PICKED} the registry, light", {"from": more}),
        rdf.Cell(f"{PICKED} the registry, all", {"from": whole}, int(config["whole_seeds"])),
    ]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config, more = lab.config, {}
    if "member" in cell.settings:
        detector = pool.member(lab, config["member"])
        margins, more = margins_of(lab, config["member"]), diversity(lab, config["member"], detector)
    else:
        detector, picked = pool.weighed(lab, config["kind"]) if "kind" in config else pool.greedy(lab, config["from"])
        margins, more = lab.margins(detector), {"weights": picked}
    labels = lab.images.labels[lab.split.test]
    return {
        "clean": rdf.wilson(int(((margins >= 0) == (labels == 1)).sum()), len(labels)),
        "AUC": rdf.auc_interval(margins, labels),
        "corrupted": lab.corrupted(detector, config["corruptions"], config["severity"]),
        "FGSM .05": lab.robust(detector, "fgsm", config["eps"]),
        "standard 2/255": lab.withstood(detector, config["standard"], config["small_eps"]),
        **more,
    }


def margins_of(lab: rdf.Lab, name: str) -> Any:
    return np.diff(pool.answers(lab, name, "test").astype(np.float64))[:, 0]


def diversity(lab: rdf.Lab, name: str, detector: rdf.Detector) -> dict[str, float]:
    """How often the others of the four say something else, and what they lose on images crafted against this one.

    Every image is crafted, also those that this one gets wrong when clean: else the weak would seem to transfer less.
    """
    others = {other: pool.member(lab, other) for other in lab.config["pool"] if other != name}
    says = margins_of(lab, name) >= 0
    apart = [float(((margins_of(lab, other) >= 0) != says).mean()) for other in others]
    x, y, ids = lab.batch(lab.attacked_index)
    spec = rdf.AttackSpec(name="pgd", eps=lab.config["small_eps"], steps=20, early_stop=False)
    crafted = rdf.run_attack(detector, x, y, spec, ids=ids, only_correct=False).x_adv
    with torch.no_grad():
        clean, right = (
            np.mean([float((other(seen).argmax(1) == y).float().mean()) for other in others.values()])
            for seen in (x, crafted)
        )
    return {"says otherwise than the others": np.mean(apart), "others right": clean, "others right on its PGD": right}


def tell(results: dict[str, Any]) -> list[str]:
    """How stacking weighs the four and whom the selections picked, a clause per seed."""
    rows = [row for row in results["rows"] if row["cell"].startswith((PICKED, STACKED)) and row["values"]]
    return [f"{row['cell']}: {row['values']['weights'].replace(' / ', '; ')}" for row in rows]


if __name__ == "__main__":
    rdf.experiment_main(__file__)
