"""The bootstrap of several scores at once: images are drawn as counts, so that one sort serves all resamples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from robustbench_df.metrics.intervals import NAN, Groups, Interval, percentile_interval, units
from robustbench_df.metrics.scores import Floats, Ints, checked, eer_of, tpr_of

BLOCK = 2**21
"""Counts held at a time: some 50 MB of intermediate results, however many images there are."""


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

    The same images are drawn as there for the same seed, so the intervals are the same too, many times sooner.

    Args:
        margin, verdict, labels: of N images; a verdict of 1 says fake.
        groups: images of one group are drawn together.
        level, resamples, seed: as in `intervals.bootstrap`.
    """
    margin, labels = checked(margin, labels)
    whole = _scores(np.ones((1, len(labels))), margin, verdict, labels)
    blocks = [_scores(counts, margin, verdict, labels) for counts in _counts(labels, groups, resamples, seed)]
    method = "bootstrap" if groups is None else "cluster bootstrap"
    return {
        name: percentile_interval(
            float(value[0]) if len(labels) else NAN,
            np.concatenate([block[name] for block in blocks]) if len(labels) else np.full(resamples, NAN),
            len(labels),
            method,
            level,
        )
        for name, value in whole.items()
    }


def _counts(labels: Ints, groups: Groups | None, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each image is drawn, ``[r, N]``, in blocks of resamples; units within their stratum."""
    drawn, rng, n = units(labels, groups), np.random.default_rng(seed), len(labels)
    size = max(BLOCK // max(n, 1), 1)
    for begin in range(0, resamples if n else 0, size):
        counts = np.empty((min(size, resamples - begin), n))
        for row in counts:
            rows = drawn.images(np.concatenate([rng.choice(s, len(s)) for s in drawn.strata if len(s)]))
            row[:] = np.bincount(rows, minlength=n)
        yield counts


def _scores(counts: NDArray[np.float64], margin: Floats, verdict: Ints, labels: Ints) -> dict[str, NDArray[np.float64]]:
    """Score images that are there ``counts`` ``[r, N]`` times; each score is ``[r]``."""
    if not counts.shape[1]:
        return {name: np.full(len(counts), NAN) for name in ("f1", "eer", "tpr_at_1pct_fpr")}
    order = np.argsort(-margin, kind="stable")
    falling = margin[order]
    last = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)  # of each distinct margin

    def rate(label: int) -> NDArray[np.float64]:
        below = np.cumsum(counts[:, order] * (labels[order] == label), axis=1)[:, last]
        with np.errstate(invalid="ignore"):
            share: NDArray[np.float64] = np.concatenate([np.zeros((len(counts), 1)), below], axis=1) / below[:, -1:]
        return share

    fpr, tpr = rate(0), rate(1)
    fake, called = labels == 1, np.asarray(verdict) == 1
    hit = counts @ (fake & called)
    with np.errstate(invalid="ignore"):
        f1 = 2 * hit / (counts @ fake.astype(float) + counts @ called.astype(float))
    return {"f1": f1, "eer": eer_of(fpr, tpr), "tpr_at_1pct_fpr": tpr_of(fpr, tpr, 0.01)}
