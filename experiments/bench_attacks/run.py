"""Our attacks against torchattacks, foolbox, ART and AutoAttack: same detector, images and threads. See README.md."""

from __future__ import annotations

from typing import Any

import agreement
import timing
import torch
from memory import peak

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    own = [
        rdf.Cell(f"{name}: {what}", {"of": name, "what": what}) for what, k in config["measures"].items() for name in k
    ]
    return [*own, *(rdf.Cell(f"memory: {n:,} images", {"what": "memory", "n": n}) for n in config["memory_images"])]


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config = lab.config
    if config["what"] == "memory":
        return {"MB": peak(config["n"])}
    settings = dict(config["detectors"][config["of"]])
    phase = settings.pop("phase", "base")
    device = torch.device(rdf.choose_device(lab.device))
    detector = lab.trained(lab.recipe(**settings), phase=phase).to(device)
    torch.set_num_threads(config["threads"])
    x, y, _ = (part.to(device) for part in lab.batch(lab.attacked_index))
    return MEASURES[config["what"]](config, detector, x, y)


PEERS = ("foolbox, robust", "autoattack, robust")
MEASURES = {
    "FGSM, 4 budgets": timing.fgsm_sweep,
    "PGD-40": timing.pgd,
    "standard": timing.standard,
    "PGD agrees": agreement.pgd,
    "standard agrees": agreement.standard,
}


def tell(results: dict[str, Any]) -> list[str]:
    """The least gain of every timed measure, the largest lead of our robust accuracy, and the range of memory."""
    lines, of = [], {row["cell"]: {k: v["value"] for k, v in row["values"].items()} for row in results["rows"]}
    for what in ("FGSM, 4 budgets", "PGD-40", "standard"):
        ratios = {c: v["peer / ours"] for c, v in of.items() if c.endswith(f": {what}") and "peer / ours" in v}
        if ratios:
            least = min(ratios, key=lambda c: ratios[c])
            lines.append(f"{what}: {ratios[least]:.2f} times as fast as the fastest peer at least ({least}).")
    leads = {(c, k): v["ours, robust"] - v[k] for c, v in of.items() for k in PEERS if k in v}
    if leads:
        (cell, peer), lead = max(leads.items(), key=lambda item: item[1])
        lines.append(f"Our robust accuracy minus a peer's: at most {100 * lead:+.1f} points ({cell}, {peer}).")
    memory = {c: v["MB"] for c, v in of.items() if "MB" in v}
    if memory:
        lines.append("Peak memory: " + ", ".join(f"{c.split(': ')[1]} {mb:.0f} MB" for c, mb in memory.items()) + ".")
    return lines


if __name__ == "__main__":
    rdf.experiment_main(__file__)
