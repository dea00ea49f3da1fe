"""Which images are hard: those that detectors get wrong, and those that they disagree on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.metrics.scores import Floats, Ints

Rows = NDArray[np.intp]


def hardest(p_fake: Floats, verdict: Ints, labels: Ints) -> Rows:
    """Rank the images that any of D detectors gets wrong, those wrong by most detectors first.

    Ties are ordered by the mean probability of the true class, lowest first, then by position.

    Args:
        p_fake: ``[D, N]``.
        verdict: 1 = fake, ``[D, N]``.
        labels: 1 = fake, ``[N]``.
    """
    wrong: NDArray[Any] = (verdict != labels).sum(0)
    against = np.abs(labels - p_fake).mean(0)
    order = np.lexsort((-against, -wrong))
    chosen: Rows = order[wrong[order] > 0]
    return chosen


def disputed(p_fake: Floats, verdict: Ints) -> Rows:
    """Rank the images on which the verdicts of D detectors differ, by the standard deviation of P(fake), largest first.

    Args: see `hardest`.
    """
    differ = verdict.min(0) != verdict.max(0)
    order = np.argsort(-p_fake.std(0), kind="stable")
    chosen: Rows = order[differ[order]]
    return chosen
