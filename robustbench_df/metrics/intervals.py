"""How sure a score is: Wilson for shares, DeLong for the AUC, a bootstrap of images or groups for the rest.

Every interval holds for other images from the same source and for this one detector. It does not include the variation
between training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.errors import DataError, UsageError
from robustbench_df.metrics.scores import (
    Floats,
    Ints,
    Statistic,
    auc,
    checked,
    class_counts,
    midranks,
    probability,
)

Groups = Sequence[str] | NDArray[Any]
NAN = float("nan")

_UNDEFINED_SHARE = 0.05
"""Share of the replicates that may be undefined; if more are, the whole bootstrap interval is undefined."""


@dataclass(frozen=True)
class Interval:
    """A value, its confidence interval ``[low, high]``, the number of images behind it, and the method.

    The ends are nan where the method gives no interval, even if the value is known.
    """

    value: float
    low: float
    high: float
    n: int
    method: str


def _tail(level: float) -> float:
    """Return the probability left out on each side."""
    if not 0 < level < 1:
        raise UsageError(f"confidence level {level} must lie strictly between 0 and 1, for example 0.95")
    return (1 - level) / 2


def normal_quantile(level: float) -> float:
    """Return z such that a normal variable lies within ±z with probability ``level``."""
    return NormalDist().inv_cdf(1 - _tail(level))


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return the score interval of a share (Wilson 1927): valid at 0, 1 and small n. nan for ``n = 0``."""
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes out of {n} is not a share")
    if n == 0:
        return Interval(NAN, NAN, NAN, 0, "wilson")
    z = normal_quantile(level)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and n the ends are exactly 0 and 1; rounding must not take the value out of its interval.
    return Interval(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), n, "wilson")


def placements(margin: Floats, labels: Ints) -> tuple[Floats, Floats]:
    """Return, per fake, the share of reals it outscores, and per real, the share of fakes that outscore it.

    Ties count half; the mean of either array is the AUC. Computed from midranks in O(N log N) (Sun & Xu 2014).
    """
    fake, real = margin[labels == 1], margin[labels == 0]
    ranks = midranks(margin)
    above = (ranks[labels == 1] - midranks(fake)) / len(real)
    below = 1.0 - (ranks[labels == 0] - midranks(real)) / len(fake)
    return above, below


def placement_variance(per_fake: Floats, per_real: Floats) -> float:
    """Return the variance of an AUC, or of a difference of AUCs, from placements; nan for a class of one image."""
    if min(len(per_fake), len(per_real)) < 2:
        return NAN
    return float(per_fake.var(ddof=1) / len(per_fake) + per_real.var(ddof=1) / len(per_real))


def auc_interval(margin: Floats, labels: Ints, level: float = 0.95) -> Interval:
    """Return the AUC with DeLong's interval (DeLong et al. 1988) on the logit scale, within (0, 1).

    Where DeLong's variance is 0 or unknown (an AUC of 0 or 1, a constant score, a class of one image), this is the
    Clopper-Pearson interval for ``m = min(n_fake, n_real)`` trials: the images can be divided into that many disjoint,
    independent (real, fake) pairs, each ordered correctly with probability AUC. For an AUC of 1, its lower end is
    ``(alpha / 2) ** (1 / m)``. All nan unless both classes are present.
    """
    margin, labels = checked(margin, labels)
    n_real, n_fake = class_counts(labels)
    value, z = auc(margin, labels), normal_quantile(level)
    if not n_real or not n_fake:
        return Interval(NAN, NAN, NAN, len(labels), "delong")
    variance = placement_variance(*placements(margin, labels))
    if not variance > 0:
        return Interval(value, *_clopper_pearson(value, min(n_real, n_fake), level), len(labels), "clopper-pearson")
    odds = math.log(value / (1 - value))
    half = z * math.sqrt(variance) / (value * (1 - value))
    low, high = probability(np.array([odds - half, odds + half])).tolist()
    return Interval(value, low, high, len(labels), "delong")


