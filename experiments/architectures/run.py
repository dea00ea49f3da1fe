"""The registry at an equal budget of images: accuracy, robustness, size, memory and speed. See README.md."""

from __future__ import annotations

import json
import statistics
import time
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
    path = lab.checkpoint()
    detector = rdf.load_checkpoint(path.parent, "base")
    history = [json.loads(line) for line in (path.parent / "base-history.jsonl").read_text().splitlines()]
    margins, labels = lab.margins(detector), lab.images.labels[lab.split.test]
    return {
        "clean": rdf.wilson(int(((margins >= 0) == (labels == 1)).sum()), len(labels)),
        "AUC": rdf.auc_interval(margins, labels),
        "PGD-20 2/255": lab.robust(detector, "pgd", lab.config["eps"], steps=20),
        "parameters (M)": sum(p.numel() for p in detector.parameters()) / 1e6,
        "weights (MiB)": path.stat().st_size / 2**20,
        **memory.peaks(lab.recipe(), lab.images.size, str(detector.mean.device)),
        "ms per image": milliseconds(lab, detector),
        "training images/s": statistics.median(row["images_per_second"] for row in history),
    }


def milliseconds(lab: rdf.Lab, detector: rdf.Detector, batch: int = 64, repeats: int = 5) -> float:
    """Median time per image of a whole batch, fp32, channels last, after one that is not counted."""
    x = lab.batch(lab.split.test[:batch])[0].contiguous(memory_format=torch.channels_last)
    took = []
    with torch.no_grad():
        for _ in range(1 + repeats):
            start = time.perf_counter()
            detector(x)
            took.append(time.perf_counter() - start)
    return round(1000 * statistics.median(took[1:]) / len(x), 3)


if __name__ == "__main__":
    rdf.experiment_main(__file__)
