"""Bootstrap of several scores at once: resamples are counts per image, so one sort serves all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustbench_df.metrics.intervals import NAN, Groups, Interval, auc_interval, percentile_interval, units, wilson
from robustbench_df.metrics.scores import Floats, Ints, checked, eer_of, tpr_of

BLOCK = 2**21
"""Counts held at a time: about 50 MB of intermediate results for any number of images."""

KEPT = 2**25
"""Counts cached for the next score of the same images, one byte each: drawing takes longer than most scores."""

Counts = NDArray[np.float64]
"""How often each image is drawn, ``[r, N]``."""


def bootstrap_scores(
    margin: Floats,
    verdict: Ints,
    labels: Ints,
    *,
    groups: Groups | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return ``f1`` of the verdicts, ``eer`` and ``tpr_at_1pct_fpr`` with the intervals of `intervals.bootstrap`.

    The same seed draws the same images as there, so the intervals are the same too, but many times faster. The interval
    of the TPR at 1% FPR depends on the few highest-scoring reals: with 100 reals it covers the true value in 84% of
    cases, with 200 in 93% (simulated, normal margins).

    Args:
        margin, verdict, labels: of N images; a verdict of 1 means fake.
        groups: images of one group are drawn together.
        level, resamples, seed: as in `intervals.bootstrap`.
    """
    margin, labels = checked(margin, labels)
    whole = _scores(np.ones((1, len(labels))), margin, verdict, labels)
    blocks = [_scores(counts, margin, verdict, labels) for counts in drawn(labels, groups, resamples, seed)]
    return {
        name: percentile_interval(
            float(value[0]) if len(labels) else NAN,
            np.concatenate([block[name] for block in blocks]) if len(labels) else np.full(resamples, NAN),
            len(labels),
            method_of(groups),
            level,
        )
        for name, value in whole.items()
    }