def _clopper_pearson(p: float, n: int, level: float) -> tuple[float, float]:
    """Exact binomial interval of a share; the beta quantiles also serve a fractional number of successes."""
    from scipy.special import betaincinv

    k, tail = p * n, _tail(level)
    low = 0.0 if p == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if p == 1 else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


@dataclass(frozen=True, eq=False)
class Units:
    """The units of resampling: each is a group of images that are drawn together, or one image.

    ``order`` holds the images unit by unit; unit u is ``order[start[u] : start[u] + size[u]]``. ``strata``
    holds the units by what they contain: real only, both classes, fake only.
    """

    order: NDArray[np.intp]
    start: NDArray[np.intp]
    size: NDArray[np.intp]
    strata: list[NDArray[np.intp]]

    def images(self, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the images of the chosen units; those of a unit chosen twice are returned twice."""
        size = self.size[chosen]
        shift = self.start[chosen] - (np.cumsum(size) - size)
        images: NDArray[np.intp] = self.order[np.arange(size.sum()) + np.repeat(shift, size)]
        return images


def units(labels: Ints, groups: Groups | None = None) -> Units:
    """Divide images into units: one per non-empty group, and one per image without a group (``""``)."""
    labels = np.asarray(labels)
    names = np.full(len(labels), "") if groups is None else np.asarray(groups, dtype=str)
    if names.shape != labels.shape:
        raise DataError(f"{len(names)} groups for {len(labels)} images: give one per image, '' for none")
    _, named = np.unique(names, return_inverse=True)
    alone = np.arange(len(labels)) + len(labels)
    _, unit, size = np.unique(np.where(names == "", alone, named), return_inverse=True, return_counts=True)
    fakes = np.bincount(unit, weights=labels == 1, minlength=len(size))
    strata = (fakes == 0, (fakes > 0) & (fakes < size), fakes == size)
    return Units(
        order=np.argsort(unit, kind="stable"),
        start=np.cumsum(size) - size,
        size=size,
        strata=[np.flatnonzero(stratum) for stratum in strata],
    )


def bootstrap(
    statistic: Statistic,
    margin: Floats,
    labels: Ints,
    *,
    groups: Groups | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return a percentile bootstrap interval of any statistic (Efron & Tibshirani 1993, chapter 13).

    Images are drawn with replacement within each class; with ``groups``, whole groups are drawn (Field & Welsh 2007),
    since the errors within a group are correlated. ``margin`` may be ``[N, K]``: rows are drawn, so a statistic of two
    detectors stays paired. Up to 5% undefined (nan) replicates are left out.

    Both ends are nan if more replicates are undefined, or if all replicates agree: for images without a single error,
    or a single group, resampling cannot measure the uncertainty (`wilson` and `auc_interval` can).
    """
    margin, labels = np.asarray(margin, np.float64), np.asarray(labels)
    method = "bootstrap" if groups is None else "cluster bootstrap"
    value = statistic(margin, labels)
    drawn = units(labels, groups)
    rng = np.random.default_rng(seed)
    replicates = np.full(resamples, NAN)
    for r in range(resamples if len(labels) else 0):
        rows = drawn.images(np.concatenate([rng.choice(s, len(s)) for s in drawn.strata if len(s)]))
        replicates[r] = statistic(margin[rows], labels[rows])
    return percentile_interval(value, replicates, len(labels), method, level)


def percentile_interval(value: float, replicates: Floats, n: int, method: str, level: float = 0.95) -> Interval:
    """Return the interval of a value from its bootstrap replicates; see `bootstrap` for where its ends are nan."""
    tail = _tail(level)
    defined = replicates[~np.isnan(replicates)]
    if len(defined) < (1 - _UNDEFINED_SHARE) * len(replicates) or not len(defined) or not np.ptp(defined):
        return Interval(value, NAN, NAN, n, method)
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Interval(value, float(low), float(high), n, method)
