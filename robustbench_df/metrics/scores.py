"""Scores of a real/fake detector: pure functions of its margins and the labels.

The score of an image is its ``margin = logit_fake - logit_real`` and ``P(fake) = sigmoid(margin)``. Labels
are 0 = real, 1 = fake; fake is the positive class. An image is called fake when ``P(fake) >= threshold``.

Undefined scores are ``nan``: every score without images, and every score that compares the two classes when one of them
is missing. They are never replaced by .5 or 0, so a table can say "undefined".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_df.errors import DataError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Statistic = Callable[[Floats, Ints], float]
"""A function that turns margins and labels into one number."""

_BELOW_ONE = float(np.nextafter(1.0, 0.0))


def margins(logits: Floats) -> Floats:
    """Return ``logit_fake - logit_real`` in float64 for logits ``[..., 2]`` ordered (real, fake)."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[-1:] != (2,):
        raise DataError(f"logits have shape {logits.shape}; give [N, 2] in the order (real, fake)")
    return logits[..., 1] - logits[..., 0]


def probability(margin: Floats) -> Floats:
    """Return ``P(fake) = sigmoid(margin)``, in ``[0, 1)`` and free of overflow.

    It is capped at the largest float below 1, so a threshold of 1 always means "never fake" and 0 "always fake".
    """
    margin = np.asarray(margin, np.float64)
    decay = np.exp(-np.abs(margin))
    return np.minimum(np.where(margin >= 0, 1.0, decay) / (1.0 + decay), _BELOW_ONE)


def checked(margin: Floats, labels: Ints) -> tuple[Floats, Ints]:
    """Return margins as float64 and labels as int8, both ``[N]``; raise `DataError` for NaN, other labels or shapes."""
    margin, labels = np.asarray(margin, np.float64), np.asarray(labels)
    if margin.ndim != 1 or margin.shape != labels.shape:
        raise DataError(f"margins {margin.shape} and labels {labels.shape} must both be [N], one entry per image")
    if np.isnan(margin).any():
        raise DataError(f"{int(np.isnan(margin).sum())} of {len(margin)} margins are NaN: mend the detector's logits")
    odd = ~np.isin(labels, (0, 1))
    if odd.any():
        raise DataError(
            f"{int(odd.sum())} of {len(labels)} labels are not 0 or 1 (first: {labels[odd][0]}); "
            "leave unlabelled images out"
        )
    return margin, labels.astype(np.int8)


def fittable(margin: Floats, labels: Ints, what: str) -> tuple[Floats, Ints]:
    """Return `checked` margins and labels; raise `DataError` for a missing class or an infinite margin."""
    margin, labels = checked(margin, labels)
    n_real, n_fake = class_counts(labels)
    if not n_real or not n_fake:
        raise DataError(f"{what} cannot be fitted on {n_real} real and {n_fake} fake images; it needs both")
    infinite = int(np.isinf(margin).sum())
    if infinite:
        raise DataError(f"{what} cannot be fitted: {infinite} of {len(margin)} margins are infinite; clip them")
    return margin, labels


def class_counts(labels: Ints) -> tuple[int, int]:
    """Return the number of real and of fake images."""
    n_fake = int(np.count_nonzero(labels == 1))
    return len(labels) - n_fake, n_fake


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


# --- at one threshold -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Confusion:
    """Counts of images at one threshold; a positive is an image called fake. A rate of 0 / 0 is nan."""

    tn: int
    fp: int
    fn: int
    tp: int

    @property
    def n(self) -> int:
        """Number of images."""
        return self.tn + self.fp + self.fn + self.tp

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return _ratio(self.tn + self.tp, self.n)

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the two classes' recalls; nan unless both classes are present."""
        return (_ratio(self.tp, self.tp + self.fn) + _ratio(self.tn, self.tn + self.fp)) / 2

    @property
    def precision(self) -> float:
        """Share of fakes among the images called fake; nan if none is called fake."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the fakes called fake; nan without fakes."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """``2 TP / (2 TP + FP + FN)``; nan where no image is fake and none is called fake."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def confusion(margin: Floats, labels: Ints, threshold: float = 0.5) -> Confusion:
    """Count the four outcomes when images with ``P(fake) >= threshold`` are called fake."""
    margin, labels = checked(margin, labels)
    called = probability(margin) >= threshold
    cells = np.bincount(2 * labels.astype(np.intp) + called, minlength=4)
    return Confusion(*(int(cell) for cell in cells))


