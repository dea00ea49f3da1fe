"""From margins to a verdict: temperature, threshold and abstention, all fitted on the calibration split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.errors import RunError, UsageError, nearest
from robustbench_df.metrics.scores import Floats, Ints, checked, fittable, log_loss, probability
from robustbench_df.metrics.thresholds import best_cut, cuts

TEMPERATURES = (0.05, 100.0)
"""Search range of the temperature: outside it, a network's margins all map to probabilities of 0, 1 or .5."""

_CERTAIN = 30.0
"""Log-odds that stand for a threshold of 0 or 1: larger than any margin that float32 can tell from certainty."""

RULES = ("accuracy", "youden", "target_fpr")


@dataclass(frozen=True)
class Decision:
    """How a margin becomes a verdict: ``P(fake) = sigmoid(margin / temperature)``, fake from ``threshold`` on.

    ``fitted_on`` names the split and ``n`` counts the images that the fit saw. The defaults leave the margins as they
    are.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    fitted_on: str = "none"
    n: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature {self.temperature} must be a positive number; 1 changes nothing")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold} must lie in [0, 1]: it is a value of P(fake)")

    @property
    def offset(self) -> float:
        """Log-odds of the threshold: ``margin / temperature - offset`` is at least 0 where the verdict is fake."""
        p = self.threshold
        odds = math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(_CERTAIN, p - 0.5)
        return max(min(odds, _CERTAIN), -_CERTAIN)

    def apply(self, margin: Floats) -> tuple[Floats, NDArray[np.int8]]:
        """Return P(fake) and the verdicts, 1 for fake, both of the shape of ``margin``."""
        p = probability(np.asarray(margin, np.float64) / self.temperature)
        return p, (p >= self.threshold).astype(np.int8)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Decision:
        """Read the output of `to_dict`; raise `RunError` for a missing key or a value of another type."""
        try:
            return cls(
                temperature=float(fields["temperature"]),
                threshold=float(fields["threshold"]),
                fitted_on=str(fields["fitted_on"]),
                n=int(fields["n"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"decision {dict(fields)} cannot be read ({error!r}); fit it again") from error


def fit_temperature(margin: Floats, labels: Ints) -> float:
    """Return the temperature T that minimises the log loss of ``margin / T`` (Guo et al. 2017).

    T is searched within `TEMPERATURES`. The loss is convex in 1/T, so a bounded search on log T finds the only minimum.
    If no margin is wrong, the loss is lowest at T = 0, whatever the confidence is worth; T is then 1. If the margins
    are wrong on the whole, the loss is lowest at T = ∞; T is then the upper bound, which shows the problem.
    """
    margin, labels = fittable(margin, labels, "a temperature")
    return 1.0 if bool(((margin >= 0) == (labels == 1)).all()) else _best_temperature(margin, labels)


def tempered_loss(margin: Floats, labels: Ints) -> float:
    """Return the lowest log loss of ``margin / T`` within `TEMPERATURES`: what margins are worth once calibrated.

    Unlike `fit_temperature` it makes no exception of margins that are all right, so that a detector which errs cannot
    seem better than one which does not.
    """
    margin, labels = fittable(margin, labels, "a temperature")
    return log_loss(margin / _best_temperature(margin, labels), labels)


def _best_temperature(margin: Floats, labels: Ints) -> float:
    from scipy.optimize import minimize_scalar

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: log_loss(margin / math.exp(log_t), labels),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def fit_threshold(margin: Floats, labels: Ints, rule: str = "accuracy", target_fpr: float | None = None) -> float:
    """Return the threshold on P(fake) that is best by a rule: ``accuracy``, ``youden`` or ``target_fpr``.

    It lies midway between two neighbouring probabilities; of equally good ones, the nearest to .5 is taken. A target
    FPR is met on these images, and on other images up to sampling error (about ``sqrt(target / n_real)``).
    """
    margin, labels = fittable(margin, labels, "a threshold")
    thresholds, tp, fp = cuts(margin, labels)
    return best_cut(thresholds, _objective(rule, tp, fp, target_fpr))


def _objective(rule: str, tp: Ints, fp: Ints, target: float | None) -> Ints:
    """Return the objective that the rule maximises, in integers so that rounding cannot break ties.

    ``tp`` and ``fp`` are the fakes and the reals called fake at each cut; the last cut calls everything fake.
    """
    n_fake, n_real = tp[-1], fp[-1]
    if rule == "accuracy":
        return tp - fp  # accuracy is (tp + n_real - fp) / n
    if rule == "youden":
        youden: Ints = tp * n_real - fp * n_fake  # TPR - FPR (Youden 1950), times both counts
        return youden
    if rule != "target_fpr":
        known = ", ".join(RULES)
        raise UsageError(f"unknown threshold rule '{rule}'{nearest(rule, RULES)}; choose from {known}")
    if target is None or not 0 <= target <= 1:
        raise UsageError(f"rule 'target_fpr' needs a target in [0, 1], for example 0.01, not {target}")
    most_fakes_then_fewest_reals: Ints = tp * (n_real + 1) - fp
    allowed: Ints = np.where(fp / n_real <= target, most_fakes_then_fewest_reals, -1)
    return allowed


def fit_decision(
    margin: Floats,
    labels: Ints,
    *,
    rule: str = "accuracy",
    target_fpr: float | None = None,
    fitted_on: str = "cal",
) -> Decision:
    """Fit the temperature, then the threshold on the tempered probabilities."""
    temperature = fit_temperature(margin, labels)
    threshold = fit_threshold(np.asarray(margin) / temperature, labels, rule, target_fpr)
    return Decision(temperature, threshold, fitted_on, len(labels))


# --- abstention -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Verdicts with a guarantee: "real" is possible up to a margin of ``high``, "fake" from ``low`` on.

    Between the two ends, both verdicts are possible if ``low <= high``, and neither is if ``low > high``. In both cases
    the detector abstains there. An end is infinite if its calibration class is too small for ``alpha``. The band
    applies to margins before temperature and threshold. ``fitted_on`` names the split and ``n`` counts the images of
    the fit.
    """

    low: float
    high: float
    alpha: float
    n: int
    fitted_on: str = "cal"

    def sets(self, margin: Floats) -> NDArray[np.bool_]:
        """Return bool ``[N, 2]``: whether real, and whether fake, is possible."""
        margin = np.asarray(margin, np.float64)
        return np.stack([margin <= self.high, margin >= self.low], axis=-1)

    def deployed(self, decision: Decision) -> Band:
        """Return the same band for deployed margins, ``margin / temperature - offset``."""
        low, high = (end / decision.temperature - decision.offset for end in (self.low, self.high))
        return replace(self, low=low, high=high)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON, which has no infinity: None stands for an infinite end."""
        return {name: None if isinstance(v, float) and math.isinf(v) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Band:
        """Read the output of `to_dict`; raise `RunError` for a missing key or a value of another type."""
        try:
            return cls(
                low=-math.inf if fields["low"] is None else float(fields["low"]),
                high=math.inf if fields["high"] is None else float(fields["high"]),
                alpha=float(fields["alpha"]),
                n=int(fields["n"]),
                fitted_on=str(fields["fitted_on"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"abstention band {dict(fields)} cannot be read ({error!r}); fit it again") from error


def fit_band(margin: Floats, labels: Ints, alpha: float = 0.05, *, fitted_on: str = "cal") -> Band:
    """Fit an abstention band by split conformal prediction, class by class (Vovk et al. 2005, 'Mondrian').

    If new images of a class are exchangeable with its calibration images, at most a share ``alpha`` of them get a set
    without the true label. The guarantee holds for each class, so it remains valid when the proportion of fakes
    changes. Nothing is guaranteed under attack or corruption. Out-of-fold margins come from one detector per fold, so
    for them the guarantee holds only approximately (Barber et al. 2021, "CV+"). The nonconformity score is the margin
    against the label; each end is its ``ceil((n_class + 1)(1 - alpha))``-th smallest value.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"target error alpha {alpha} must lie strictly between 0 and 1, for example 0.05")
    margin, labels = fittable(margin, labels, "an abstention band")
    low, high = -_quantile(-margin[labels == 1], alpha), _quantile(margin[labels == 0], alpha)
    return Band(low, high, alpha, len(labels), fitted_on)


