"""`rdf attack`: a run's detectors under attack, cell by cell; a finished cell is never computed again.

A cell is one detector (before or after phase 2, or the ensemble) under one attack or suite at one budget. Detectors are
attacked as deployed, with their decision; with folds, each image is attacked on the detectors that have not seen it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df.attack_plan import VOTES, AttackPlan, Cell, choose_part, plan_cells
from robustbench_df.attacks.clean import CleanPasses
from robustbench_df.attacks.runner import Attacked, run_attack
from robustbench_df.attacks.suite import run_suite
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.devices import choose_device
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Detector
from robustbench_df.progress import Reporter
from robustbench_df.records import Predictions
from robustbench_df.run import Run, assemble
from robustbench_df.train.state import load_checkpoint

Index = NDArray[np.intp]

LOADED, LOADED_PIXELS = 512, 512 * 224 * 224
"""Most images in memory at a time, and most pixels, so that memory use does not grow with the number attacked."""


@dataclass(frozen=True, eq=False)
class Work:
    """Some images of one part, all attacked on the same detector: that of a fold, or the deployed one."""

    detector: nn.Module
    index: Index
    part: str
    fold: int


def attack_run(run: Run, plan: AttackPlan, reporter: Reporter | None = None) -> list[Cell]:
    """Attack a run's detectors; only missing cells are computed, and each is written when it ends.

    Raises:
        UsageError: an unknown model, attack, suite or part.
        RunError: the run is not finished, or its images have changed.
    """
    reporter = reporter or Reporter()
    cells = plan_cells(run, plan)
    missing = [cell for cell in cells if not cell.path.exists()]
    if missing:
        images = run.images()
        part = choose_part(run, plan.part)
        with run.lock():
            run.file("attacks").mkdir(exist_ok=True)
            titles = (f"{k}/{len(missing)} · {cell.title}" for k, cell in enumerate(missing, start=1))
            for group in _grouped(missing):
                work = works(run, group[0].model, group[0].phase, images, part, plan)
                _attack_group(group, titles, work, images, run, plan, reporter)
    return cells


def works(run: Run, name: str, phase: str, images: ImageSet, part: str, plan: AttackPlan) -> list[Work]:
    """Pair the images of a part with the detectors that have not seen them."""
    where = {image_id: k for k, image_id in enumerate(images.ids)}
    table = run.split
    device = choose_device(plan.device)
    if part != "oof":
        rows = table[table["part"] == part].drop_duplicates("image_id")
        index = thin(np.array(sorted(where[i] for i in rows["image_id"]), dtype=np.intp), plan.images, images.labels)
        return [Work(deployed(run, name, phase, None).to(device), index, part, -1)]
    out = []
    for fold in range(run.folds):
        rows = table[(table["part"] == "cal") & (table["fold"] == fold)]
        share = -(-plan.images // run.folds) if plan.images else 0
        index = thin(np.array(sorted(where[i] for i in rows["image_id"]), dtype=np.intp), share, images.labels)
        out.append(Work(deployed(run, name, phase, fold).to(device), index, "oof", fold))
    return out


def deployed(run: Run, name: str, phase: str, fold: int | None) -> Detector:
    """Return a detector, the shipped kind of ensemble or a vote, with its decision.

    ``fold``: use the networks of that fold; None: as deployed. Each member of a vote uses its own decision.
    """

    def member(model: str) -> Detector:
        return run.detector(model, phase) if fold is None else load_checkpoint(run.model_dir(model, fold), phase)

    if name in VOTES:
        return VOTES[name]([Deployed(member(model), run.decision(model, phase)) for model in run.models]).eval()
    if name == "ensemble":
        whole: Detector = assemble([member(model) for model in run.models], run.weights(phase=phase))
    else:
        whole = member(name)
    return Deployed(whole, run.decision(name, phase)).eval()


def _grouped(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Group the cells that can share a gradient: all budgets of FGSM, whose single gradient does not depend on them."""
    group: list[Cell] = []
    for cell in cells:
        same = group and (cell.model, cell.phase, cell.attack) == (group[0].model, group[0].phase, group[0].attack)
        if group and not (same and cell.attack_name == "fgsm"):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group


