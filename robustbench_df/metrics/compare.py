"""Is one detector better than another on the same images, and how well does it withstand corruptions?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.errors import DataError
from robustbench_df.metrics.intervals import NAN, normal_quantile, placement_variance, placements
from robustbench_df.metrics.scores import Floats, Ints, checked, class_counts


@dataclass(frozen=True)
class Comparison:
    """First minus second detector on the same ``n`` images: difference, interval, and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    method: str


def mcnemar(right_a: NDArray[Any], right_b: NDArray[Any], level: float = 0.95) -> Comparison:
    """Compare two accuracies by the exact McNemar test, from booleans ``[N]``: was the image classified correctly?

    Under the null hypothesis, on an image where only one detector is right, it is equally likely to be either (McNemar
    1947, exact form). If there is no such image, p = 1. The interval is Agresti & Min's (2005): Wald after adding half
    an image to each of the four cells. All nan without images.
    """
    from scipy.special import bdtr

    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise DataError(f"outcomes {right_a.shape} and {right_b.shape} must both be [N], of the same images")
    n, z = len(right_a), normal_quantile(level)
    if n == 0:
        return Comparison(NAN, NAN, NAN, NAN, 0, "mcnemar")
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    discordant = only_a + only_b
    p_value = min(1.0, 2 * float(bdtr(min(only_a, only_b), discordant, 0.5))) if discordant else 1.0
    centre = (only_a - only_b) / (n + 2)
    half = z * math.sqrt((discordant + 1) / (n + 2) - centre**2) / math.sqrt(n + 2)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Comparison((only_a - only_b) / n, low, high, p_value, n, "mcnemar")


def paired_delong(margin_a: Floats, margin_b: Floats, labels: Ints, level: float = 0.95) -> Comparison:
    """Compare the AUCs of two detectors on the same images (DeLong et al. 1988, with Sun & Xu's midranks).

    Equal rankings give a difference of 0 and p = 1. The interval and p are nan where the variance is unknown: a class
    has one image, or the placements differ by a constant (for example, one AUC is 1 and the other 0). All nan unless
    both classes are present.
    """
    margin_a, labels_a = checked(margin_a, labels)
    margin_b, labels_b = checked(margin_b, labels)
    z = normal_quantile(level)
    if 0 in class_counts(labels_a):
        return Comparison(NAN, NAN, NAN, NAN, len(labels_a), "delong")
    # Taking the variance of the per-image differences needs no covariances and is exactly 0 for equal rankings.
    per_fake, per_real = (
        a - b for a, b in zip(placements(margin_a, labels_a), placements(margin_b, labels_b), strict=True)
    )
    difference, variance = float(per_fake.mean()), placement_variance(per_fake, per_real)
    if not per_fake.any() and not per_real.any():
        return Comparison(0.0, 0.0, 0.0, 1.0, len(labels_a), "delong")
    if not variance > 0:
        return Comparison(difference, NAN, NAN, NAN, len(labels_a), "delong")
    error = math.sqrt(variance)
    p_value = math.erfc(abs(difference) / error / math.sqrt(2))  # two tails, and no underflow far out
    low, high = max(-1.0, difference - z * error), min(1.0, difference + z * error)
    return Comparison(difference, low, high, p_value, len(labels_a), "delong")


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Return p-values adjusted for multiple comparisons, in the given order (Holm 1979).

    ``max over j <= i of (m - j + 1) p_(j)``, at most 1. An undefined p (nan) stays nan and is not counted in m.
    """
    p = np.asarray(p_values, np.float64)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


@dataclass(frozen=True)
class CorruptionErrors:
    """Errors under corruption, as shares: 1 in ``mce`` and ``relative_mce`` means "as bad as the reference".

    ``undefined`` names the corruptions left out of ``relative_mce``; undefined entries of ``ce`` and ``relative_ce``
    are nan. What is undefined depends on the reference alone, so values against the same reference remain comparable.
    """

    reference: str
    mean_error: float
    mce: float
    relative_mce: float
    ce: dict[str, float]
    relative_ce: dict[str, float]
    undefined: tuple[str, ...]


def corruption_errors(
    errors: Mapping[str, Sequence[float]],
    clean: float,
    reference_errors: Mapping[str, Sequence[float]],
    reference_clean: float,
    reference: str,
) -> CorruptionErrors:
    """Return mean error, mCE and relative mCE against a named reference (Hendrycks & Dietterich 2019).

    ``errors[corruption]`` lists the error rate (share of misclassified images) at each severity, the same severities
    for both detectors; ``clean`` is the error on clean images. ``CE_c = Σ_s E_sc / Σ_s E'_sc`` and relative ``CE_c =
    Σ_s (E_sc - E_clean) / Σ_s (E'_sc - E'_clean)``, where primes mark the reference; mCE and relative mCE are means
    over the corruptions. The paper's reference, AlexNet on ImageNet, means nothing for real/fake detection, so the
    result also holds the reference's name and the plain mean error.

    A ratio whose denominator is not positive is nan: a corruption that does not hurt the reference cannot be compared
    with it.

    Raises:
        DataError: a corruption has no severities, or not the same number for both detectors.
    """
    for name in {**errors, **reference_errors}:
        severities = len(errors.get(name, ())), len(reference_errors.get(name, ()))
        if severities[0] != severities[1] or not severities[0]:
            raise DataError(
                f"corruption '{name}' has {severities[0]} severities for the detector and {severities[1]} "
                f"for the reference '{reference}'; evaluate both on the same ones"
            )
    ce = {name: _over(sum(row), sum(reference_errors[name])) for name, row in errors.items()}
    relative = {
        name: _over(sum(e - clean for e in row), sum(e - reference_clean for e in reference_errors[name]))
        for name, row in errors.items()
    }
    return CorruptionErrors(
        reference=reference,
        mean_error=_mean([sum(row) / len(row) for row in errors.values()]),
        mce=_mean(ce.values()),
        relative_mce=_mean(relative.values()),
        ce=ce,
        relative_ce=relative,
        undefined=tuple(name for name, value in relative.items() if math.isnan(value)),
    )


def _over(part: float, whole: float) -> float:
    # Error rates are counts divided by the number of images: a value this small is a zero with rounding error.
    return part / whole if whole > 1e-12 else NAN


def _mean(values: Sequence[float] | Any) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else NAN
