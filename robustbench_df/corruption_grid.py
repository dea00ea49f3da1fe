"""`rdf corrupt`: a run's detectors on corrupted images, cell by cell; a finished cell is never computed again.

A cell is one detector under one corruption at one severity, or under a chain. Detectors are judged as deployed, with
their decision; with folds, each image meets the detectors that have not seen it. A batch is corrupted once for all of
them, and what a member answers serves the ensemble too: the time goes into forwards that cannot be saved.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df.corruption_plan import CorruptionCell, CorruptionPlan, Damage, constants_of, plan_cells
from robustbench_df.corruption_summary import CLEAN
from robustbench_df.data.imageset import ImageSet
from robustbench_df.evaluate import predictions_table
from robustbench_df.memory import is_out_of_memory, keep_freed_memory
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Ensemble
from robustbench_df.records import Predictions
from robustbench_df.robustness import Index, choose_part, works
from robustbench_df.run import Run
from robustbench_df.train.report import Reporter
from robustbench_df.train.speed import DTYPES, choose_device, synchronize

PIXELS = 2**21
"""Most pixels of a batch (41 images of 224 px): a corruption holds several 64-bit copies while it draws its noise."""

Pair = tuple[str, str]
"""A detector, or ``ensemble``, and its phase."""


@dataclass(frozen=True, eq=False)
class Team:
    """The detectors that may be shown some images: a fold's own, or the deployed ones."""

    detectors: dict[Pair, nn.Module]
    index: Index
    part: str
    fold: int


@dataclass(eq=False)
class Collected:
    """What a cell has gathered so far."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    seconds: float = 0.0


class Once(nn.Module):
    """A detector that keeps its answer to the last batch, because the ensemble asks it the same again."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]``; the very same tensor is not computed twice."""
        if self._last is None or self._last[0] is not x:
            self._last = x, self.net(x)
        return self._last[1]


def corrupt_run(run: Run, plan: CorruptionPlan, reporter: Reporter | None = None) -> list[CorruptionCell]:
    """Judge a run's detectors on corrupted images; each cell is written as it ends, only missing ones are computed.

    The clean cell of every detector is among the cells: the same images, untouched.

    Raises:
        UsageError: a model, corruption, chain, constant set or part that is not there.
        RunError: the run is not finished, or its images have changed.
    """
    reporter = reporter or Reporter()
    cells = plan_cells(run, plan)
    missing = [cell for cell in cells if not cell.path.exists()]
    if missing:
        images = run.images()
        with run.lock():
            keep_freed_memory()
            teams = _teams(run, list(dict.fromkeys((c.model, c.phase) for c in missing)), images, plan)
            count = sum(len(team.index) for team in teams)
            for name, some in groupby(missing, key=lambda cell: cell.damage.name):
                same = [list(group) for _, group in groupby(some, key=lambda cell: cell.damage)]
                reporter.start(f"{name} · {max(map(len, same))} detectors", count * len(same))
                for group in same:
                    _compute(group, teams, images, run, plan, reporter)
                reporter.finish()
    return cells


def _teams(run: Run, pairs: Sequence[Pair], images: ImageSet, plan: CorruptionPlan) -> list[Team]:
    part = choose_part(run, plan.part)
    found = {pair: works(run, *pair, images, part, plan.places) for pair in pairs}
    teams = []
    for k, work in enumerate(found[pairs[0]]):
        detectors = {pair: found[pair][k].detector for pair in pairs}
        _share(detectors, run.models)
        teams.append(Team(detectors, work.index, work.part, work.fold))
    return teams


def _share(detectors: dict[Pair, nn.Module], models: Sequence[str]) -> None:
    """Let an ensemble use the very members that are judged beside it, where their phase is its own."""
    for (name, phase), whole in detectors.items():
        if name != "ensemble":
            continue
        members = cast(Ensemble, cast(Deployed, whole).net).members
        for k, model in enumerate(models):
            if (model, phase) in detectors:
                alone = cast(Deployed, detectors[model, phase])
                alone.net = members[k] = Once(alone.net)


def _compute(
    cells: Sequence[CorruptionCell],
    teams: Sequence[Team],
    images: ImageSet,
    run: Run,
    plan: CorruptionPlan,
    reporter: Reporter,
) -> None:
    """Judge the detectors of ``cells``, all of one damage, on every image, and write the cells."""
    damage, constants = cells[0].damage, constants_of(run, plan)
    collected = {(cell.model, cell.phase): Collected() for cell in cells}
    corrupting = 0.0
    size = max(min(plan.batch, PIXELS // (images.size[0] * images.size[1])), 1)
    for team in teams:
        done = 0
        while done < len(team.index):
            index = team.index[done : done + size]
            try:
                x, seconds = _damaged(damage, images, index, plan, constants)
                answers = {pair: _answer(team.detectors[pair], x, plan.precision) for pair in collected}
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size //= 2
                continue
            corrupting += seconds
            for (model, phase), (logits, spent) in answers.items():
                names = {"model": model, "phase": phase, "condition": damage.condition}
                some = predictions_table(images, index, logits, **names, part=team.part, fold=team.fold)
                collected[model, phase].tables.append(some.table)
                collected[model, phase].seconds += spent
            done += len(index)
            reporter.advance(len(index))
    notes = {
        "corruption": damage.name,
        "severity": damage.severity,
        "constants": constants if damage.name != CLEAN else None,
        "made_with": damage.made_with(constants),
        "seed": plan.seed,
        "precision": plan.precision,
        "corrupting_seconds": round(corrupting, 4),  # once for all detectors
    }
    for cell in cells:
        own = collected[cell.model, cell.phase]
        table = pd.concat(own.tables, ignore_index=True)
        Predictions(table, run.fingerprint, {**notes, "seconds": round(own.seconds, 4)}).save(cell.path)


def _damaged(
    damage: Damage, images: ImageSet, index: Index, plan: CorruptionPlan, constants: str
) -> tuple[Tensor, float]:
    """Return images as a detector takes them, damaged as 8-bit pixels, and the seconds that took."""
    device = torch.device(choose_device(plan.device))
    pixels = torch.from_numpy(images.pixels(index)).to(device)
    ids = torch.from_numpy(images.keys(index)).to(device)
    started = time.perf_counter()
    # As in `evaluate`: channels last is the faster layout for convolutions in fp32.
    x = damage.apply(pixels, ids, plan.seed, constants).float().div_(255)
    x = x.contiguous(memory_format=torch.channels_last)
    synchronize(device)
    return x, time.perf_counter() - started


@torch.no_grad()
def _answer(detector: nn.Module, x: Tensor, precision: str) -> tuple[NDArray[np.float32], float]:
    """Return deployed logits ``[N, 2]`` and the seconds they took."""
    started = time.perf_counter()
    with torch.autocast(x.device.type, DTYPES[precision], enabled=precision != "fp32"):
        logits: NDArray[np.float32] = detector(x).float().cpu().numpy()
    return logits, time.perf_counter() - started
