"""Detectors and ensembles on clean images, from their predictions: margins, verdicts and numbers with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_df.ensembling import Votes
from robustbench_df.errors import RunError
from robustbench_df.metrics.calibration import Decision
from robustbench_df.metrics.resampling import bootstrap_scores
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.metrics.weights import WEIGHTINGS, EnsembleWeights
from robustbench_df.records import Predictions
from robustbench_df.report.content.reading import PHASES, Material, Pair
from robustbench_df.report.content.words import bounded, estimate
from robustbench_df.report.document import Estimate
from robustbench_df.summary import Judged, judge, judge_unseen, judged_part, measure


@dataclass(frozen=True, eq=False)
class Subject:
    """One detector or ensemble, judged on the N images of one part.

    ``table`` holds the image, label, part and fold of each row; ``margin`` is the uncalibrated margin ``[N]``. ``raw``
    are the verdicts before calibration; ``fitted`` are those after it, None if no decision has been fitted yet.
    """

    model: str
    phase: str
    part: str
    table: pd.DataFrame
    margin: Floats
    raw: Judged
    fitted: Judged | None
    decision: Decision | None
    groups: NDArray[np.str_] | None

    @property
    def judged(self) -> Judged:
        """The verdicts that count: those after calibration, or those before it if there is no calibration."""
        return self.fitted or self.raw

    @property
    def labels(self) -> NDArray[np.int8]:
        """int8 ``[N]``, 1 = fake."""
        return np.asarray(self.table["label"], dtype=np.int8)

    @property
    def ids(self) -> list[str]:
        """Names of the images."""
        return [str(name) for name in self.table["image_id"]]

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which images are classified correctly, bool ``[N]``."""
        return np.asarray(self.judged.verdict == self.labels, dtype=bool)

    @cached_property
    def numbers(self) -> dict[str, Estimate]:
        """Every metric of `summary.measure` after calibration; F1, EER and TPR with bootstrap intervals."""
        return {**measured(self.judged, self.labels, self.groups), **_bootstrapped(self)}

    @cached_property
    def before(self) -> dict[str, Estimate]:
        """The same metrics before calibration, without bootstrap intervals."""
        return measured(self.raw, self.labels, self.groups)


def measured(judged: Judged, labels: NDArray[np.int8], groups: NDArray[np.str_] | None = None) -> dict[str, Estimate]:
    """Return every metric of `summary.measure` as an estimate; if there are groups, intervals resample whole groups."""
    found = measure(judged, labels, groups)
    return {name: bounded(*values, len(labels)) for name, values in found.items()}


def _bootstrapped(subject: Subject) -> dict[str, Estimate]:
    judged = subject.judged
    found = bootstrap_scores(judged.margin, judged.verdict, subject.labels, groups=subject.groups)
    return {name: estimate(interval) for name, interval in found.items()}


def subjects_of(material: Material) -> dict[Pair, Subject]:
    """Judge every detector and the shipped kind of ensemble in both phases, if there are predictions."""
    found: dict[Pair, Subject] = {}
    for name in material.config.models:
        for phase in PHASES:
            predictions = material.clean.get((name, phase))
            if predictions is not None and len(predictions.table):
                margin = margins(predictions.logits)
                decision = _decision(material, name, phase)
                found[name, phase] = _subject(material, name, phase, predictions, margin, decision)
    shipped = material.shipped
    if shipped is not None:
        for phase in PHASES:
            whole = ensemble_of(material, shipped[0], phase, "ensemble")
            if whole is not None:
                found["ensemble", phase] = whole
    return found


def _decision(material: Material, name: str, phase: str) -> Decision | None:
    """Return the decision of a detector or of ``ensemble-KIND``; None if it has not been fitted yet."""
    return material.run.decision(name, phase) if name in material.decided(phase) else None


def _subject(
    material: Material, name: str, phase: str, rows: Predictions, margin: Floats, decision: Decision | None
) -> Subject:
    parts = np.asarray(rows.table["part"], dtype=str)
    part = judged_part(set(parts))
    own = parts == part
    table, margin = rows.table[own].reset_index(drop=True), margin[own]
    labels, fold = table["label"].to_numpy(np.int8), table["fold"].to_numpy()
    fitted = None
    if decision is not None:
        rule = material.config.ensemble.threshold
        fitted = judge_unseen(margin, labels, fold, part=part, decision=decision, rule=rule)
    return Subject(
        model=name,
        phase=phase,
        part=part,
        table=table,
        margin=margin,
        raw=judge(margin, Decision()),
        fitted=fitted,
        decision=decision,
        groups=groups_in(material, table),
    )


