"""Noise and JPEG in training: does it help where it was not trained, on blur and weather? See README.md."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [
        rdf.Cell(f"corruption = {share:g}", {"recipe": {"augment": {"corruption": share}}})
        for share in config["shares"]
    ]


def measure(_: rdf.Cell, lab: rdf.Lab) -> list[dict[str, Any]]:
    """Accuracy at .5 and AUC on the test images: clean, and averaged over each family's corruptions and severities."""
    detector = lab.trained()
    found = {"clean": [scores(lab, detector, "clean", 0)]}
    for family, names in lab.config["families"].items():
        conditions = itertools.product(names, lab.config["severities"])
        found[family] = [scores(lab, detector, *condition) for condition in conditions]
    accuracy = {family: share([right for right, _ in values]) for family, values in found.items()}
    areas = {family: float(np.mean([area for _, area in values])) for family, values in found.items()}
    return [{"row": "accuracy", **accuracy}, {"row": "AUC", **{name: round(value, 4) for name, value in areas.items()}}]


@torch.no_grad()
def scores(lab: rdf.Lab, detector: rdf.Detector, name: str, severity: int) -> tuple[float, float]:
    """Share of the test images called rightly at .5, and AUC, under one corruption (none at severity 0)."""
    x, y, ids = lab.batch(lab.split.test)
    x = (x * 255).round().to(torch.uint8)
    x = rdf.corrupt(x, name, severity, ids=ids) if severity else x
    logits = torch.cat([detector(part.float() / 255) for part in x.split(256)]).double().numpy()
    margin, labels = logits[:, 1] - logits[:, 0], y.numpy()
    return float(((margin >= 0) == (labels == 1)).mean()), rdf.auc_interval(margin, labels).value


def share(rights: list[float]) -> float:
    return round(float(np.mean(rights)), 4)


if __name__ == "__main__":
    rdf.experiment_main(__file__)