def accuracy(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Share of images classified correctly at ``threshold`` on P(fake)."""
    return confusion(margin, labels, threshold).accuracy


def balanced_accuracy(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Mean recall of the two classes; nan unless both are present (Brodersen et al. 2010)."""
    return confusion(margin, labels, threshold).balanced_accuracy


def precision(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Share of fakes among the images called fake; nan where none is called fake."""
    return confusion(margin, labels, threshold).precision


def recall(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Share of the fakes that are called fake (the true positive rate); nan without fakes."""
    return confusion(margin, labels, threshold).recall


def f1(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Harmonic mean of precision and recall of the fake class, ``2 TP / (2 TP + FP + FN)``."""
    return confusion(margin, labels, threshold).f1


# --- of the probabilities -------------------------------------------------------------------------


def log_loss(margin: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood in nats, from the margins: exact where sigmoid would round to 0 or 1."""
    margin, labels = checked(margin, labels)
    if not len(labels):
        return float("nan")
    return float(np.logaddexp(0.0, np.where(labels == 1, -margin, margin)).mean())


def brier(margin: Floats, labels: Ints) -> float:
    """Mean of ``(P(fake) - label)²``, in [0, 1] (Brier 1950, in the one-sided form used for two classes)."""
    margin, labels = checked(margin, labels)
    return float(np.mean((probability(margin) - labels) ** 2)) if len(labels) else float("nan")


# --- over all thresholds --------------------------------------------------------------------------


class Roc(NamedTuple):
    """Rates when every image with at least ``margin`` is called fake, from (0, 0) at infinity to (1, 1)."""

    fpr: Floats
    tpr: Floats
    margin: Floats


class PrecisionRecall(NamedTuple):
    """Precision and recall when every image with at least ``margin`` is called fake, in descending order of margin."""

    precision: Floats
    recall: Floats
    margin: Floats


def cumulative(score: Floats, labels: Ints) -> tuple[Floats, Ints, Ints]:
    """Return the distinct scores, descending, and how many fakes and reals score at least each of them."""
    values, where = np.unique(score, return_inverse=True)
    fakes, reals = (np.bincount(where[labels == label], minlength=len(values)) for label in (1, 0))
    return values[::-1], np.cumsum(fakes[::-1]), np.cumsum(reals[::-1])


def roc_curve(margin: Floats, labels: Ints) -> Roc:
    """Return the ROC curve, a point per distinct margin; a rate whose class is missing is nan throughout."""
    margin, labels = checked(margin, labels)
    values, tp, fp = cumulative(margin, labels)
    n_real, n_fake = class_counts(labels)
    fpr = np.append(0, fp) / (n_real or np.nan)
    tpr = np.append(0, tp) / (n_fake or np.nan)
    return Roc(fpr, tpr, np.append(np.inf, values))


def precision_recall_curve(margin: Floats, labels: Ints) -> PrecisionRecall:
    """Return precision and recall at each distinct margin; recall is nan throughout without fakes."""
    margin, labels = checked(margin, labels)
    values, tp, fp = cumulative(margin, labels)
    return PrecisionRecall(tp / (tp + fp), tp / (class_counts(labels)[1] or np.nan), values)


def midranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks


def auc(margin: Floats, labels: Ints) -> float:
    """Area under the ROC curve: P(a fake outscores a real), ties counting half (Mann & Whitney 1947)."""
    margin, labels = checked(margin, labels)
    n_real, n_fake = class_counts(labels)
    wins = float(midranks(margin)[labels == 1].sum()) - n_fake * (n_fake + 1) / 2
    return _ratio(wins, n_fake * n_real)


def average_precision(margin: Floats, labels: Ints) -> float:
    """Sum of ``(R_k - R_{k-1}) P_k`` over the PR curve, not interpolated; nan unless both classes are present."""
    curve = precision_recall_curve(margin, labels)
    if 0 in class_counts(labels):
        return float("nan")
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def eer(margin: Floats, labels: Ints) -> float:
    """Equal error rate: the FPR where FPR = 1 - TPR on the linearly interpolated ROC curve."""
    fpr, tpr, _ = roc_curve(margin, labels)
    return float(eer_of(fpr, tpr))


def eer_of(fpr: Floats, tpr: Floats) -> Floats:
    """Return the equal error rate ``[...]`` of ROC curves ``[..., K]``; nan where a rate is nan."""
    if fpr.shape[-1] < 2:  # no images
        return np.full(fpr.shape[:-1], np.nan)
    gap = 1.0 - tpr - fpr  # decreases from 1 to -1
    after = np.maximum(np.argmax(gap <= 0, axis=-1), 1)[..., None]
    high, low = (np.take_along_axis(gap, row, -1)[..., 0] for row in (after - 1, after))
    left, right = (np.take_along_axis(fpr, row, -1)[..., 0] for row in (after - 1, after))
    with np.errstate(invalid="ignore"):
        rate: Floats = left + high / (high - low) * (right - left)
    return np.asarray(np.where(np.isnan(gap).any(-1), np.nan, rate))


def tpr_at_fpr(margin: Floats, labels: Ints, target: float = 0.01) -> float:
    """Return the largest TPR among the points of the ROC curve with ``FPR <= target``, not interpolated.

    A target below ``1 / n_real`` therefore allows no false alarm at all.
    """
    fpr, tpr, _ = roc_curve(margin, labels)
    return float(tpr_of(fpr, tpr, target))


def tpr_of(fpr: Floats, tpr: Floats, target: float) -> Floats:
    """Return `tpr_at_fpr` ``[...]`` of ROC curves ``[..., K]``; nan where a rate is nan."""
    found = np.where(fpr <= target, tpr, 0.0).max(-1)
    return np.asarray(np.where(np.isnan(fpr).any(-1) | np.isnan(tpr).any(-1), np.nan, found))


class Part(NamedTuple):
    """A score of one part of the images, and how many images that is."""

    value: float
    n: int


def breakdown(statistic: Statistic, margin: Floats, labels: Ints, keys: NDArray[Any] | None = None) -> dict[str, Part]:
    """Score each part of the images separately.

    A part is all images with the same entry of ``keys`` ``[N]`` (such as a source); without keys, the parts are the
    classes. Parts are sorted by name. A statistic that needs both classes is nan for a part of one class.
    """
    margin, labels = checked(margin, labels)
    keys = np.where(labels == 1, "fake", "real") if keys is None else np.asarray(keys)
    if keys.shape != labels.shape:
        raise DataError(f"{len(keys)} keys for {len(labels)} images: give one per image")
    parts = {str(key): np.flatnonzero(keys == key) for key in np.unique(keys)}
    return {key: Part(statistic(margin[rows], labels[rows]), len(rows)) for key, rows in parts.items()}
