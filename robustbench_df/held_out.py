"""Score a run's detectors, clean and after one attack step, on all images that they were not trained on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from robustbench_df.config import RunConfig
from robustbench_df.data.split import Split
from robustbench_df.data.thinning import thin
from robustbench_df.evaluate import CLEAN, Condition, predict_logits, predictions_table
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.progress import Reporter
from robustbench_df.records import Predictions
from robustbench_df.run import Run, assemble
from robustbench_df.summary import judged_part
from robustbench_df.train.job import PHASES
from robustbench_df.train.speed import Setting
from robustbench_df.train.state import load_checkpoint


class Judges(NamedTuple):
    """The detectors that score a cell: one per fold, and the deployed one, which consists of the same networks."""

    of_fold: Sequence[Detector]
    deployed: Detector


def conditions(config: RunConfig) -> tuple[Condition, ...]:
    """Return the conditions of `train_all`: clean, and FGSM at the budget that chose the checkpoint of phase 2."""
    return CLEAN, Condition("fgsm", config.phase2.select_epsilon)


def score_members(run: Run, splits: list[Split], config: RunConfig, reporter: Reporter) -> None:
    """Score every detector before and after phase 2, cell by cell; a finished cell is not computed again."""
    for name in config.models:
        for phase in PHASES:
            judge = partial(_member, run, name, phase)
            _missing_cells(run, name, phase, conditions(config), judge, splits, reporter)


def score_ensemble(run: Run, splits: list[Split], config: RunConfig, reporter: Reporter) -> None:
    """Score the shipped kind of ensemble under attack, as deployed: the gradient passes through all members."""
    for phase in PHASES:
        judge = partial(_whole, run, phase)
        _missing_cells(run, "ensemble", phase, conditions(config)[1:], judge, splits, reporter)


def _whole(run: Run, phase: str, folds: int) -> Judges:
    """Return the ensemble of each fold, and the deployed one.

    The deployed ensemble combines the members' means over the folds. This differs from the mean of the folds' ensembles
    if the combination is not linear (stacking).
    """
    members = [_member(run, name, phase, folds) for name in run.models]
    weights = run.weights(phase=phase)
    of_fold = [assemble([member.of_fold[k] for member in members], weights) for k in range(folds)]
    return Judges(of_fold, assemble([member.deployed for member in members], weights))


def _member(run: Run, name: str, phase: str, folds: int) -> Judges:
    device = Setting(**run.read_json("speed.json")[name]).device
    places = [run.model_dir(name, k if folds > 1 else None) for k in range(folds)]
    of_fold = [load_checkpoint(place, phase).to(device) for place in places]
    return Judges(of_fold, Ensemble(of_fold).eval() if folds > 1 else of_fold[0])


def _missing_cells(
    run: Run,
    name: str,
    phase: str,
    wanted: tuple[Condition, ...],
    judge: Callable[[int], Judges],
    splits: list[Split],
    reporter: Reporter,
) -> None:
    cells = [c for c in wanted if not run.predictions_path(name, phase, c.name).exists()]
    if cells:
        judges = judge(len(splits))
        for condition in cells:
            limit = run.config.attack_images if condition != CLEAN else 0
            predictions = score_cell(name, phase, condition, judges, splits, reporter, limit)
            predictions.save(run.predictions_path(name, phase, condition.name))


def score_cell(
    name: str,
    phase: str,
    condition: Condition,
    judges: Judges,
    splits: list[Split],
    reporter: Reporter,
    limit: int = 0,
) -> Predictions:
    """Score one detector under one condition on all images that it was not trained on.

    With folds, the held-out part of each fold is scored by that fold's detector, and test by the deployed one.
    ``limit`` is the number of images per part, where the held-out parts of all folds count as one part; 0 takes all.
    """
    images = splits[0].images
    work: list[tuple[str, int, Detector, np.ndarray[Any, np.dtype[np.intp]]]] = []
    if len(splits) == 1:
        # Attacks are costly: only the judged part is attacked. Weights and decisions also need val and cal, clean.
        parts = [part for part in ("val", "cal", "test") if len(splits[0].part(part))]
        parts = parts if condition == CLEAN else [judged_part(parts)]
        work += [(part, -1, judges.deployed, splits[0].part(part)) for part in parts]
    else:
        own = zip(judges.of_fold, splits, strict=True)
        work += [("oof", k, detector, split.cal) for k, (detector, split) in enumerate(own)]
        work += [("test", -1, judges.deployed, splits[0].test)]
    if limit:
        shares = Counter(part for part, *_ in work)
        work = [(part, fold, d, thin(i, -(-limit // shares[part]), images.labels)) for part, fold, d, i in work]
    reporter.start(f"{name} · {phase} · {condition.name}", sum(len(index) for *_, index in work))
    tables = []
    seconds: dict[str, float] = {}
    for part, fold, detector, index in work:
        if len(index):
            started = time.perf_counter()
            logits = predict_logits(detector, images, index, transform=condition.transform(), progress=reporter.advance)
            seconds[part] = seconds.get(part, 0.0) + round(time.perf_counter() - started, 4)
            tables.append(
                predictions_table(
                    images,
                    index,
                    logits,
                    model=name,
                    phase=phase,
                    condition=condition.name,
                    part=part,
                    fold=fold,
                ).table
            )
    reporter.finish()
    return Predictions(pd.concat(tables, ignore_index=True), images.fingerprint, {"seconds": seconds})
