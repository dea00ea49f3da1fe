"""Numbers from the cells of `rdf corrupt`: accuracy, AUC, threshold gap, mCE; worst first. Never imports torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from robustbench_df.errors import DataError, UsageError, nearest
from robustbench_df.metrics.calibration import Band, BandScores, Decision, score_band, score_cross_fitted
from robustbench_df.metrics.compare import CorruptionErrors, corruption_errors
from robustbench_df.metrics.intervals import Interval, percentile_interval, wilson
from robustbench_df.metrics.resampling import Outcomes, accuracy_and_auc, method_of, real_groups
from robustbench_df.metrics.scores import Floats, confusion
from robustbench_df.metrics.thresholds import threshold_gap

CLEAN = "clean"
"""The condition that all others are compared with: the same images, unchanged."""

COMMON = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions that mCE is defined over (Hendrycks & Dietterich 2019, arXiv:1903.12261, section 4.1)."""

HURT = 0.05
"""A smaller loss of accuracy gets no explanation: it lies within the confidence interval of a few hundred images."""


class Key(NamedTuple):
    """Identifies a score; ``severity`` is 0 for clean images and for chains, which have none."""

    model: str
    phase: str
    corruption: str
    severity: int


@dataclass(frozen=True)
class Calibrated:
    """A detector's fitted decision, its abstention band (None if there is none) and the band's target error rate."""

    decision: Decision
    band: Band | None
    alpha: float


@dataclass(frozen=True)
class Score:
    """One cell: accuracy and AUC with 95% intervals, and the threshold gap, all as shares.

    The scores are those after calibration, as deployed; ``uncalibrated`` is the accuracy of P(fake) >= 0.5 before
    calibration. ``band`` holds the scores of the abstention band, None if none was fitted. Intervals are Wilson's and
    DeLong's, or those of a cluster bootstrap if the images have groups.
    """

    accuracy: Interval
    auc: Interval
    threshold_gap: float
    uncalibrated: float = math.nan
    band: BandScores | None = None
    outcomes: Outcomes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Row:
    """One detector under one corruption: means over the severities.

    All severities use the same images, so the interval of ``accuracy`` is a bootstrap over images, not over cells.
    Without `Outcomes` it is Wilson's interval for the number of images of one severity, which is never too narrow.
    ``lost`` is clean accuracy minus this accuracy, and ``by_severity`` are the accuracies that it averages.
    ``uncalibrated`` is the accuracy before calibration. ``covered`` and ``set_size`` are coverage and mean set size of
    the abstention band, nan if none was fitted.
    """

    model: str
    phase: str
    corruption: str
    accuracy: Interval
    auc: float
    threshold_gap: float
    lost: float
    by_severity: dict[int, float]
    uncalibrated: float
    covered: float
    set_size: float
    failure: str
    """``threshold``: another threshold recovers at least half of the loss; ``ranking``: it does not; empty: no loss."""


class DetectorErrors(NamedTuple):
    """A detector's clean error and its errors under corruption against the reference.

    ``mean_error`` and ``mce`` are those of ``errors``, with bootstrap intervals over images; None without `Outcomes`.
    """

    model: str
    phase: str
    clean_error: float
    errors: CorruptionErrors
    mean_error: Interval | None = None
    mce: Interval | None = None


def score(
    table: pd.DataFrame,
    fitted: Calibrated | None = None,
    clean: pd.DataFrame | None = None,
    groups: Mapping[str, str] | None = None,
) -> Score:
    """Score one cell's predictions table; its logits are the deployed ones, so a margin of at least 0 means fake.

    Args:
        table: `Predictions.table` of the cell.
        fitted: the deployed calibration; without it there are no scores before calibration and none of abstention.
        clean: the same detector's table on clean images, on which out-of-fold bands are fitted; None: ``table`` itself.
        groups: group of each image id, "" for none; a group's errors are correlated, so whole groups are resampled.
    """
    margin, label = _margin(table), table["label"].to_numpy()
    names = [(groups or {}).get(str(name), "") for name in table.get("image_id", ())]
    outcomes = Outcomes(np.where((margin >= 0) == (label == 1), 1.0, 0.0), label, real_groups(names))
    accuracy, area = accuracy_and_auc(margin, outcomes)
    return Score(
        accuracy=accuracy,
        auc=area,
        threshold_gap=threshold_gap(margin, label),
        uncalibrated=confusion(margin + fitted.decision.offset, label).accuracy if fitted else math.nan,
        band=_abstained(table, table if clean is None else clean, fitted) if fitted else None,
        outcomes=outcomes,
    )