def _attack_group(
    cells: list[Cell],
    titles: Iterator[str],
    work: list[Work],
    images: ImageSet,
    run: Run,
    plan: AttackPlan,
    reporter: Reporter,
) -> None:
    """Write each cell when it ends. A killed process loses only the current cell and the shared gradient."""
    with closing(attack_images(cells, work, images, plan, reporter.advance, run.file("attacks"))) as tables:
        for cell in cells:
            reporter.start(next(titles), sum(len(w.index) for w in work))
            started = time.perf_counter()
            table = next(tables)
            notes = {
                "attack": cell.attack_name,
                "attacks": [spec.model_dump(mode="json") for spec in cell.specs()],
                "norm": cell.threat.norm,
                "eps": cell.threat.eps,
                "seed": plan.seed,
                "seconds": round(time.perf_counter() - started, 3),
            }
            reporter.finish()
            Predictions(table, run.fingerprint, notes).save(cell.path)


def attack_images(
    cells: Sequence[Cell],
    work: Sequence[Work],
    images: ImageSet,
    plan: AttackPlan,
    advance: Callable[[int], None],
    folder: Path | None = None,
) -> Generator[pd.DataFrame, None, None]:
    """Attack the images of all ``work``, few at a time; yields a table for each finished cell, with a row per image.

    Several cells are budgets of FGSM on one detector. They share one clean pass and gradient, which are counted with
    the first cell. These are kept in an unnamed temporary file in ``folder`` (None: the system's folder), which
    disappears with the process. ``advance`` is called with the number of images done.
    """
    few = max(min(LOADED, LOADED_PIXELS // (images.size[0] * images.size[1])), 1)
    with tempfile.TemporaryFile(dir=folder) as file:
        clean = CleanPasses(file) if len(cells) > 1 else None
        for cell in cells:
            parts = []
            for some in work:
                for begin in range(0, len(some.index), few):
                    index = some.index[begin : begin + few]
                    parts.append(_attack_part(cell, some, images, index, plan, clean, advance))
            yield pd.concat(parts, ignore_index=True)


def _attack_part(
    cell: Cell,
    some: Work,
    images: ImageSet,
    index: Index,
    plan: AttackPlan,
    clean: CleanPasses | None,
    advance: Callable[[int], None],
) -> pd.DataFrame:
    """Attack a few images; returns a row of numbers per image, so that no image stays in memory."""
    found = attack_cell(cell, some.detector, *tensors(images, index, plan.device), plan, clean, advance)
    return _rows(cell, found, images, index, some)


def tensors(images: ImageSet, index: Index, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return float images in [0, 1], labels and keys of ``images[index]`` on a device, or on the fastest (``auto``)."""
    device = choose_device(device)
    x = torch.from_numpy(images.pixels(index)).to(device).float().div_(255)
    y = torch.from_numpy(images.labels[index].astype(np.int64)).to(device)
    return x, y, torch.from_numpy(images.keys(index)).to(device)


def attack_cell(
    cell: Cell,
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    plan: AttackPlan,
    clean: CleanPasses | None = None,
    progress: Callable[[int], None] | None = None,
) -> Attacked:
    """Run a cell's attack or suite on images; arguments as for `run_attack`."""
    options: dict[str, Any] = {"ids": ids, "seed": plan.seed, "batch_size": plan.batch, "progress": progress}
    if isinstance(cell.attack, str):
        return run_suite(detector, x, y, cell.attack, eps=cell.threat.eps, norm=cell.threat.norm, **options)
    return run_attack(detector, x, y, cell.specs()[0], clean=clean, **options)


def _rows(cell: Cell, found: Attacked, images: ImageSet, index: Index, work: Work) -> pd.DataFrame:
    per_image = ("correct", "success", "first_step", "distance", "nearest", "forwards", "backwards", "by")
    counts = ("not_finite", "zero_gradients")
    numbers = {name: getattr(found, name).cpu().numpy() for name in (*per_image, *counts)}
    logits, clean = found.logits.cpu().numpy(), found.clean_logits.cpu().numpy()
    return pd.DataFrame(
        {
            "model": cell.model,
            "phase": cell.phase,
            "condition": cell.condition,
            "image_id": images.ids[index].astype(str),
            "label": images.labels[index],
            "part": work.part,
            "fold": np.int16(work.fold),
            "logit_real": logits[:, 0],
            "logit_fake": logits[:, 1],
            "clean_logit_real": clean[:, 0],
            "clean_logit_fake": clean[:, 1],
            **numbers,
        }
    )
