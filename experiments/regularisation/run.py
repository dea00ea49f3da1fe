"""What keeps a detector from learning its few training images by heart? See README.md."""

from __future__ import annotations

from typing import Any

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    more, headline = config["headline_seeds"], config["headline"]
    return [rdf.Cell(name, {"row": row}, more if name in headline else None) for name, row in config["rows"].items()]


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    plain, row = lab.config["none"]["recipe"], lab.config["row"]
    detector = lab.trained(lab.recipe(**{part: {**plain[part], **row.get(part, {})} for part in plain}))
    learnt, held = lab.accuracy(detector, lab.split.train), lab.accuracy(detector)
    return {
        "train": learnt,
        "test": held,
        "gap (points)": round(100 * (learnt.value - held.value), 2),
        "test AUC": rdf.auc_interval(lab.margins(detector), lab.images.labels[lab.split.test]),
    }


if __name__ == "__main__":
    rdf.experiment_main(__file__)
