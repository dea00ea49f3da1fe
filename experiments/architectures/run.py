"""The registry at an equal budget of images: accuracy, robustness, size and memory. See README.md."""

from __future__ import annotations

from typing import Any

import memory
import torch

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(name, {"recipe": {"model": {"name": name}}}, seeds(name, config)) for name in rdf.MODELS]


def seeds(name: str, config: dict[str, Any]) -> int:
    """None for what takes a GPU and finds none; more for the headline rows."""
    if name in config["gpu"] and not torch.cuda.is_available():
        return 0
    return int(config["headline_seeds"] if name in config["headline"] else config["seeds"])


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    path, detector = lab.checkpoint(), lab.trained()
    margins, labels = lab.margins(detector), lab.images.labels[lab.split.test]
    return {
        "clean": rdf.wilson(int(((margins >= 0) == (labels == 1)).sum()), len(labels)),
        "AUC": rdf.auc_interval(margins, labels),
        "PGD-20 2/255": lab.robust(detector, "pgd", lab.config["eps"], steps=20),
        "parameters (M)": sum(p.numel() for p in detector.parameters()) / 1e6,
        "weights (MiB)": path.stat().st_size / 2**20,
        **memory.peaks(lab.recipe(), lab.images.size, str(detector.mean.device)),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
