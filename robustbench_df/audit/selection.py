"""A run's predictions and ensemble, checked against its split: who judged what, and what was chosen on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Figure
from robustbench_df.audit.runparts import JUDGED, PHASES, SELECTION, Parts
from robustbench_df.audit.statistics import Rows
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import RunError

if TYPE_CHECKING:
    from robustbench_df.ensembling import Votes
    from robustbench_df.run import Run

_TOLERANCE = 1e-6
"""Largest relative difference at which a refitted weight or threshold counts as the same: another BLAS may sum in
another order."""


def judged(run: Run, parts: Parts) -> AuditFinding:
    """Check every row of every table of predictions against the fold whose detector made it."""
    from robustbench_df.records import load_predictions

    paths = sorted(run.file("predictions").glob("*.parquet"))
    if not paths:
        raise RunError(f"run '{run.name}' has no predictions yet; finish it with: {run.resume_command}")
    rows_seen, seen, mislabelled = 0, set[str](), set[str]()
    for path in paths:
        table = load_predictions(path, run.fingerprint).table
        names = table["image_id"].astype(str).to_numpy()
        rows = np.array([parts.row_of.get(name, -1) for name in names], dtype=np.intp)
        wrong = _misplaced(rows, table["part"].astype(str).to_numpy(), table["fold"].to_numpy(), parts)
        other = (rows >= 0) & (table["label"].to_numpy() != parts.images.labels[rows])
        rows_seen += len(names)
        seen |= set(names[wrong].tolist())
        mislabelled |= set(names[other].tolist())
    figures: dict[str, Figure] = {
        "tables": len(paths),
        "rows": rows_seen,
        "images_seen_in_training": len(seen),
        "images_under_another_label": len(mislabelled),
    }
    said = f"{rows_seen:,} predictions in {len(paths)} tables"
    if not seen and not mislabelled:
        return JUDGED.found("pass", f"{said}: each by detectors that had not seen the image", figures)
    said += (
        f": {len(seen):,} images are not in the part they are judged in, {len(mislabelled):,} stand under another label"
    )
    remedy = "delete the run's predictions folder and go on with --resume, or train again"
    return JUDGED.found("fail", said, figures, sorted(seen | mislabelled), remedy)


def _misplaced(rows: Rows, part: NDArray[Any], fold: NDArray[Any], parts: Parts) -> NDArray[np.bool_]:
    """Tell which predictions are of an image outside the part they name, or of no image (row -1): bool ``[n]``."""
    wrong = rows < 0
    for k in np.unique(fold):
        # Fold -1 means the only detector, or the mean of all folds' detectors: none of them may have seen the image.
        makers = [int(k)] if k in parts.folds else list(parts.folds)
        for p in np.unique(part[fold == k]):
            own = (fold == k) & (part == p) & (rows >= 0)
            # Out-of-fold predictions are for the fold's held-out part, which the split calls cal.
            inside = [parts.membership(maker, "cal" if p == "oof" else str(p))[rows[own]] for maker in makers]
            wrong[own] = ~np.logical_and.reduce(inside)
    return wrong


def selection(run: Run, images: ImageSet) -> AuditFinding:
    """Fit weights and decisions again without the test images; they must equal the shipped ones."""
    from robustbench_df.ensembling import votes_of

    kept, rule, checked = run.read_json("ensemble.json"), run.config.ensemble.threshold, 0
    changed: list[str] = []
    losses: dict[tuple[str, str], float] = {}
    try:
        for phase in PHASES:
            blind = _without_test(votes_of(run, images, phase))
            again = list(_fitted_again(blind, kept[phase], rule))
            checked += len(again)
            changed += [f"{what}, {phase}" for what, was, now in again if not _same(was, now)]
            losses |= {(phase, kind): blind.loss(kind) for kind in kept[phase]["ensembles"]}
        if not _chosen_rightly(run, kept["shipped"], losses):
            changed.append("the choice of what is shipped")
        on = sorted({d["fitted_on"] for phase in PHASES for d in _decisions(kept[phase])})
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"'{run.file('ensemble.json')}' is damaged ({error!r}); fit the ensemble again") from error
    figures: dict[str, Figure] = {"fitted": checked, "not_reproduced": len(changed), "fitted_on": ", ".join(on)}
    if "test" in on or changed:
        what = (
            "decisions were fitted on test" if "test" in on else f"{len(changed)} of {checked} do not come out the same"
        )
        said = f"weights and decisions fitted again without the test images: {what} ({', '.join(changed[:3])})"
        remedy = "fit the ensemble again: delete ensemble.json and results.json and go on with --resume"
        return SELECTION.found("fail", said, figures, (), remedy)
    said = f"all {checked} weights and decisions come out the same when fitted again without the test images"
    return SELECTION.found("pass", f"{said} (fitted on {', '.join(on)})", figures)


def _without_test(votes: Votes) -> Votes:
    """Return the same predictions without the rows of test images."""
    from robustbench_df.ensembling import Votes

    kept = {
        name: replace(table, table=table.table[table.table["part"] != "test"].reset_index(drop=True))
        for name, table in votes.tables.items()
    }
    return Votes(kept, votes.groups)


def _fitted_again(votes: Votes, entry: dict[str, Any], rule: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield, for each weight and decision of a phase, its name, its value in the run, and its refitted value."""
    from robustbench_df.ensembling import fit_decision_on
    from robustbench_df.metrics.scores import margins

    for name, table in votes.tables.items():
        fresh = fit_decision_on(table, margins(table.logits), rule)
        yield f"decision of {name}", entry["members"][name]["decision"], fresh.to_dict()
    for kind, fitted in entry["ensembles"].items():
        weights, combined = votes.weigh(kind)
        yield f"weights {kind}", fitted["weights"], weights.to_dict()
        fresh = fit_decision_on(votes.rows, margins(combined), rule)
        yield f"decision of {kind}", fitted["decision"], fresh.to_dict()


def _decisions(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for fitted in (*entry["members"].values(), *entry["ensembles"].values()):
        yield fitted["decision"]


def _chosen_rightly(run: Run, shipped: dict[str, str], losses: dict[tuple[str, str], float]) -> bool:
    """Tell whether what is shipped follows from the settings and the losses without test (`rdf train-all`'s rule)."""
    config = run.config.ensemble
    allowed = {
        choice: loss
        for choice, loss in losses.items()
        if config.phase in ("auto", choice[0]) and config.weights in ("auto", choice[1])
    }
    mine = losses.get((shipped["phase"], shipped["kind"]), np.inf)
    return bool(mine <= min(allowed.values()) * (1 + _TOLERANCE)) and (shipped["phase"], shipped["kind"]) in allowed


def _same(was: Any, now: Any) -> bool:
    """Compare a value stored as JSON with the refitted one, numbers within `_TOLERANCE`."""
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() == now.keys() and all(_same(was[key], now[key]) for key in was)
    if isinstance(was, list | tuple) and isinstance(now, list | tuple):
        return len(was) == len(now) and all(_same(a, b) for a, b in zip(was, now, strict=True))
    if isinstance(was, float | int) and isinstance(now, float | int):
        return bool(np.isclose(was, now, rtol=_TOLERANCE, atol=_TOLERANCE))
    return bool(was == now)