def _quantile(nonconformity: Floats, alpha: float) -> float:
    """Return the conformal quantile: infinite where the class has fewer than ``1 / alpha - 1`` images."""
    n = len(nonconformity)
    # (n + 1)(1 - alpha) may be an integer that rounding slightly exceeds: the rank of 20 * 0.95 is 19, not 20.
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return float(np.sort(nonconformity)[rank - 1]) if rank <= n else math.inf


@dataclass(frozen=True)
class BandScores:
    """Scores of a band on ``n`` labelled images; nan where there is no image to count.

    ``coverage``: the set holds the label. ``size``: mean number of labels in the set (0 to 2). ``abstained``:
    the set does not hold exactly one. ``error``: share of wrong verdicts among the images with exactly one.
    """

    coverage: float
    size: float
    abstained: float
    error: float
    n: int


def score_band(band: Band, margin: Floats, labels: Ints) -> BandScores:
    """Measure coverage, set size, abstention and the error of the verdicts that remain."""
    margin, labels = checked(margin, labels)
    return _score_sets(band.sets(margin), labels)


def score_cross_fitted(
    margin: Floats, labels: Ints, fold: Ints, clean: Floats, clean_labels: Ints, clean_fold: Ints, alpha: float
) -> BandScores:
    """Score each fold with a band fitted on the clean margins of the other folds.

    Use this for out-of-fold images: a band covers the images that it was fitted on by construction.

    Args:
        margin, labels, fold: the images to score, ``[N]``.
        clean, clean_labels, clean_fold: the images to fit on, ``[M]``.
        alpha: target error.

    Raises:
        DataError: the other folds hold only one class.
    """
    margin, labels = checked(margin, labels)
    sets = np.ones((len(labels), 2), np.bool_)
    for k in np.unique(fold):
        others = np.asarray(clean_fold) != k
        sets[fold == k] = fit_band(clean[others], clean_labels[others], alpha).sets(margin[fold == k])
    return _score_sets(sets, labels)


def _score_sets(sets: NDArray[np.bool_], labels: Ints) -> BandScores:
    if not len(labels):
        return BandScores(*(float("nan"),) * 4, n=0)
    covered, size = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
    verdict = size == 1
    error = float(1 - covered[verdict].mean()) if verdict.any() else float("nan")
    return BandScores(float(covered.mean()), float(size.mean()), float(1 - verdict.mean()), error, len(labels))
