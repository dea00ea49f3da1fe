"""`rdf attack --detector`: black-box attacks on an external detector, of which only the outputs are visible."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from robustbench_df.attack_plan import AttackPlan, choose_part
from robustbench_df.attacks.catalogue import attack_named
from robustbench_df.attacks.external import external_detector
from robustbench_df.attacks.runner import Attacked, run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.transfer import transferred
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.sources import load_images
from robustbench_df.data.thinning import thin
from robustbench_df.errors import RunError, UsageError
from robustbench_df.metrics.intervals import wilson
from robustbench_df.progress import Reporter
from robustbench_df.robustness import Index, deployed, tensors, works
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import write_json

QUERIES = 1000
"""Default number of queries per image: a service answers slowly, and Square has most of its successes early."""


def attack_external(
    address: str,
    plan: AttackPlan,
    source: str | None,
    run_path: Path | None,
    queries: int | None,
    rate: float | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Attack an external detector through its outputs; returns the results and merges them into those of earlier calls.

    The merged results are written to ``result.json`` next to the log. Outputs are logged as they arrive, so an attack
    that was stopped and is started again sends only the queries that it has not sent yet.

    Args:
        address: ``python:module:function`` or an http address (`robustbench_df.attacks.external`).
        plan: budgets, norm, attacks that need no gradient, number of images.
        source: labelled images; None: the part of the run that the plan names.
        run_path: the run that provides images and the transfer attack; None: the latest.
        queries: most queries per image and attack.
        rate: most requests per second.
        reporter: receives progress.

    Raises:
        UsageError: an attack needs a gradient.
        ModelError: the detector returns something other than P(fake).
    """
    specs = [spec for spec in plan.attacks if isinstance(spec, AttackSpec)] or [AttackSpec(name="square")]
    for spec in specs:
        if attack_named(spec.name).access == "gradient":
            raise UsageError(f"{spec.name} needs a gradient, which --detector does not give; use square or hopskipjump")
    run = _run(run_path, needed=source is None)
    images, index = _images(source, run, plan)
    digest = hashlib.blake2b(f"{address} {images.fingerprint}".encode(), digest_size=4).hexdigest()
    folder = (run.file("attacks") if run is not None else Path()) / f"blackbox-{digest}"
    detector: Any = external_detector(address, rate=rate, log=folder / "answers.jsonl")
    x, y, ids = tensors(images, index, "cpu")
    rows = []
    for eps in plan.epsilons:
        for spec in specs:
            full = spec.replaced(eps=eps, norm=plan.norm, queries=spec.queries or queries or QUERIES)
            reporter.start(f"{address} · {full.name} {full.threat}, {full.queries} questions per image", len(index))
            found = run_attack(detector, x, y, full, ids=ids, seed=plan.seed, progress=reporter.advance)
            reporter.finish()
            rows.append(_row(full.name, full, found))
        if run is not None and run.image_size == images.size:
            rows.append(_transfer(run, detector, x, y, ids, eps, plan))
    facts = {"detector": address, "images": len(index), "asked": detector.asked, "served": detector.served}
    facts |= {"log": str(folder / "answers.jsonl"), "attacks": rows}
    write_json(folder / "result.json", {**facts, "attacks": [*_other(folder / "result.json", rows), *rows]})
    return facts


def _other(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results of earlier calls for other attacks or budgets; only the newest result of each is kept."""
    if not path.exists():
        return []
    now = {(row["attack"], row["threat"]) for row in rows}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["attacks"]
        return [row for row in before if (row["attack"], row["threat"]) not in now]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"'{path}' is damaged ({error}); delete it and attack again") from error


def _run(path: Path | None, *, needed: bool) -> Run | None:
    try:
        return open_run(path, finished=True)
    except RunError:
        if needed or path is not None:
            raise
        return None  # without a run, attacks on the outputs are still possible


def _images(source: str | None, run: Run | None, plan: AttackPlan) -> tuple[ImageSet, Index]:
    if source is None:
        assert run is not None
        images = run.images()
        parts = works(run, run.models[0], "base", images, choose_part(run, plan.part), plan)
        return images, np.sort(np.concatenate([work.index for work in parts]))
    images = load_images(source)
    return images, thin(images.labelled(), plan.images, images.labels)


def _row(name: str, spec: AttackSpec, found: Attacked) -> dict[str, Any]:
    n, right, left = len(found), int(found.correct.sum()), int(found.robust.sum())
    after = wilson(left, n)
    return {
        "attack": name,
        "threat": str(spec.threat),
        "clean_accuracy": right / n,
        "accuracy": {"value": after.value, "low": after.low, "high": after.high, "n": n},
        "fooled": int(found.success.sum()),
        "questions_per_image": float(found.forwards.float().mean()),
    }


def _transfer(
    run: Run, detector: nn.Module, x: Tensor, y: Tensor, ids: Tensor, eps: float, plan: AttackPlan
) -> dict[str, Any]:
    """Craft images on the run's ensemble, then query the black box once per image."""
    spec = AttackSpec(name="pgd", steps=20, eps=eps, norm=plan.norm)
    own = deployed(run, "ensemble", run.shipped["phase"], None)
    return _row(f"transfer from {run.name}", spec, transferred(detector, own, x, y, spec, ids=ids, seed=plan.seed))
