"""Cloning a black box: learn what it said instead of what is true. See README.md."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import robustbench_df as rdf

BASELINE = "repeat the folder"
TAUGHT_BY = {"learn the folders": "folder_labels", "learn the predictions": "predictions"}


def cells(_: dict[str, Any]) -> list[rdf.Cell]:
    return [rdf.Cell(BASELINE, seeds=1), *(rdf.Cell(name) for name in TAUGHT_BY)]


def measure(cell: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    folder, said = lab.images.folder_labels, black_box(lab)
    test = lab.split.test
    if cell.name == BASELINE:
        answer = folder[test]
    else:
        labels = folder if TAUGHT_BY[cell.name] == "folder_labels" else said
        # The same split for both, made on the folders' labels; only what is learnt differs.
        images = rdf.image_set_from_arrays(lab.images.data, labels, ids=lab.images.ids.tolist())
        split = rdf.Split(images, lab.split.train, lab.split.val, test=test)
        answer = lab.margins(lab.trained(split=split)) >= 0
    apart = said[test] != folder[test]
    return {
        "agrees with the black box": agreement(answer, said[test]),
        "where it contradicts the folder": agreement(answer[apart], said[test][apart]),
        "agrees with the folder": agreement(answer, folder[test]),
    }


def black_box(lab: rdf.Lab) -> Any:
    """What the source's black box said of every image; where it has none (the demo set), an MLP stands in for it."""
    if (lab.images.predictions[lab.images.labelled()] >= 0).all():
        return lab.images.predictions
    stand_in = replace(lab, seed=0).trained(lab.recipe(model={"name": "mlp", "frontend": "rgb"}))
    return (lab.margins(stand_in, np.arange(len(lab.images))) >= 0).astype(np.int8)


def agreement(a: Any, b: Any) -> rdf.Interval:
    return rdf.wilson(int((a == b).sum()), len(b))


if __name__ == "__main__":
    rdf.experiment_main(__file__)
