"""`rdf attack`: a run's detectors under attack, cell by cell; a finished cell is never computed again.

A cell is one detector (before or after phase 2, or the ensemble) under one attack or suite at one budget. Detectors are
attacked as deployed, with their decision; with folds, each image meets the detectors that have not seen it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from robustbench_df.attacks.catalogue import attack_named
from robustbench_df.attacks.runner import BATCH, Attacked, run_attack, run_sweep
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.suite import run_suite, suite_specs
from robustbench_df.attacks.threat import Threat
from robustbench_df.config import Count, Settings
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import RunError, UsageError, nearest
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Detector
from robustbench_df.models.wrappers import attackable_vote, soft_surrogate
from robustbench_df.records import Predictions, load_predictions
from robustbench_df.run import Run, assemble
from robustbench_df.train.report import Reporter
from robustbench_df.train.speed import choose_device
from robustbench_df.train.state import load_checkpoint

Index = NDArray[np.intp]

VOTES = {"vote": attackable_vote, "vote-surrogate": soft_surrogate}
"""The members' majority vote, and the smooth stand-in whose gradient attacks it: attacked when asked for by name."""

LOADED = 512
"""Images in memory at a time: it stays flat however many are attacked."""


class AttackPlan(Settings):
    """What `rdf attack` is asked for."""

    epsilons: tuple[Annotated[float, Field(ge=0)], ...] = (8 / 255,)
    norm: Literal["linf", "l2", "l1"] = "linf"
    attacks: tuple[AttackSpec | str, ...] = (AttackSpec(name="fgsm"), "quick")
    """Attacks, and suites by name."""
    models: tuple[str, ...] = ()
    """Detectors by name, ``ensemble`` among them; empty: all but the `VOTES`."""
    phases: tuple[Literal["base", "final"], ...] = ("base", "final")
    part: Literal["auto", "test", "val", "oof"] = "auto"
    images: Count = 500
    """Most images, evenly spaced; 0 takes all of the part."""
    seed: int = 0
    device: str = "auto"
    batch: Annotated[int, Field(ge=1)] = BATCH


@dataclass(frozen=True)
class Cell:
    """One detector under one attack or suite at one budget, and where its table is kept."""

    model: str
    phase: str
    attack: AttackSpec | str
    threat: Threat
    path: Path

    @property
    def attack_name(self) -> str:
        """The attack's or suite's name."""
        return self.attack if isinstance(self.attack, str) else self.attack.name

    @property
    def condition(self) -> str:
        """Stable name, used in tables."""
        return f"{self.attack_name}-{self.threat.name}"

    def specs(self) -> list[AttackSpec]:
        """The attacks of the cell at its budget."""
        if isinstance(self.attack, str):
            return suite_specs(self.attack, self.threat.eps, self.threat.norm)
        values = {**self.attack.model_dump(), "eps": self.threat.eps, "norm": self.threat.norm}
        return [AttackSpec.model_validate(values)]

    def load(self, run: Run) -> Predictions:
        """Read the finished cell."""
        return load_predictions(self.path, run.fingerprint)


@dataclass(frozen=True, eq=False)
class Work:
    """Some images of one part, all attacked on the same detector: a fold's own, or the deployed one."""

    detector: nn.Module
    index: Index
    part: str
    fold: int


def attack_run(run: Run, plan: AttackPlan, reporter: Reporter | None = None) -> list[Cell]:
    """Attack a run's detectors; every cell is written as it ends, and only missing ones are computed.

    Raises:
        UsageError: a model, attack, suite or part that is not there.
        RunError: the run is not finished, or its images have changed.
    """
    reporter = reporter or Reporter()
    cells = plan_cells(run, plan)
    missing = [cell for cell in cells if not cell.path.exists()]
    if missing:
        images = run.images()
        part = choose_part(run, plan.part)
        with run.lock():
            for group in _grouped(missing):
                work = works(run, group[0].model, group[0].phase, images, part, plan)
                _attack_group(group, work, images, run, plan, reporter)
    return cells


def plan_cells(run: Run, plan: AttackPlan) -> list[Cell]:
    """List the cells of a plan, cheapest attack first within a detector."""
    if not run.finished:
        raise RunError(f"run '{run.path}' is not finished; go on with: {run.resume_command}")
    whole = (*run.models, "ensemble")
    choices = (*whole, *VOTES)
    models = plan.models or whole
    for name in models:
        if name not in choices:
            raise UsageError(
                f"run '{run.name}' has no model '{name}'{nearest(name, choices)}; it has {', '.join(choices)}"
            )
    part = choose_part(run, plan.part)
    cells = []
    for name in models:
        for phase in plan.phases:
            for attack in plan.attacks:
                for eps in sorted(set(plan.epsilons)):
                    cell = Cell(name, phase, attack, Threat(plan.norm, eps), Path())
                    path = run.file("attacks", _file_name(run, cell, part, plan))
                    cells.append(Cell(name, phase, attack, cell.threat, path))
    return cells