def bootstrap_auc(
    margin: Floats,
    labels: Ints,
    *,
    groups: Groups | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the AUC with the interval of `intervals.bootstrap`; arguments as in `bootstrap_scores`."""
    margin, labels = checked(margin, labels)

    def area(counts: Counts) -> Floats:
        fpr, tpr = _curve(counts, margin, labels)
        # Ties are straight segments of the curve; the trapezoid below a segment counts each tie as one half.
        found: Floats = (np.diff(fpr, axis=1) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(1)
        return found

    if not len(labels):
        return Interval(NAN, NAN, NAN, 0, method_of(groups))
    replicates = np.concatenate([area(counts) for counts in drawn(labels, groups, resamples, seed)])
    value = float(area(np.ones((1, len(labels))))[0])
    return percentile_interval(value, replicates, len(labels), method_of(groups), level)


def resampled_means(
    values: Floats, labels: Ints, *, groups: Groups | None = None, resamples: int = 1000, seed: int = 0
) -> Floats:
    """Return bootstrap replicates ``[resamples, K]`` of the column means of ``values`` ``[N, K]``.

    All K columns share the same draws, so their sums, differences and ratios stay paired. For a mean over conditions
    with the same images, a column holds each image's mean over the conditions. Arguments as in `bootstrap_scores`; nan
    without images.
    """
    values = np.asarray(values, np.float64)
    if not len(labels):
        return np.full((resamples, values.shape[1]), NAN)
    blocks = (counts @ values / counts.sum(1, keepdims=True) for counts in drawn(labels, groups, resamples, seed))
    return np.concatenate(list(blocks))


def method_of(groups: Groups | None) -> str:
    """Name the method, for an `Interval`."""
    return "bootstrap" if groups is None else "cluster bootstrap"


def drawn(labels: Ints, groups: Groups | None, resamples: int, seed: int) -> Iterator[Counts]:
    """Yield how often each image is drawn, ``[r, N]``, in blocks of resamples; units are drawn within their stratum."""
    if resamples * len(labels) > KEPT:
        yield from _counts(labels, groups, resamples, seed)
        return
    names = None if groups is None else tuple(map(str, groups))
    for block in _kept(np.asarray(labels, np.int8).tobytes(), names, resamples, seed):
        yield block.astype(np.float64)


@lru_cache(maxsize=4)
def _kept(
    labels: bytes, groups: tuple[str, ...] | None, resamples: int, seed: int
) -> tuple[NDArray[np.unsignedinteger], ...]:
    blocks = list(_counts(np.frombuffer(labels, np.int8), groups, resamples, seed))
    return tuple(block.astype(np.min_scalar_type(int(block.max()))) for block in blocks)


def _counts(labels: Ints, groups: Groups | None, resamples: int, seed: int) -> Iterator[Counts]:
    drawn, rng, n = units(labels, groups), np.random.default_rng(seed), len(labels)
    size = max(BLOCK // max(n, 1), 1)
    for begin in range(0, resamples if n else 0, size):
        counts = np.empty((min(size, resamples - begin), n))
        for row in counts:
            rows = drawn.images(np.concatenate([rng.choice(s, len(s)) for s in drawn.strata if len(s)]))
            row[:] = np.bincount(rows, minlength=n)
        yield counts


def _curve(counts: Counts, margin: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """Return FPR and TPR ``[r, K]``, each image counted ``counts`` ``[r, N]`` times, from (0, 0) to (1, 1)."""
    order = np.argsort(-margin, kind="stable")
    falling = margin[order]
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)  # of each distinct margin

    def rate(label: int) -> Floats:
        below = np.cumsum(counts[:, order] * (labels[order] == label), axis=1)[:, last]
        with np.errstate(invalid="ignore"):
            share: Floats = np.concatenate([np.zeros((len(counts), 1)), below], axis=1) / below[:, -1:]
        return share

    return rate(0), rate(1)


def _scores(counts: Counts, margin: Floats, verdict: Ints, labels: Ints) -> dict[str, Floats]:
    """Score images, each counted ``counts`` ``[r, N]`` times; each score is ``[r]``."""
    if not counts.shape[1]:
        return {name: np.full(len(counts), NAN) for name in ("f1", "eer", "tpr_at_1pct_fpr")}
    fpr, tpr = _curve(counts, margin, labels)
    fake, called = labels == 1, np.asarray(verdict) == 1
    hit = counts @ (fake & called)
    with np.errstate(invalid="ignore"):
        f1 = 2 * hit / (counts @ fake.astype(float) + counts @ called.astype(float))
    return {"f1": f1, "eer": eer_of(fpr, tpr), "tpr_at_1pct_fpr": tpr_of(fpr, tpr, 0.01)}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcome of each image: 1 if it was classified correctly, else 0; its class; its group (None without groups).

    Means over cells with the same images are resampled by image, or by whole group, never by cell.
    """

    right: Floats
    labels: Ints
    groups: Groups | None

    def interval(self, value: float, replicates: Floats) -> Interval:
        """Return a mean's interval from its replicates.

        If they give no interval because all images had the same outcome, it is Wilson's, with the number of units as
        trials.
        """
        found = percentile_interval(value, replicates, len(self.labels), method_of(self.groups))
        if not math.isnan(found.low) or not len(self.labels):
            return found
        count = len(units(self.labels, self.groups).size)
        return replace(wilson(round(value * count), count), value=value, n=len(self.labels))

    def resampled(self, values: Floats) -> Floats:
        """Return replicates ``[R, K]`` of the means of ``values`` ``[N, K]``, with the same draws every time."""
        return resampled_means(values, self.labels, groups=self.groups)


def accuracy_and_auc(margin: Floats, outcomes: Outcomes) -> tuple[Interval, Interval]:
    """Return both with their intervals: Wilson's and DeLong's, or, with groups, a cluster bootstrap's.

    The errors within a group are correlated, so the images hold less information than their number suggests.

    Args:
        margin: ``logit_fake - logit_real`` of N images.
        outcomes: the outcomes of the same images.
    """
    right, labels = outcomes.right, outcomes.labels
    if outcomes.groups is None:
        return wilson(int(right.sum()), len(right)), auc_interval(margin, labels)
    accuracy = outcomes.interval(float(right.mean()), outcomes.resampled(right[:, None])[:, 0])
    return accuracy, bootstrap_auc(margin, labels, groups=outcomes.groups)


def real_groups(names: Groups) -> Groups | None:
    """Return the images' groups ("" for none), or None if no image has one, so that each image is its own unit."""
    return names if any(map(str, names)) else None
