"""What `rdf explain` adds to a run folder, without any map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_df.attack_plan import choose_part
from robustbench_df.data.imageset import ImageSet
from robustbench_df.explaining import specimens
from robustbench_df.explaining.subjects import judged_answers
from robustbench_df.run import Run
from robustbench_df.rundir import write_json
from tests.report.evaluations import CORRUPTIONS, EPSILONS, SEVERITIES


def write_explained(run: Run, images: ImageSet) -> None:
    """`explain.json`, `specimens.json` and their pictures."""
    keep = _Pictures(run.file("explain", "pictures"))
    phase = run.shipped["phase"]
    names = [*run.models, "ensemble"]
    shown = [keep(pixels) for pixels in images.data[:12]]
    ids, labels = [str(name) for name in images.ids[:12]], [int(label) for label in images.labels[:12]]
    faithful = {"name": "extra drop", "value": 0.1, "low": 0.05, "high": 0.15, "n": 12, "meaning": "above 0 is good"}
    detectors = [
        {
            "model": name,
            "phase": phase,
            "layer": f"net.{name}.stages",
            "size": [4, 4],
            "sanity": {"correlation": 0.1, "passed": name != "convnext_tiny"},
            "faithfulness": faithful,
        }
        for name in names
    ]
    states = (("right", "clean"), ("wrong", "clean"), ("attacked", "fgsm-linf-0.05"), ("corrupted", "fog-3"))
    explained = [
        {
            "image_id": ids[k],
            "label": labels[k],
            "state": state,
            "condition": condition,
            "picture": shown[k],
            "maps": [
                {"model": name, "phase": phase, "p_fake": 0.75, "picture": shown[k + j + 4]}
                for j, name in enumerate(names)
            ],
        }
        for k, (state, condition) in enumerate(states)
    ]
    head = {"schema": 1, "fingerprint": run.fingerprint}
    about = {**head, "cam": "gradcam", "detectors": detectors, "images": explained}
    write_json(run.file("explain", "explain.json"), about)
    judged = judged_answers(run, phase, choose_part(run, "auto"))
    telling = {}
    for kind, rows in specimens.telling(judged, 4).items():
        where = [list(images.ids).index(name) for name in judged.ids[rows]]
        telling[kind] = specimens.described(judged, rows, [keep(images.data[k]) for k in where])
    found = {
        **head,
        "examples": [{"image_id": ids[k], "label": labels[k], "picture": shown[k]} for k in range(8)],
        "hardest": telling["hardest"],
        "disagreed": telling["disagreed"],
        "corruptions": [
            {"corruption": name, "severity": level, "image_id": ids[0], "picture": shown[(i + level) % 12]}
            for i, name in enumerate(CORRUPTIONS)
            for level in SEVERITIES
        ],
        "attacked": [
            {
                "image_id": ids[k],
                "label": labels[k],
                "model": name,
                "phase": phase,
                "attack": "fgsm",
                "eps": eps,
                "p_fake": 0.9 - 10 * eps,
                "picture": shown[k + 2],
            }
            for k in range(2)
            for name in names
            for eps in (0.0, *EPSILONS)
        ],
    }
    write_json(run.file("explain", "specimens.json"), found)


class _Pictures:
    """Keeps pixels as PNG under a key of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def __call__(self, pixels: NDArray[np.uint8]) -> str:
        from PIL import Image

        key = f"{len(list(self._folder.iterdir())):016x}"
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(self._folder / f"{key}.png")
        return key