def _file_name(run: Run, cell: Cell, part: str, plan: AttackPlan) -> str:
    """Name a cell by what it is and a digest of all that its numbers depend on."""
    specs = cell.specs()
    for spec in specs:
        attack_named(spec.name).check(spec)
    members = run.models if cell.model in VOTES else (cell.model,)
    decision = [run.decision(name, cell.phase).to_dict() for name in members]
    weights = run.weights(phase=cell.phase).to_dict() if cell.model == "ensemble" else None
    # A single decision stands as itself: files that were written before there were votes keep their names.
    what = [[spec.model_dump(mode="json") for spec in specs], part, plan.images, plan.seed]
    what += [decision if cell.model in VOTES else decision[0], weights]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=4).hexdigest()
    stem = f"{cell.model}-{cell.phase}-{cell.condition}-{digest}"
    return stem.replace(":", "_").replace("/", "_") + ".parquet"


def choose_part(run: Run, wanted: str) -> str:
    """Resolve ``auto``: test where the run has one, else the out-of-fold images, else val.

    Raises:
        UsageError: the run has no such part.
    """
    has = set(run.split["part"])
    there = [name for name in ("test", "oof", "val") if name in has or (name == "oof" and run.folds > 1)]
    if run.folds > 1:
        there = [name for name in there if name != "val"]  # val of a fold is train of another
    if wanted == "auto":
        return there[0]
    if wanted not in there:
        raise UsageError(f"run '{run.name}' has no part '{wanted}' to attack; choose from {', '.join(there)}")
    return wanted


def works(run: Run, name: str, phase: str, images: ImageSet, part: str, plan: AttackPlan) -> list[Work]:
    """Pair the images of a part with the detector that has not seen them."""
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


def thin(index: Index, limit: int, labels: NDArray[np.int8]) -> Index:
    """Keep at most ``limit`` entries (0: all), evenly spaced within each class, the classes in proportion."""
    if not limit or len(index) <= limit:
        return index
    by_class = index[np.argsort(labels[index], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(index) - 1, limit).round().astype(np.intp)])


def deployed(run: Run, name: str, phase: str, fold: int | None) -> Detector:
    """Return a detector, the shipped kind of ensemble or a vote, with its decision; of one fold, or as deployed (None).

    Each member of a vote votes by its own decision.
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
    """Put together what shares a gradient: the budgets of an attack whose only step does not depend on them."""
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
    cells: list[Cell], work: list[Work], images: ImageSet, run: Run, plan: AttackPlan, reporter: Reporter
) -> None:
    first = cells[0]
    title = f"{first.model} · {first.phase} · {first.attack_name} {', '.join(str(c.threat) for c in cells)}"
    reporter.start(title, sum(len(w.index) for w in work))
    started = time.perf_counter()
    tables = attack_images(cells, work, images, plan, reporter.advance)
    seconds = (time.perf_counter() - started) / len(cells)
    reporter.finish()
    for cell, table in zip(cells, tables, strict=True):
        notes = {
            "attack": cell.attack_name,
            "attacks": [spec.model_dump(mode="json") for spec in cell.specs()],
            "norm": cell.threat.norm,
            "eps": cell.threat.eps,
            "seed": plan.seed,
            "seconds": round(seconds, 3),
        }
        Predictions(table, run.fingerprint, notes).save(cell.path)


def attack_images(
    cells: list[Cell], work: Sequence[Work], images: ImageSet, plan: AttackPlan, advance: Callable[[int], None]
) -> list[pd.DataFrame]:
    """Attack the images of all ``work``, `LOADED` at a time; returns a table per cell, with a row per image.

    The cells are of one detector and one attack, at several budgets. ``advance`` is told how many images are done.
    """
    tables: list[list[pd.DataFrame]] = [[] for _ in cells]
    for some in work:
        for begin in range(0, len(some.index), LOADED):
            index = some.index[begin : begin + LOADED]
            for table, rows in zip(tables, _attack_part(cells, some, images, index, plan), strict=True):
                table.append(rows)
            advance(len(index))
    return [pd.concat(parts, ignore_index=True) for parts in tables]


def _attack_part(cells: list[Cell], some: Work, images: ImageSet, index: Index, plan: AttackPlan) -> list[pd.DataFrame]:
    """Attack a few images; what outlives the call is a row of numbers each, never an image."""
    found = _attack(cells, some.detector, *tensors(images, index, plan), plan)
    return [_rows(cell, one, images, index, some) for cell, one in zip(cells, found, strict=True)]


def tensors(images: ImageSet, index: Index, plan: AttackPlan) -> tuple[Tensor, Tensor, Tensor]:
    """Return float images in [0, 1], labels and keys of ``images[index]`` on the plan's device."""
    device = choose_device(plan.device)
    x = torch.from_numpy(images.pixels(index)).to(device).float().div_(255)
    y = torch.from_numpy(images.labels[index].astype(np.int64)).to(device)
    return x, y, torch.from_numpy(images.keys(index)).to(device)


def _attack(
    cells: list[Cell], detector: nn.Module, x: Tensor, y: Tensor, ids: Tensor, plan: AttackPlan
) -> list[Attacked]:
    first, epsilons = cells[0], [cell.threat.eps for cell in cells]
    options: dict[str, Any] = {"ids": ids, "seed": plan.seed, "batch_size": plan.batch}
    if isinstance(first.attack, str):
        return [run_suite(detector, x, y, first.attack, eps=epsilons[0], norm=first.threat.norm, **options)]
    if len(cells) == 1:
        return [run_attack(detector, x, y, first.specs()[0], **options)]
    return run_sweep(detector, x, y, first.specs()[0], epsilons, cumulative=False, **options)


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