def _margin(table: pd.DataFrame) -> Floats:
    margin: Floats = (table["logit_fake"] - table["logit_real"]).to_numpy("float64")
    return margin


def _abstained(table: pd.DataFrame, clean: pd.DataFrame, fitted: Calibrated) -> BandScores | None:
    """Score the abstention band; out of fold, each fold gets a band fitted on the others, not the stored one."""
    margin, label, fold = _margin(table), table["label"].to_numpy(), table["fold"].to_numpy()
    if fold.min() < 0:
        return score_band(fitted.band.deployed(fitted.decision), margin, label) if fitted.band else None
    known = _margin(clean), clean["label"].to_numpy(), clean["fold"].to_numpy()
    try:
        return score_cross_fitted(margin, label, fold, *known, fitted.alpha)
    except DataError:  # so few images that the other folds hold only one class
        return None


def detectors(scores: Iterable[Key]) -> list[tuple[str, str]]:
    """Return the distinct (model, phase) pairs, in order of appearance."""
    return list(dict.fromkeys((key.model, key.phase) for key in scores))


def rows(scores: Mapping[Key, Score]) -> list[Row]:
    """Average each detector and corruption over the severities; the lowest accuracy first.

    ``scores`` must hold the clean cell of every detector, on the same images.
    """
    found: dict[tuple[str, str, str], dict[int, Score]] = {}
    for key, value in scores.items():
        if key.corruption != CLEAN:
            found.setdefault(key[:3], {})[key.severity] = value
    out = [_row(*key, cells, scores[Key(*key[:2], CLEAN, 0)]) for key, cells in found.items()]
    return sorted(out, key=lambda row: (row.accuracy.value, row.auc))


def _row(model: str, phase: str, corruption: str, cells: dict[int, Score], clean: Score) -> Row:
    mean = _mean(cell.accuracy.value for cell in cells.values())
    gap = _mean(cell.threshold_gap for cell in cells.values())
    lost = clean.accuracy.value - mean
    return Row(
        model=model,
        phase=phase,
        corruption=corruption,
        accuracy=mean_accuracy([list(cells.values())]),
        auc=_mean(cell.auc.value for cell in cells.values()),
        threshold_gap=gap,
        lost=lost,
        by_severity={severity: cell.accuracy.value for severity, cell in sorted(cells.items())},
        uncalibrated=_mean(cell.uncalibrated for cell in cells.values()),
        covered=_mean(cell.band.coverage if cell.band else math.nan for cell in cells.values()),
        set_size=_mean(cell.band.size if cell.band else math.nan for cell in cells.values()),
        failure=_failure(lost, gap - clean.threshold_gap),
    )


def mean_accuracy(corruptions: Sequence[Sequence[Score]]) -> Interval:
    """Return the mean accuracy over corruptions, of each the mean over its cells, with the interval of `Row.accuracy`.

    All cells must be on the same images.
    """
    first = corruptions[0][0]
    if [len(cells) for cells in corruptions] == [1]:
        return first.accuracy
    mean = _mean(_mean(cell.accuracy.value for cell in cells) for cells in corruptions)
    if first.outcomes is None:
        # The mean over all cells, with the image count of one: per image it varies no more than a single verdict does.
        return replace(wilson(round(mean * first.accuracy.n), first.accuracy.n), value=mean)
    right: Floats = np.mean([_right(cells) for cells in corruptions], axis=0)
    return first.outcomes.interval(mean, first.outcomes.resampled(right[:, None])[:, 0])


def _right(cells: Iterable[Score]) -> Floats:
    """Return the share of cells in which each image was classified correctly, ``[N]``."""
    share: Floats = np.mean([cell.outcomes.right for cell in cells if cell.outcomes], axis=0)
    return share


