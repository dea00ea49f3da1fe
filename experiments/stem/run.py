"""Native or small stem, enlarged images, residual channels: what helps on small images? See README.md."""

from __future__ import annotations

import json
import statistics
from typing import Any

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
    path = lab.checkpoint(lab.recipe(model=model, phase1=lab.config["rates"][name]))
    detector = rdf.load_checkpoint(path.parent, "base")
    history = [json.loads(line) for line in (path.parent / "base-history.jsonl").read_text().splitlines()]
    return {
        "clean": lab.accuracy(detector),
        "AUC": rdf.auc_interval(lab.margins(detector), lab.images.labels[lab.split.test]),
        "training images/s": statistics.median(row["images_per_second"] for row in history),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
