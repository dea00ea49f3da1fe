"""Ensemble weights, decisions and results, computed from the members' stored predictions without a forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.config import EnsembleConfig
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import DataError
from robustbench_df.metrics.calibration import Decision, fit_band, tempered_loss
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.metrics.weights import WEIGHTINGS, EnsembleWeights, cross_fitted, fit_weights
from robustbench_df.records import Predictions, Result, results_to_json
from robustbench_df.run import Run
from robustbench_df.rundir import json_text, write_json, write_text
from robustbench_df.summary import decide, judge, judge_unseen, results_of

CROSS_FITS = 5
"""Number of folds into which val, or the out-of-fold images, are divided to evaluate fitted weights."""

PARTS = ("val", "cal", "oof", "test")

TWINS = "twins.json"
"""File of a run that lists the ids of given test images with an exact or near copy outside test."""

DEDUPLICATED = "test-deduplicated"
"""Part name of results on the test images without `TWINS`; they are reported in addition to the official results."""


@dataclass(frozen=True, eq=False)
class Votes:
    """Clean predictions of all members on the same rows, on which weights and decisions are fitted.

    ``tables`` maps each member to its predictions; ``groups`` maps image ids to their groups, where there are any.
    """

    tables: Mapping[str, Predictions]
    groups: Mapping[str, str]

    @cached_property
    def rows(self) -> Predictions:
        """The first member's table: image, label, part and fold of each row."""
        return next(iter(self.tables.values()))

    @property
    def logits(self) -> Floats:
        """Logits of M members for N rows, float64 ``[M, N, 2]``."""
        return np.stack([table.logits for table in self.tables.values()])

    def where(self, *parts: str) -> NDArray[np.bool_]:
        """Return a mask of the rows of the first of ``parts`` that is not empty."""
        column = np.asarray(self.rows.table["part"], dtype=str)
        for part in parts:
            if (column == part).any():
                return np.asarray(column == part)
        return np.zeros(len(column), dtype=bool)

    def weigh(self, kind: str) -> tuple[EnsembleWeights, Floats]:
        """Fit weights on val or the out-of-fold rows; returns them and the logits that `unseen` combines with them."""
        rows = self.where("oof", "val")
        weights = fit_weights(kind, self.logits[:, rows], self.rows.labels[rows])
        return weights, self.unseen(weights)

    def unseen(self, weights: EnsembleWeights) -> Floats:
        """Return combined logits ``[N, 2]``; out-of-fold rows use weights of the same kind fitted without them."""
        combined, rows = weights.combine(self.logits), self.where("oof")
        if rows.any():
            unseen = self._cross_fitted(weights.kind, rows)
            combined[rows] = combined[rows] if unseen is None else unseen
        return combined

    def loss(self, kind: str) -> float:
        """Return the cross-fitted log loss on val or the out-of-fold rows, at the best temperature.

        Confidence must not decide between kinds and phases, since calibration corrects it anyway.
        """
        rows = self.where("oof", "val")
        unseen = self._cross_fitted(kind, rows)
        if unseen is None:  # a kind must not win by having seen the labels, so all count as the one that needs none
            unseen = fit_weights("uniform", self.logits[:, rows], self.rows.labels[rows]).combine(self.logits[:, rows])
        return tempered_loss(margins(unseen), self.rows.labels[rows])

    def _cross_fitted(self, kind: str, rows: NDArray[np.bool_]) -> Floats | None:
        """Return combined logits of ``rows``, each by weights fitted without it; None if a class has one image."""
        groups = np.array([self.groups.get(i) or i for i in self.rows.table["image_id"][rows]], dtype=str)
        logits, labels = self.logits[:, rows], self.rows.labels[rows]
        for folds in range(CROSS_FITS, 1, -1):
            try:
                return cross_fitted(kind, logits, labels, groups=groups, folds=folds)
            except DataError:
                continue  # too few images or groups of a class for this number of folds
        return None


def fit_decision_on(table: Predictions, margin: Floats, rule: str) -> Decision:
    """Fit temperature and threshold on the out-of-fold rows, else on cal, or on val if the split has no cal."""
    parts = np.asarray(table.table["part"], dtype=str)
    part = next((p for p in ("oof", "cal", "val") if (parts == p).any()), "none")
    rows = parts == part
    return decide(margin[rows], table.labels[rows], rule, part)


def fit_band_on(table: Predictions, margin: Floats, alpha: float) -> dict[str, Any] | None:
    """Fit an abstention band on the out-of-fold rows or on cal; returns it in JSON form.

    None if neither part exists with both classes. Val is not used: checkpoints were chosen on it, so the band would be
    too optimistic.
    """
    parts = np.asarray(table.table["part"], dtype=str)
    part = next((p for p in ("oof", "cal") if len(set(table.labels[parts == p])) == 2), None)
    if part is None:
        return None
    rows = parts == part
    return fit_band(margin[rows], table.labels[rows], alpha, fitted_on=part).to_dict()