def _failure(lost: float, won_back: float) -> str:
    """Name what failed; ``won_back`` is net of the clean gap: a threshold tuned on the same images always gains."""
    if not lost >= HURT or math.isnan(won_back):
        return ""
    return "threshold" if won_back >= lost / 2 else "ranking"


def errors(scores: Mapping[Key, Score], reference: tuple[str, str]) -> list[DetectorErrors]:
    """Return every detector's errors against the reference (model, phase), the highest mean error first.

    The mean is over the 15 corruptions of `COMMON` if all were run, otherwise over every corruption that was run.
    Chains are excluded, since they have no severity. The result is empty if no corruption was run.

    Raises:
        UsageError: the reference has no cells.
        DataError: the detectors' cells are of other corruptions, severities or numbers of images.
    """
    pairs = detectors(scores)
    if reference not in pairs:
        choices, wanted = [" ".join(pair) for pair in pairs], " ".join(reference)
        raise UsageError(f"the reference '{wanted}' was not run{nearest(wanted, choices)}; choose {', '.join(choices)}")
    names = counted(scores)
    if not names:
        return []

    def of(pair: tuple[str, str]) -> tuple[dict[str, list[float]], float]:
        errors: dict[str, list[float]] = {name: [] for name in names}
        for key, value in sorted(scores.items(), key=lambda item: item[0].severity):
            if key[:2] == pair and key.corruption in errors:
                errors[key.corruption].append(1 - value.accuracy.value)
        return errors, 1 - scores[Key(*pair, CLEAN, 0)].accuracy.value

    _require_same_cells(scores, pairs, names)
    base = of(reference)
    out = []
    for pair in pairs:
        own = of(pair)
        found = corruption_errors(*own, *base, " ".join(reference))
        out.append(DetectorErrors(*pair, own[1], found, *_error_intervals(scores, names, pair, reference, found)))
    return sorted(out, key=lambda found: -found.errors.mean_error)


def _require_same_cells(scores: Mapping[Key, Score], pairs: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """Refuse detectors with other cells or numbers of images, because their errors cannot be compared."""
    cells = {
        pair: {(key[2:], value.accuracy.n) for key, value in scores.items() if key[:2] == pair and key[2] in names}
        for pair in pairs
    }
    for pair, own in cells.items():
        if own != cells[pairs[0]]:
            (corruption, severity), n = min(own ^ cells[pairs[0]])
            has, lacks = (pair, pairs[0]) if ((corruption, severity), n) in own else (pairs[0], pair)
            raise DataError(
                f"{' '.join(has)} was judged under {corruption} at severity {severity} on {n:,} images, "
                f"{' '.join(lacks)} was not; run rdf corrupt on both alike"
            )


def _error_intervals(
    scores: Mapping[Key, Score],
    names: Sequence[str],
    pair: tuple[str, str],
    reference: tuple[str, str],
    found: CorruptionErrors,
) -> tuple[Interval | None, Interval | None]:
    """Return mean error and mCE with bootstrap intervals that resample the same images for detector and reference."""
    outcomes = next(score.outcomes for key, score in scores.items() if key[:2] == pair)
    if outcomes is None:
        return None, None

    def wrong(who: tuple[str, str]) -> Floats:
        cells = [[score for key, score in scores.items() if key[:3] == (*who, name)] for name in names]
        return 1 - np.stack([_right(some) for some in cells], axis=1)

    own, base = np.split(outcomes.resampled(np.hstack([wrong(pair), wrong(reference)])), 2, axis=1)
    ratio = np.divide(own, base, out=np.full(own.shape, np.nan), where=base > 0).mean(1)
    mce = percentile_interval(found.mce, ratio, len(outcomes.labels), method_of(outcomes.groups))
    return outcomes.interval(found.mean_error, own.mean(1)), mce


def counted(scores: Iterable[Key]) -> tuple[str, ...]:
    """Return the corruptions over which the mean errors are taken; see `errors`."""
    run = tuple(dict.fromkeys(key.corruption for key in scores if key.severity))
    return COMMON if set(COMMON) <= set(run) else run


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
