"""The cost of int8: clean accuracy and accuracy under attack of float32 and int8, on images that neither has seen."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustbench_df.attack_plan import AttackPlan, choose_part
from robustbench_df.attacks.runner import run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.transfer import right_on
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.deploy.graphs import save_graph
from robustbench_df.deploy.int8 import calibration_images, quantise
from robustbench_df.deploy.runtime import OnnxDetector
from robustbench_df.metrics.compare import mcnemar
from robustbench_df.metrics.intervals import wilson
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Detector
from robustbench_df.progress import Reporter
from robustbench_df.robustness import Work, tensors, works
from robustbench_df.run import Run
from robustbench_df.settings import Count, Settings

ATTACKS = (AttackSpec(name="fgsm", eps=2 / 255), AttackSpec(name="pgd", steps=10, eps=2 / 255))
"""At 2/255 detectors trained on clean images lose accuracy, but are not yet at 0, where nothing could be compared."""


class FidelityPlan(Settings):
    """How many images, attacks and folds int8 is judged on."""

    images: Count = 500
    """Most images, evenly spaced; 0 takes all images of the part."""
    attacked: Count = 100
    """Number of them that are also attacked; 0: none."""
    attacks: tuple[AttackSpec, ...] = ATTACKS
    folds: Count = 0
    """Number of folds that are judged in a run with folds; 0: all. Each needs its own int8 model, which takes time."""
    seed: int = 0


def fidelity(
    run: Run, model: str, phase: str, images: ImageSet, plan: FidelityPlan, reporter: Reporter
) -> dict[str, Any]:
    """Return accuracy of float32 and int8, clean and under attack, with intervals and the paired difference.

    Both are judged as deployed, with the run's decision. With folds, every fold's detector gets its own int8 model,
    calibrated on the fold's train images and judged on its held-out images. int8 has no gradient, so the attacked
    images are crafted on the float32 detector and shown to both: this is transfer to a near copy, not a white-box
    attack on int8.
    """
    part = choose_part(run, "auto")
    work = works(run, model, phase, images, part, AttackPlan(images=plan.images, seed=plan.seed, device="cpu"))
    work = work[: plan.folds or None]
    conditions: dict[str, list[tuple[Tensor, Tensor]]] = {"clean": []}
    reporter.start(f"judging int8 on {part} images", sum(len(some.index) for some in work))
    for some in work:
        float32, int8 = some.detector, _int8_of(run, some, model, phase, images)
        x, y, _ = tensors(images, some.index, "cpu")
        conditions["clean"].append((right_on(float32, x, y), right_on(int8, x, y)))
        share = -(-plan.attacked // len(work))
        x, y, ids = tensors(images, thin(some.index, share, images.labels), "cpu")
        for spec in plan.attacks if plan.attacked else ():
            own = spec.replaced(early_stop=False)  # an image just across its source's boundary fools no other detector
            crafted = run_attack(float32, x, y, own, ids=ids, seed=plan.seed, only_correct=False).x_adv
            conditions.setdefault(f"{spec.name} {spec.threat}", []).append(
                (right_on(float32, crafted, y), right_on(int8, crafted, y))
            )
        reporter.advance(len(some.index))
    reporter.finish()
    return {"part": part, "conditions": {name: _compared(pairs) for name, pairs in conditions.items()}}


def _int8_of(run: Run, some: Work, model: str, phase: str, images: ImageSet) -> Detector:
    """Return the int8 counterpart of one deployed detector, with the same decision."""
    assert isinstance(some.detector, Deployed)
    bare = some.detector.net
    assert isinstance(bare, Detector)
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        save_graph(bare, images.size, "onnx", whole)
        quantise(whole, small, calibration_images(run, images, max(some.fold, 0)))
        return Deployed(OnnxDetector(small), run.decision(model, phase)).eval()


def _compared(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return both accuracies and int8 minus float32; a pair is which images float32 and int8 get right, bool."""
    before, after = (torch.cat(side).numpy() for side in zip(*pairs, strict=True))
    return {
        "float32": asdict(wilson(int(before.sum()), len(before))),
        "int8": asdict(wilson(int(after.sum()), len(after))),
        "difference": asdict(mcnemar(after, before)),
        "verdicts_changed": int((before != after).sum()),
    }
