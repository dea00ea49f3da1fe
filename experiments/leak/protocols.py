"""The recipe's protocol with each of its faults by itself, and what `rdf audit --run` sees of each.

A protocol handles images, divides them, learns in two stages and claims the accuracy on its own test. It leaves what a
run folder holds: who was learnt from, who was judged, and which copies under which label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

import robustbench_df as rdf
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.leakage import audit_run
from robustbench_df.evaluate import predict_logits, predictions_table
from robustbench_df.models.detector import IMAGENET_MEAN, IMAGENET_STD, frozen
from robustbench_df.rundir import create_run, write_json
from robustbench_df.train.augment import augment

Attack = Callable[[rdf.Detector, Tensor, Tensor, float], Tensor]
"""Of a detector, images ``[N, 3, H, W]`` in [0, 1], labels ``[N]`` and ε to attacked images."""
KEPT = 32
"""Attacked images that a protocol leaves behind."""
COPY = rdf.AugmentConfig(flip=0.5, shift=0.0, rotation=15.0, brightness=0.2, contrast=0.2, saturation=0.2)
"""The recipe's augmentation, but for its perspective."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """What a protocol handled and did: its images, the rows it learnt from and judged, and its adversarial copies."""

    images: rdf.ImageSet
    train: Any
    test: Any
    first: Path
    adversarial: tuple[tuple[int, int], ...] = ()
    """Row of the source and label of each copy."""


def with_copies(lab: rdf.Lab, copied: Any, plain: Any) -> rdf.ImageSet:
    """Build a set of the images ``copied``, each with its augmented copies, and of the images ``plain``."""
    x, y, keys = lab.batch(np.concatenate([copied, plain]))
    ids, n = lab.images.ids[np.concatenate([copied, plain])].astype(str), len(copied)
    made = [augment(x[:n], COPY, keys[:n], "leak", k) for k in range(lab.config["copies"])]
    names = [*ids, *(f"{name} copy {k + 1}" for k in range(len(made)) for name in ids[:n])]
    data = (torch.cat([x, *made]) * 255).round().to(torch.uint8).numpy()
    return rdf.image_set_from_arrays(data, [*y.tolist(), *y[:n].tolist() * len(made)], ids=names)


def split_first(lab: rdf.Lab) -> Protocol:
    """The right order: divide, then copy what is to be learnt from."""
    train, test = np.concatenate([lab.split.train, lab.split.val]), lab.split.cal
    images = with_copies(lab, train, test)
    judged = np.arange(len(train), len(train) + len(test))
    learnt = np.setdiff1d(np.arange(len(images)), judged)
    return Protocol(images, learnt, judged, first_stage(lab, images, learnt))


def copy_first(lab: rdf.Lab) -> Protocol:
    """Fault 1: copy everything, then divide originals and copies at random."""
    material = np.concatenate([lab.split.train, lab.split.val, lab.split.cal])
    images = with_copies(lab, material, material[:0])
    order = np.random.default_rng(lab.seed).permutation(len(images))
    held = round(len(order) * len(lab.split.cal) / len(material))
    return Protocol(images, order[held:], order[:held], first_stage(lab, images, order[held:]))


def rebuilt(done: Protocol) -> Protocol:
    """Fault 2: the training set is made again for the second stage, from all images: the indices were lost."""
    return replace(done, train=np.arange(len(done.images)))


def attacked(lab: rdf.Lab, done: Protocol, *, coin_flip: bool) -> Protocol:
    """Note FGSM copies of the training images; fault 3 gives them labels by coin-flip."""
    share = lab.config["adversarial"]
    rng = np.random.default_rng([lab.seed, 3])
    source = rng.choice(done.train, round(len(done.train) * share / (1 - share)), replace=False)
    labels = rng.integers(0, 2, len(source)) if coin_flip else done.images.labels[source]
    return replace(done, adversarial=tuple(zip(source.tolist(), labels.tolist(), strict=True)))


def first_stage(lab: rdf.Lab, images: rdf.ImageSet, train: Any) -> Path:
    return lab.checkpoint(split=rdf.Split(images, train, train[:0]))


