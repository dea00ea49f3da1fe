"""Metrics with intervals from logits, as `results.json` and the terminal show them. Never imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from robustbench_df.metrics import scores
from robustbench_df.metrics.calibration import Decision, fit_decision
from robustbench_df.metrics.calibration_error import ece
from robustbench_df.metrics.intervals import Groups
from robustbench_df.metrics.resampling import Outcomes, accuracy_and_auc, real_groups
from robustbench_df.records import Predictions, Result

NAN = float("nan")

JudgedPart = Literal["test", "oof", "cal", "val"]
"""The parts on which results may be reported. The order matters, see `judged_part`."""

JUDGED_PARTS: tuple[str, ...] = get_args(JudgedPart)


def judged_part(there: Collection[str]) -> str:
    """Return the part on which results are reported: the first of `JUDGED_PARTS` that is ``there``.

    The order is by increasing optimism. Nothing is fitted on test. Out-of-fold images are new to the detectors that
    score them. On cal, two numbers are fitted: temperature and threshold. On val, checkpoints and weights are chosen.
    """
    return next(part for part in JUDGED_PARTS if part in there)


@dataclass(frozen=True, eq=False)
class Judged:
    """Margins after temperature scaling, and the verdicts that a decision gives to them."""

    margin: scores.Floats
    verdict: NDArray[np.int8]


def judge(margin: NDArray[Any], decision: Decision) -> Judged:
    """Apply one decision to all images."""
    _, verdict = decision.apply(margin)
    return Judged(np.asarray(margin, np.float64) / decision.temperature, verdict)


def judge_cross_fitted(margin: NDArray[Any], labels: NDArray[Any], fold: NDArray[Any], rule: str) -> Judged:
    """Fit a decision for each fold on the other folds and apply it to that fold (out-of-fold predictions)."""
    out = Judged(np.empty(len(margin)), np.empty(len(margin), np.int8))
    for k in np.unique(fold):
        held = fold == k
        part = judge(margin[held], decide(margin[~held], labels[~held], rule, "oof"))
        out.margin[held], out.verdict[held] = part.margin, part.verdict
    return out


def judge_unseen(
    margin: NDArray[Any], labels: NDArray[Any], fold: NDArray[Any], *, part: str, decision: Decision, rule: str
) -> Judged:
    """Judge the clean images of a part; out-of-fold images get a decision that was not fitted on them.

    The shipped ``decision`` was fitted on all out-of-fold images. There, each fold is therefore judged by a decision
    that is fitted on the other folds by ``rule``.
    """
    return judge_cross_fitted(margin, labels, fold, rule) if part == "oof" else judge(margin, decision)


def decide(margin: NDArray[Any], labels: NDArray[Any], rule: str, fitted_on: str) -> Decision:
    """Fit temperature and threshold by a rule of `config.EnsembleConfig`.

    With ``half`` the threshold stays 0.5. Without images of both classes nothing is fitted, and the default decision is
    returned.
    """
    if not len(labels) or labels.min() == labels.max():
        return Decision()
    if rule == "half":
        fitted = fit_decision(margin, labels, fitted_on=fitted_on)
        return Decision(fitted.temperature, 0.5, fitted_on, fitted.n)
    name, _, target = rule.partition(":")
    if name == "fpr":
        return fit_decision(margin, labels, rule="target_fpr", target_fpr=float(target), fitted_on=fitted_on)
    return fit_decision(margin, labels, rule=rule, fitted_on=fitted_on)


def measure(
    judged: Judged, labels: NDArray[Any], groups: Groups | None = None
) -> dict[str, tuple[float, float, float]]:
    """Return ``metric -> (value, low, high)``; only accuracy and AUC have intervals (`accuracy_and_auc`), others NaN.

    Args:
        judged: margins and verdicts of N images.
        labels: 1 = fake, ``[N]``.
        groups: group of each image, "" for none; the bootstrap resamples whole groups.
    """
    margin, verdict = judged.margin, judged.verdict
    # The counts are those of the verdicts, passed as margins of ±1, so that `confusion` has a single definition.
    table = scores.confusion(np.where(verdict == 1, 1.0, -1.0), labels)
    owners = None if groups is None else real_groups(groups)
    proportion, area = accuracy_and_auc(margin, Outcomes((verdict == labels).astype(np.float64), labels, owners))
    point = {
        "balanced_accuracy": table.balanced_accuracy,
        "precision": table.precision,
        "recall": table.recall,
        "f1": table.f1,
        "eer": scores.eer(margin, labels),
        "tpr_at_1pct_fpr": scores.tpr_at_fpr(margin, labels, 0.01),
        "log_loss": scores.log_loss(margin, labels),
        "brier": scores.brier(margin, labels),
        "ece": ece(margin, labels),
        "true_real": float(table.tn),
        "false_fake": float(table.fp),
        "false_real": float(table.fn),
        "true_fake": float(table.tp),
    }
    return {
        "accuracy": (proportion.value, proportion.low, proportion.high),
        "auc": (area.value, area.low, area.high),
        **{name: (float(value), NAN, NAN) for name, value in point.items()},
    }


def results_of(
    judged: Judged,
    labels: NDArray[Any],
    groups: Groups | None = None,
    *,
    model: str,
    phase: str,
    condition: str,
    part: str,
    decision: str,
) -> list[Result]:
    """Return one `Result` per metric of `measure`."""
    return [
        Result(model, phase, condition, part, decision, metric, *numbers, n=len(labels))
        for metric, numbers in measure(judged, labels, groups).items()
    ]


def best_member(clean: Mapping[str, Predictions]) -> str:
    """Return the member with the best accuracy before calibration, out of fold or on val, where weights are chosen.

    Args:
        clean: predictions of each member on clean images, of the same rows.
    """

    def accuracy(name: str) -> float:
        own = clean[name].part("oof")
        own = own if len(own.table) else clean[name].part("val")
        right = judge(scores.margins(own.logits), Decision()).verdict == own.labels
        return float(right.mean()) if len(right) else 0.0

    return max(clean, key=accuracy)


def find(results: Sequence[Result], **wanted: str) -> Result | None:
    """Return the first result whose fields equal ``wanted``."""
    return next((r for r in results if all(getattr(r, k) == v for k, v in wanted.items())), None)