def judge_table(
    table: Predictions,
    margin: Floats,
    decision: Decision,
    rule: str,
    *,
    model: str,
    phase: str,
    condition: str,
    twins: Collection[str] = (),
    groups: Mapping[str, str] | None = None,
) -> list[Result]:
    """Score one detector under one condition, part by part, without and with the decision fitted on clean images.

    ``twins`` are ids of test images; if some are among the rows, test is also scored without them (`DEDUPLICATED`).
    ``groups`` has the group of each image id, "" for none; intervals resample whole groups.
    """
    parts = np.asarray(table.table["part"], dtype=str)
    fold = table.table["fold"].to_numpy()
    twin = table.table["image_id"].isin(list(twins)).to_numpy()
    owners = np.array([(groups or {}).get(str(name), "") for name in table.table["image_id"]])
    chosen = {part: parts == part for part in PARTS}
    if (twin & chosen["test"]).any():
        chosen[DEDUPLICATED] = chosen["test"] & ~twin
    results = []
    for part, rows in chosen.items():
        if not rows.any():
            continue
        labels, own = table.labels[rows], margin[rows]
        fitted = judge(own, decision)
        if condition == "clean":
            fitted = judge_unseen(own, labels, fold[rows], part=part, decision=decision, rule=rule)
        for name, judged in (("raw", judge(own, Decision())), ("calibrated", fitted)):
            results += results_of(
                judged, labels, owners[rows], model=model, phase=phase, condition=condition, part=part, decision=name
            )
    return results


def fit_ensembles(run: Run, images: ImageSet, phases: tuple[str, ...]) -> None:
    """Write ``ensemble.json``: per phase, weights of every kind, and decision and band of each member and ensemble.

    If it comes out otherwise than before, the cells in which the ensemble was attacked are removed: they are those of
    another ensemble.
    """
    config = run.config
    entry: dict[str, Any] = {}
    losses: dict[tuple[str, str], float] = {}
    for phase in phases:
        votes = votes_of(run, images, phase)
        rule, alpha = config.ensemble.threshold, config.ensemble.alpha
        members = {
            name: {
                "decision": fit_decision_on(table, margins(table.logits), rule).to_dict(),
                "band": fit_band_on(table, margins(table.logits), alpha),
            }
            for name, table in votes.tables.items()
        }
        ensembles = {}
        for kind in WEIGHTINGS:
            weights, combined = votes.weigh(kind)
            losses[phase, kind] = votes.loss(kind)
            decision = fit_decision_on(votes.rows, margins(combined), rule)
            ensembles[kind] = {
                "weights": weights.to_dict(),
                "decision": decision.to_dict(),
                "band": fit_band_on(votes.rows, margins(combined), alpha),
                "cross_fitted_log_loss": losses[phase, kind],
            }
        entry[phase] = {"members": members, "ensembles": ensembles}
    phase, kind = _ship(losses, config.ensemble)
    path, text = run.file("ensemble.json"), json_text({"shipped": {"kind": kind, "phase": phase}, **entry})
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        for cell in run.file("predictions").glob("ensemble-*.parquet"):
            cell.unlink()
    write_text(path, text)


def _ship(losses: Mapping[tuple[str, str], float], config: EnsembleConfig) -> tuple[str, str]:
    """Choose phase and kind as configured; ``auto`` takes the lowest cross-fitted log loss."""
    allowed = [
        (phase, kind) for phase, kind in losses if config.phase in ("auto", phase) and config.weights in ("auto", kind)
    ]
    return min(allowed, key=lambda choice: losses[choice])


def votes_of(run: Run, images: ImageSet, phase: str) -> Votes:
    """Collect the members' clean predictions of one phase."""
    return Votes({name: run.predictions(name, phase) for name in run.models}, groups_of(images))


def groups_of(images: ImageSet) -> dict[str, str]:
    """Return the group of each image id, "" for none."""
    return dict(zip(images.ids.astype(str), images.groups.astype(str), strict=True))


def write_results(run: Run, images: ImageSet, phases: tuple[str, ...], attacks: tuple[str, ...]) -> list[Result]:
    """Write ``results.json``: members and ensembles, clean and under ``attacks``, raw and calibrated."""
    rule = run.config.ensemble.threshold
    results: list[Result] = []
    twins = run.read_json(TWINS)["test"] if run.file(TWINS).exists() else ()
    judged = partial(judge_table, rule=rule, twins=twins, groups=groups_of(images))
    for phase in phases:
        for name in (*run.models, "ensemble"):
            # Clean ensembles of every kind are computed from the members' logits; only the shipped one is attacked.
            for condition in (*(("clean",) if name != "ensemble" else ()), *attacks):
                table = run.predictions(name, phase, condition)
                decision = run.decision(name, phase)
                results += judged(table, margins(table.logits), decision, model=name, phase=phase, condition=condition)
        votes = votes_of(run, images, phase)
        for kind in WEIGHTINGS:
            margin = margins(votes.weigh(kind)[1])
            decision = run.decision(f"ensemble-{kind}", phase)
            named = [f"ensemble-{kind}"] + (["ensemble"] if kind == run.shipped["kind"] else [])
            for name in named:
                results += judged(votes.rows, margin, decision, model=name, phase=phase, condition="clean")
    write_json(run.file("results.json"), results_to_json(results, fingerprint=images.fingerprint))
    return results