def second_stage(lab: rdf.Lab, done: Protocol) -> rdf.Detector:
    """Go on from the first stage on the protocol's training set, with its adversarial copies if it has any."""
    images, train = done.images, done.train
    if done.adversarial:
        source, labels = (np.array(column) for column in zip(*done.adversarial, strict=True))
        first = rdf.load_checkpoint(done.first.parent, "base")
        x, y, _ = replace(lab, images=images).batch(source)
        parts = [rdf.fgsm(first, a, b, lab.config["eps"]) for a, b in zip(x.split(64), y.split(64), strict=True)]
        crafted = (torch.cat(parts) * 255).round().to(torch.uint8).numpy()
        names = [*images.ids, *(f"{images.ids[row]} attacked" for row in source)]
        images = rdf.image_set_from_arrays(
            np.concatenate([images.data, crafted]), np.concatenate([images.labels, labels]), ids=names
        )
        train = np.concatenate([train, np.arange(len(done.images), len(images))])
    recipe = lab.recipe(model={"weights": str(done.first)}, **lab.config["second"])
    return lab.trained(recipe, rdf.Split(images, train, train[:0]))


def audited(lab: rdf.Lab, done: Protocol, detector: rdf.Detector, attack: Attack | None = None) -> list[AuditFinding]:
    """Write what the protocol did as a run folder, with images it attacked, and return what its audit objects to."""
    images, name = done.images, lab.recipe().model.name
    rows = [(images.ids[k], "train", -1) for k in done.train] + [(images.ids[k], "test", -1) for k in done.test]
    listed = [{"kind": "adversarial", "source": images.ids[row], "label": label} for row, label in done.adversarial]
    wanted = {"phase2": {"adversarial_copies": len(listed)}, "per_model": {}}
    with tempfile.TemporaryDirectory() as folder:
        create_run(rdf.load_config("quick", models=(name,), **wanted), Path(folder) / "run")
        run = rdf.open_run(Path(folder) / "run")
        write_json(run.file("provenance.json"), {"data_fingerprint": images.fingerprint})
        pd.DataFrame(rows, columns=["image_id", "part", "fold"]).to_parquet(run.file("split.parquet"))
        logits = predict_logits(detector, images, done.test)
        for phase, copies in (("base", []), ("final", listed)):
            write_json(run.model_dir(name) / f"{phase}-copies.json", copies)
            (run.model_dir(name) / f"{phase}.safetensors").touch()
        named = {"model": name, "phase": "final", "condition": "clean", "part": "test"}
        table = predictions_table(images, done.test, logits, **named)
        table.save(run.predictions_path(name, "final", "clean"))
        if attack is not None:
            keep_attacked(lab, run, done, detector, attack)
        found = audit_run(run, images, find_copies(images).pairs())
    return [f for f in found if f.severity in ("fail", "warn")]


def keep_attacked(lab: rdf.Lab, run: rdf.Run, done: Protocol, detector: rdf.Detector, attack: Attack) -> None:
    """Leave attacked images of the protocol's own test in its run folder, with the ε that it believes in."""
    rows, eps = done.test[:KEPT], lab.config["eps"]
    x, y, _ = replace(lab, images=done.images).batch(rows)
    crafted = (attack(detector, x, y, eps).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    place = run.file("attacks", "examples-of-the-protocol")
    place.mkdir(parents=True)
    listed = [{"image_id": str(done.images.ids[row]), "file": f"{k}.png"} for k, row in enumerate(rows)]
    for entry, pixels in zip(listed, crafted, strict=True):
        Image.fromarray(pixels).save(place / entry["file"])
    write_json(place / "examples.json", {"norm": "linf", "eps": eps, "images": listed})


def fgsm_in_normalised_space(detector: rdf.Detector, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Fault 4: step and clamp to [0, 1] after normalisation; returned in pixels, as the network saw it."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with frozen(detector):
        leaf = ((x - mean) / std).requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(detector(leaf * std + mean), y)
        (gradient,) = torch.autograd.grad(loss, leaf)
    return ((leaf.detach() + eps * gradient.sign()).clamp(0, 1) * std + mean).detach()
