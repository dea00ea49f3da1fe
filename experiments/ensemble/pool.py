"""The registry as a pool of members, trained once each; what they answer, and the ensembles that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import robustbench_df as rdf

Logits = np.ndarray[Any, np.dtype[np.float32]]

GPU = torch.cuda.is_available()

ANSWERS: dict[tuple[Path, str], Logits] = {}
"""What members said of a part of the split, by their weight file: the rows of one seed share them."""


def names(config: dict[str, Any], *, costly: bool = False) -> list[str]:
    """The members with a recipe of their own, and the rest of the registry that this machine can train."""
    without = {*config["pool"], *([] if costly else config["costly"]), *([] if GPU else config["gpu"])}
    return [*config["pool"], *(name for name in rdf.MODELS if name not in without)]


def member(lab: rdf.Lab, name: str) -> rdf.Detector:
    path = weights(lab, name)
    return rdf.load_checkpoint(path.parent, "base")


def weights(lab: rdf.Lab, name: str) -> Path:
    own = lab.config["pool"].get(name, {"model": {"name": name}, **lab.config["rest"]})
    return lab.checkpoint(lab.recipe(**own))


def answers(lab: rdf.Lab, name: str, part: str) -> Logits:
    """Logits ``[n, 2]`` of a member on ``val`` or ``test``."""
    key = weights(lab, name), part
    if key not in ANSWERS:
        ANSWERS[key] = rdf.predict_logits(member(lab, name), lab.images, getattr(lab.split, part))
    return ANSWERS[key]


def weighed(lab: rdf.Lab, kind: str) -> tuple[rdf.Detector, str]:
    """The members with a recipe of their own, as ``kind`` weighs them on val; and the weights in words."""
    those = list(lab.config["pool"])
    fitted = rdf.fit_weights(kind, *val(lab, those))
    return rdf.assemble([member(lab, name) for name in those], fitted), in_words(those, np.asarray(fitted.weights))


def greedy(lab: rdf.Lab, those: list[str]) -> tuple[rdf.Detector, str]:
    """Members picked one by one with repetition, by the log loss of their mean on val (Caruana et al. 2004)."""
    logits, labels = val(lab, those)
    fake = 1 / (1 + np.exp(-np.diff(logits.astype(np.float64))[..., 0]))
    right = np.where(labels == 1, fake, 1 - fake)
    picked = np.zeros(len(those))
    for _ in range(lab.config["picks"]):
        means = (picked @ right + right) / (picked.sum() + 1)  # of the picked and one more, per candidate
        picked[np.argmax(np.log(np.clip(means, 1e-6, 1)).mean(axis=1))] += 1
    used = np.flatnonzero(picked)
    detector = rdf.Ensemble([member(lab, those[k]) for k in used], picked[used].tolist()).eval()
    return detector, in_words(those, picked / picked.sum())


def val(lab: rdf.Lab, those: list[str]) -> tuple[Logits, Any]:
    return np.stack([answers(lab, name, "val") for name in those]), lab.images.labels[lab.split.val]


def in_words(those: list[str], weights: Any) -> str:
    return ", ".join(f"{name} {weight:.2f}" for name, weight in zip(those, weights, strict=True) if weight)
