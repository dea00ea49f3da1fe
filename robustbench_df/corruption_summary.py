"""From the cells of `rdf corrupt` to numbers: accuracy, AUC, threshold gap, mCE, worst first. Never imports torch."""

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
"""The condition every other is compared with: the same images, untouched."""

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
"""A loss of accuracy below this is not worth an explanation: it lies within the interval of some hundred images."""


class Key(NamedTuple):
    """What a score belongs to; ``severity`` is 0 for clean images and for chains, which have none."""

    model: str
    phase: str
    corruption: str
    severity: int


@dataclass(frozen=True)
class Calibrated:
    """What was fitted for a detector: its decision, its abstention band (None: none) and the band's target error."""

    decision: Decision
    band: Band | None
    alpha: float


@dataclass(frozen=True)
class Score:
    """One cell: accuracy and AUC with 95% intervals, and the threshold gap, all as shares.

    They are those after calibration, as deployed; ``uncalibrated`` is the accuracy of P(fake) >= .5 before it. ``band``
    says what the abstention band does, None where none was fitted. Intervals are Wilson's and DeLong's, or where there
    are groups a cluster bootstrap's.
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

    The severities show the same images, so ``accuracy`` has a bootstrap interval that draws images, not cells (without
    `Outcomes` Wilson's of one severity's images, which is never too narrow). ``lost`` is clean accuracy minus this one,
    ``by_severity`` the accuracies it is the mean of. ``uncalibrated`` is the accuracy before calibration; ``covered``
    and ``set_size`` are those of the abstention band, nan where none was fitted.
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
    """``threshold``: most of the loss comes back with another threshold; ``ranking``: it does not; empty: no loss."""


class DetectorErrors(NamedTuple):
    """A detector's clean error and its errors under corruption against the reference.

    ``mean_error`` and ``mce`` are those of ``errors`` with intervals that draw images; None without `Outcomes`.
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
    """Score one cell's predictions table, whose logits are the deployed ones: fake from a margin of 0 on.

    Args:
        table: `Predictions.table` of the cell.
        fitted: what it was deployed with; without it nothing is said of before calibration, nor of abstention.
        clean: the same detector's table on clean images, on which out-of-fold bands are fitted; None: ``table`` is it.
        groups: group of each image id, "" for none; images of one group err together and are drawn together.
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
    """Measure the band; out of fold, where the stored one has seen the images, a band of the other folds for each."""
    margin, label, fold = _margin(table), table["label"].to_numpy(), table["fold"].to_numpy()
    if fold.min() < 0:
        return score_band(fitted.band.deployed(fitted.decision), margin, label) if fitted.band else None
    known = _margin(clean), clean["label"].to_numpy(), clean["fold"].to_numpy()
    try:
        return score_cross_fitted(margin, label, fold, *known, fitted.alpha)
    except DataError:  # a handful of images: the other folds hold one class only
        return None


def detectors(scores: Iterable[Key]) -> list[tuple[str, str]]:
    """Return the (model, phase) pairs, in the order met."""
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
        accuracy=_mean_accuracy(mean, list(cells.values())),
        auc=_mean(cell.auc.value for cell in cells.values()),
        threshold_gap=gap,
        lost=lost,
        by_severity={severity: cell.accuracy.value for severity, cell in sorted(cells.items())},
        uncalibrated=_mean(cell.uncalibrated for cell in cells.values()),
        covered=_mean(cell.band.coverage if cell.band else math.nan for cell in cells.values()),
        set_size=_mean(cell.band.size if cell.band else math.nan for cell in cells.values()),
        failure=_failure(lost, gap - clean.threshold_gap),
    )


def _mean_accuracy(mean: float, cells: Sequence[Score]) -> Interval:
    """Return the mean accuracy over cells of the same images, with its interval."""
    first = cells[0]
    if len(cells) == 1:
        return first.accuracy
    if first.outcomes is None:
        # A share of all cells, on the images of one: per image it varies by no more than a single verdict would.
        return replace(wilson(round(mean * first.accuracy.n), first.accuracy.n), value=mean)
    return first.outcomes.interval(mean, first.outcomes.resampled(_right(cells)[:, None])[:, 0])


def _right(cells: Iterable[Score]) -> Floats:
    """Return in how many of the cells each image was called rightly, as a share ``[N]``."""
    share: Floats = np.mean([cell.outcomes.right for cell in cells if cell.outcomes], axis=0)
    return share


def _failure(lost: float, won_back: float) -> str:
    """Name what failed; the clean gap is taken off before, since a threshold read off its own images always wins."""
    if not lost >= HURT or math.isnan(won_back):
        return ""
    return "threshold" if won_back >= lost / 2 else "ranking"


def errors(scores: Mapping[Key, Score], reference: tuple[str, str]) -> list[DetectorErrors]:
    """Return every detector's errors against the reference (model, phase), the highest mean error first.

    Over the 15 of `COMMON` where all were run, else over every corruption that was; chains, which have no severity, are
    not among them. Empty where there is none.

    Raises:
        UsageError: the reference has no cells.
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

    base = of(reference)
    out = []
    for pair in pairs:
        own = of(pair)
        found = corruption_errors(*own, *base, " ".join(reference))
        out.append(DetectorErrors(*pair, own[1], found, *_error_intervals(scores, names, pair, reference, found)))
    return sorted(out, key=lambda found: -found.errors.mean_error)


def _error_intervals(
    scores: Mapping[Key, Score],
    names: Sequence[str],
    pair: tuple[str, str],
    reference: tuple[str, str],
    found: CorruptionErrors,
) -> tuple[Interval | None, Interval | None]:
    """Return mean error and mCE with intervals that draw the same images for the detector and the reference."""
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
    """Return the corruptions that the mean errors are taken over; see `errors`."""
    run = tuple(dict.fromkeys(key.corruption for key in scores if key.severity))
    return COMMON if set(COMMON) <= set(run) else run


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)
