"""Native or small stem, enlarged images, residual channels: what helps on small images? See README.md."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(name, {"row": row}, seeds(row, config)) for name, row in config["rows"].items()]


def seeds(row: list[Any], config: dict[str, Any]) -> int:
    """The headline is EfficientNet-B0 at its own size; enlarged images and ConvNeXt cost too much for three."""
    headline = row[0] == "efficientnet_b0" and not row[3]
    return int(config["headline_seeds"] if headline else config["seeds"])


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    name, stem, frontend, side = lab.config["row"]
    model = {"name": name, "stem": stem, "frontend": frontend, "input_size": side or None}
    detector = lab.trained(lab.recipe(model=model, phase1=lab.config["rates"][name]))
    return {
        "clean": lab.accuracy(detector),
        "AUC": rdf.auc_interval(lab.margins(detector), lab.images.labels[lab.split.test]),
        "GFLOP per image": gflop(lab, detector),
    }


def gflop(lab: rdf.Lab, detector: rdf.Detector) -> float:
    """What one forward of one image takes, in 10⁹ additions and multiplications of convolutions and matrix products."""
    x = lab.batch(lab.split.test[:1])[0].to(detector.mean.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        detector(x)
    return round(counted.get_total_flops() / 1e9, 3)


if __name__ == "__main__":
    rdf.experiment_main(__file__)