def groups_in(material: Material, table: pd.DataFrame) -> NDArray[np.str_] | None:
    """Group of each row, for a bootstrap that resamples whole groups; None if the run has recorded none."""
    known = about(material, "group")
    if not any(known.values()):
        return None
    return np.array([known.get(str(name), "") for name in table["image_id"]], dtype=np.str_)


def about(material: Material, column: str) -> dict[str, str]:
    """Return a recorded property of each image (``group`` or ``source``) by image id; empty if it was not recorded."""
    if material.images is None or column not in material.images:
        return {}
    return dict(zip(material.images["image_id"].astype(str), material.images[column].astype(str), strict=True))


def votes_of(material: Material, phase: str) -> Votes | None:
    """Collect the members' clean predictions of one phase; None while some are missing.

    Raises:
        RunError: they are about different rows.
    """
    tables = {name: material.clean[name, phase] for name in material.config.models if (name, phase) in material.clean}
    if len(tables) < len(material.config.models):
        return None
    first_name, first = next(iter(tables.items()))
    columns = ["image_id", "label", "part", "fold"]
    for name, table in tables.items():
        if not table.table[columns].reset_index(drop=True).equals(first.table[columns].reset_index(drop=True)):
            raise RunError(
                f"the predictions of {name} and {first_name} ({phase}) are about different images; delete them and "
                f"run: {material.command('train-all --resume')}"
            )
    return Votes(tables, about(material, "group"))


def weights_of(material: Material, kind: str, phase: str) -> EnsembleWeights | None:
    """Return the fitted weights of one kind of ensemble; None if they have not been fitted yet."""
    return material.run.weights(kind, phase) if f"ensemble-{kind}" in material.decided(phase) else None


def ensemble_of(material: Material, kind: str, phase: str, name: str) -> Subject | None:
    """Judge an ensemble as ``results.json`` does: with its fitted weights, or out of fold with cross-fitted ones."""
    weights, votes = weights_of(material, kind, phase), votes_of(material, phase)
    if weights is None or votes is None or not len(votes.rows.table):
        return None
    decision = _decision(material, f"ensemble-{kind}", phase)
    return _subject(material, name, phase, votes.rows, margins(votes.unseen(weights)), decision)


def ensembles_of(material: Material, phase: str) -> dict[str, Subject]:
    """Judge every kind of weighting in one phase."""
    found = {kind: ensemble_of(material, kind, phase, f"ensemble-{kind}") for kind in WEIGHTINGS}
    return {kind: subject for kind, subject in found.items() if subject is not None}


def deployed_margins(material: Material, model: str, phase: str) -> dict[str, float] | None:
    """Margin of every clean image by image id, for the detector as `rdf attack` and `rdf corrupt` deploy it.

    From margin 0 on, an image is fake. None if there is nothing to compare with: no decision yet, or a vote.
    """
    if model == "ensemble":
        shipped, votes = material.shipped, votes_of(material, phase)
        weights = weights_of(material, shipped[0], phase) if shipped else None
        if shipped is None or weights is None or votes is None:
            return None
        table, margin = votes.rows.table, margins(weights.combine(votes.logits))
        decision = material.run.decision(model, phase)
    else:
        predictions, found = material.clean.get((model, phase)), _decision(material, model, phase)
        if predictions is None or found is None:
            return None
        table, margin, decision = predictions.table, margins(predictions.logits), found
    values = margin / decision.temperature - decision.offset
    return dict(zip(table["image_id"].astype(str), values.tolist(), strict=True))


def disagreements(material: Material, subjects: Mapping[Pair, Subject]) -> list[str]:
    """Say where ``results.json`` and the stored predictions give different numbers, so that one of them is stale."""
    recorded = {
        (r.model, r.phase, r.part, r.decision, r.metric): r.value
        for r in material.results or ()
        if r.condition == "clean"
    }
    lines = []
    for (model, phase), subject in subjects.items():
        if model == "ensemble" and subject.part == "oof" and material.images is None:
            continue  # cross-fitting needs the groups, which older runs did not record
        for decision, judged in (("raw", subject.raw), ("calibrated", subject.fitted)):
            values = measured(judged, subject.labels) if judged is not None else {}
            for metric in ("accuracy", "auc", "true_fake", "log_loss"):
                key = (model, phase, subject.part, decision, metric)
                if metric in values and key in recorded and _differ(values[metric].value, recorded[key]):
                    now, then = values[metric].value, recorded[key]
                    lines.append(f"{model} {phase} {decision} {metric}: {then:g} there, {now} from the predictions")
                    break
    return lines


def _differ(now: float | None, then: float) -> bool:
    if now is None or then != then:
        return (now is None) != (then != then)
    return abs(now - then) > 1e-6 * max(1.0, abs(then))
