"""Additions to an attack's results: checks for gradient masking and the like, the transfer matrix, and examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from robustbench_df.attack_plan import AttackPlan, Cell, choose_part
from robustbench_df.attacks import cell_checks
from robustbench_df.attacks.checks import CHECKS, run_checks
from robustbench_df.attacks.kept_checks import Kept, in_todays_form, newest
from robustbench_df.attacks.runner import Attacked
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.summary import robust
from robustbench_df.attacks.threat import Threat
from robustbench_df.attacks.transfer import right_on, transfer_matrix, transferred
from robustbench_df.data.thinning import thin
from robustbench_df.errors import RunError
from robustbench_df.progress import Reporter
from robustbench_df.robustness import Work, attack_cell, deployed, tensors, works
from robustbench_df.run import Run
from robustbench_df.rundir import write_atomic, write_json

CHECKED = 32
"""Number of images on which a detector is checked; each takes some hundred passes."""

TRANSFER_STEPS = 10
"""PGD steps for crafting a check's transfer images on the other detectors; all together a tenth of the check's cost."""

TRANSFERRED = 200
"""Number of images in the transfer matrix: crafted on every detector, scored on all."""

AMPLIFIED = 10
"""Factor by which the difference image is amplified, around mid-grey."""


def examine(
    run: Run, cells: Sequence[Cell], plan: AttackPlan, which: str, reporter: Reporter
) -> dict[str, list[dict[str, Any]]]:
    """Check detectors (``which``: ``shipped``, ``all`` or ``none``), and the consistency of the cells.

    Returns the outcomes of this call. The run stores them with the earlier ones and keeps the newest of each check.

    Raises:
        RunError: the run's file of checks is damaged.
    """
    if which == "none" or not max(plan.epsilons):
        return {}  # without a budget there was no attack to check
    images, part = run.images(), choose_part(run, plan.part)
    found: dict[str, list[dict[str, Any]]] = {}
    rates = _rates(run, cells)
    shipped = ("ensemble", run.shipped["phase"])
    looked_into = list(rates) if which == "all" else [shipped] if shipped in rates else list(rates)[:1]
    for (model, phase), own in rates.items():
        checks = [*cell_checks.one_step(own), *cell_checks.monotone(own)]
        if phase == "final":
            checks += cell_checks.overfitting(rates.get((model, "base"), {}), own)
        if (model, phase) in looked_into:
            work = works(run, model, phase, images, part, plan.model_copy(update={"images": 0}))[0]
            x, y, ids = tensors(images, thin(work.index, CHECKED, images.labels), plan.device)
            reporter.start(f"checks · {model} · {phase}", len(CHECKS), unit="checks")
            eps = max(plan.epsilons)
            found_by = _transferred(run, model, phase, work, (x, y, ids), plan)
            asked: dict[str, Any] = {"ids": ids, "seed": plan.seed, "found": found_by}
            deep = run_checks(work.detector, x, y, eps, plan.norm, **asked, progress=lambda _: reporter.advance(1))
            checks += [replace(check, about=plan.norm) for check in deep]
            reporter.finish()
        found[f"{model} · {phase}"] = [asdict(check) for check in checks]
    path = run.file("attacks", "checks.json")
    write_json(path, newest(_kept(path), found))
    return found


def _rates(run: Run, cells: Sequence[Cell]) -> dict[tuple[str, str], cell_checks.Rates]:
    """Return the accuracies under attack by detector and phase."""
    rates: dict[tuple[str, str], dict[tuple[str, Threat], float]] = {}
    for cell in cells:
        standing = float(robust(cell.load(run).table).mean())
        rates.setdefault((cell.model, cell.phase), {})[cell.attack_name, cell.threat] = standing
    return {**rates}


def _transferred(
    run: Run, model: str, phase: str, work: Work, batch: tuple[Tensor, Tensor, Tensor], plan: AttackPlan
) -> dict[str, Attacked]:
    """Return the effect on this detector of images crafted on each other detector of the run, by ``transfer:NAME``."""
    x, y, ids = batch
    spec = AttackSpec(name="pgd", steps=TRANSFER_STEPS, eps=max(plan.epsilons), norm=plan.norm)
    fold = work.fold if work.fold >= 0 else None
    return {
        f"transfer:{name}": transferred(
            work.detector, deployed(run, name, phase, fold).to(x.device), x, y, spec, ids=ids, seed=plan.seed
        )
        for name in run.models
        if name != model
    }


def _kept(path: Path) -> Kept:
    """Return the outcomes of earlier calls."""
    try:
        return in_todays_form(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"'{path}' is damaged ({error}); delete it and check again") from error


def transfer_of(run: Run, plan: AttackPlan, reporter: Reporter) -> dict[str, Any]:
    """Craft images by PGD-20 on every detector and the ensemble of the shipped phase, score on all, save in the run."""
    images, part, phase = run.images(), choose_part(run, plan.part), run.shipped["phase"]
    names = (*run.models, "ensemble")
    fold = 0 if part == "oof" else None
    some = works(run, names[0], phase, images, part, plan)[0]
    index = thin(some.index, TRANSFERRED, images.labels)
    x, y, ids = tensors(images, index, plan.device)
    spec = AttackSpec(name="pgd", steps=20, eps=max(plan.epsilons), norm=plan.norm)
    reporter.start("transfer", len(names) * len(index))
    detectors = {name: deployed(run, name, phase, fold).to(x.device) for name in names}
    options: dict[str, Any] = {"ids": ids, "seed": plan.seed, "batch_size": plan.batch}
    right = transfer_matrix(detectors, x, y, spec, **options, progress=reporter.advance)
    reporter.finish()
    matrix = {
        "threat": f"pgd, 20 steps, {spec.threat}",
        "phase": phase,
        "n": len(index),
        "scored_on": list(names),
        "accuracy": {a: {b: float(v.float().mean()) for b, v in row.items()} for a, row in right.items()},
    }
    write_json(run.file("attacks", "transfer.json"), matrix)
    return matrix


def save_examples(run: Run, cells: Sequence[Cell], plan: AttackPlan, count: int, reporter: Reporter) -> list[Path]:
    """Save up to ``count`` examples of the shipped ensemble's last cell: clean, attacked and amplified difference.

    The attack is repeated (it is deterministic), and its images are rounded to 8 bits, as image files require.
    ``examples.json`` says how many images are fooled before and after rounding.
    """
    shipped = [c for c in cells if (c.model, c.phase) == ("ensemble", run.shipped["phase"])] or list(cells)
    cell = shipped[-1]
    images, part = run.images(), choose_part(run, plan.part)
    folder = run.file("attacks", f"examples-{cell.model}-{cell.phase}-{cell.condition}")
    written: list[Path] = []
    rows: list[dict[str, Any]] = []
    reporter.start("examples", count)
    chosen = _fooled_of_both(cell.load(run).table, count)
    for work in works(run, cell.model, cell.phase, images, part, plan):
        index = work.index[np.isin(images.ids[work.index].astype(str), chosen)]
        if not len(index):
            continue
        x, y, ids = tensors(images, index, plan.device)
        found = attack_cell(cell, work.detector, x, y, ids, plan)
        rounded = (found.x_adv * 255).round().clamp(0, 255) / 255
        still = ~right_on(work.detector, rounded, y, plan.batch)
        for k in found.success.nonzero().squeeze(1).tolist():
            stem = str(images.ids[index[k]]).replace("/", "__")
            difference = ((rounded[k] - x[k]) * AMPLIFIED + 0.5).clamp(0, 1)
            for kind, picture in (("clean", x[k]), ("adversarial", rounded[k]), ("difference", difference)):
                written.append(_save_png(picture, folder / f"{stem}-{kind}.png"))
            rows.append(
                {
                    "image_id": str(images.ids[index[k]]),
                    "file": f"{stem}-adversarial.png",
                    "label": int(y[k]),
                    "distance": float(found.distance[k]),
                    "margin": float(found.score[k]),
                    "fooled_after_rounding": bool(still[k]),
                }
            )
            reporter.advance(1)
    reporter.finish()
    summary = {
        "threat": str(cell.threat),
        "norm": cell.threat.norm,
        "eps": cell.threat.eps,
        "attack": cell.attack_name,
        "amplified": AMPLIFIED,
        "fooled": len(rows),
        "fooled_after_rounding": sum(r["fooled_after_rounding"] for r in rows),
        "images": rows,
    }
    write_json(folder / "examples.json", summary)
    return written


def _fooled_of_both(table: pd.DataFrame, count: int) -> list[str]:
    """Return the ids of up to ``count`` fooled images, alternating between the classes."""
    fooled = table[table["success"]]
    turn = fooled.groupby("label").cumcount()
    return [str(i) for i in fooled.assign(turn=turn).sort_values(["turn", "label"])["image_id"][:count]]


def _save_png(picture: Tensor, path: Path) -> Path:
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    write_atomic(path, lambda temporary: Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, "PNG"))
    return path
