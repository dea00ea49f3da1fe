"""Are the parts fit to compare detectors on? Their sizes, class balance, and smallest detectable difference."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditCheck, AuditFinding, Figure, Severity
from robustbench_df.data.imageset import FAKE, REAL, SPLIT_NAMES, ImageSet, Labels, Strings
from robustbench_df.errors import UsageError

ACCURACY = 0.9
"""The accuracy at which the smallest difference is quoted."""

POWER = 0.8
LEVEL = 0.95
"""The customary power and confidence (Cohen 1988, section 2.4)."""

COARSE = 0.05
"""Smallest detectable difference, as a share, above which a judged part gets a warning: published detectors differ by
less. At an accuracy of 90%, this affects parts of fewer than about 680 images."""

SKEWED = 0.2
"""Share of the rarer class in a part below which accuracy misleads: always predicting the other class scores 80%."""

DRIFT = 0.1
"""Difference in the share of fakes between two parts above which a threshold fitted on one is wrong for the other."""

_SIZE = AuditCheck("split-size", "The parts are large enough to tell detectors apart")
_BALANCE = AuditCheck("class-balance", "Both classes are in every part, in like shares")


def detectable_difference(
    n: int, accuracy: float = ACCURACY, *, power: float = POWER, level: float = LEVEL, n_other: int | None = None
) -> float:
    """Return the smallest drop from ``accuracy`` that two independent samples of images can detect, as a share.

    The δ that solves ``δ = z_{α/2} √(2 p̄ (1 − p̄) / n) + z_β √(p₁ (1 − p₁) / n + p₂ (1 − p₂) / n)`` with
    ``p₂ = p₁ − δ`` and ``p̄`` their mean: two-sided test of two proportions without continuity correction (Fleiss,
    Levin & Paik 2003, Statistical Methods for Rates and Proportions, section 4.2, equation 4.14; for unequal sizes
    equation 4.19). For two detectors on the *same* images, smaller differences are detectable, because only the images
    on which they differ matter (`metrics.mcnemar`).

    Args:
        n: images behind the first accuracy.
        accuracy: p₁, strictly between 0 and 1.
        power: probability of detecting a difference of δ, in (0.5, 1).
        level: 1 − α.
        n_other: images behind the second accuracy; ``n`` when None.

    Returns:
        δ in (0, p₁); nan if no drop at all is detectable, or there are no images.

    Raises:
        UsageError: a share outside its range.
    """
    for name, value, low in (("accuracy", accuracy, 0.0), ("power", power, 0.5), ("level", level, 0.0)):
        if not low < value < 1:
            raise UsageError(f"{name} is {value}; it must lie strictly between {low:g} and 1")
    n_other = n if n_other is None else n_other
    if n < 1 or n_other < 1:
        return math.nan
    z_alpha, z_beta = NormalDist().inv_cdf((1 + level) / 2), NormalDist().inv_cdf(power)

    def excess(delta: float) -> float:
        lower = accuracy - delta
        mean = (n * accuracy + n_other * lower) / (n + n_other)
        null = math.sqrt(mean * (1 - mean) * (1 / n + 1 / n_other))
        alternative = math.sqrt(accuracy * (1 - accuracy) / n + lower * (1 - lower) / n_other)
        return delta - z_alpha * null - z_beta * alternative

    if excess(accuracy) < 0:
        return math.nan
    from scipy.optimize import brentq

    return float(brentq(excess, 0.0, accuracy, xtol=1e-9))


def health_findings(images: ImageSet, parts: Strings | None = None) -> tuple[AuditFinding, ...]:
    """Judge the sizes and the balance of the parts.

    Args:
        images: the set.
        parts: the part of each image, ``""`` or one of train, val, cal, test; the source's own when None. If no image
            has one, the labelled images are judged as one part.

    Returns:
        ``split-size`` and ``class-balance``.
    """
    parts = images.given if parts is None else parts
    labelled = images.labels >= 0
    named = [part for part in SPLIT_NAMES if (labelled & (parts == part)).any()]
    rows = {part: labelled & (parts == part) for part in named} or {"all": labelled}
    return _sizes(rows), _balance(images.labels, rows)


def _sizes(rows: dict[str, NDArray[np.bool_]]) -> AuditFinding:
    counts = {part: int(own.sum()) for part, own in rows.items()}
    judged = [part for part in ("test", "cal", "val", "all") if counts.get(part)]
    figures: dict[str, Figure] = {f"{part}_images": n for part, n in counts.items()}
    figures |= {f"{part}_detectable": detectable_difference(counts[part]) for part in judged}
    figures |= {"accuracy": ACCURACY, "power": POWER, "level": LEVEL}
    if not judged:
        detail = f"no image to judge on: {counts.get('train', 0):,} labelled images, all of them in train"
        return _SIZE.found("not run", detail, figures)
    lines = [f"{part} ({counts[part]:,} images) {_points(detectable_difference(counts[part]))}" for part in judged]
    detail = (
        f"at an accuracy of {ACCURACY:.0%} a smaller difference than this cannot be told from chance (with {POWER:.0%} "
        f"power): {', '.join(lines)}"
    )
    # The test part is what is reported; without one, the first judged part counts.
    worst = detectable_difference(counts[judged[0]])
    remedy = (
        f"judge on more images ({_images_for(COARSE):,} tell {COARSE:.0%}), use cross-validation, or call smaller "
        "differences a tie"
    )
    # nan (no detectable difference at all) is a warning too.
    return _SIZE.found("pass" if worst <= COARSE else "warn", detail, figures, remedy=remedy)


def _balance(labels: Labels, rows: dict[str, NDArray[np.bool_]]) -> AuditFinding:
    figures: dict[str, Figure] = {}
    shares: dict[str, float] = {}
    for part, own in rows.items():
        real, fake = (int((labels[own] == label).sum()) for label in (REAL, FAKE))
        figures |= {f"{part}_real": real, f"{part}_fake": fake}
        if real + fake:
            shares[part] = fake / (real + fake)
    if not shares:
        return _BALANCE.found("not run", "no image carries a label", figures)
    detail = "share of fakes: " + ", ".join(f"{part} {share:.1%}" for part, share in shares.items())
    severity, remedy = _judge_balance(shares)
    return _BALANCE.found(severity, detail, figures, remedy=remedy)


def _judge_balance(shares: dict[str, float]) -> tuple[Severity, str]:
    single = [part for part, share in shares.items() if share in (0.0, 1.0)]
    if single:
        return (
            "fail",
            f"give {single[0]} images of both classes: no score that compares them exists there",
        )
    skewed = [part for part, share in shares.items() if min(share, 1 - share) < SKEWED]
    if skewed:
        return (
            "warn",
            f"report balanced accuracy and AUC on {skewed[0]}: always naming one class is accurate there",
        )
    if max(shares.values()) - min(shares.values()) > DRIFT:
        return "warn", "draw the parts stratified by class, or fit the threshold for the shares it will meet"
    return "pass", ""


def _points(share: float) -> str:
    return "none at all" if math.isnan(share) else f"{100 * share:.1f} points"


def _images_for(delta: float) -> int:
    """Return the fewest images that detect a drop of ``delta``, by bisection."""
    low, high = 1, 1 << 30
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_difference(middle) <= delta else (middle, high)
    return high
