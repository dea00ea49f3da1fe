"""Candidate thresholds, the best of them, and the accuracy that a badly placed one costs."""

from __future__ import annotations

import numpy as np

from robustbench_df.metrics.scores import Floats, Ints, accuracy, checked, cumulative, probability


def cuts(margin: Floats, labels: Ints) -> tuple[Floats, Ints, Ints]:
    """Return all candidate thresholds on P(fake), descending, and how many fakes and reals each calls fake.

    A threshold lies midway between two neighbouring probabilities. The first lies between the highest one and 1, and
    calls nothing fake; the last lies between the lowest one and 0, and calls everything fake.
    """
    margin, labels = checked(margin, labels)
    values, tp, fp = cumulative(probability(margin), labels)
    upper, lower = np.append(1.0, values), np.append(values, 0.0)
    middle = (upper + lower) / 2
    # Between two neighbouring floats there is no midpoint: `>=` still separates them at the upper one.
    return np.where(middle > lower, middle, upper), np.append(0, tp), np.append(0, fp)


def best_cut(thresholds: Floats, objective: Floats | Ints) -> float:
    """Return the threshold with the highest objective; of equally good ones the nearest to .5, then the higher."""
    best = thresholds[objective == objective.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def best_threshold(margin: Floats, labels: Ints) -> float:
    """Return the threshold on P(fake) with the highest accuracy on these same images.

    nan unless both classes are present. It is an upper bound that helps to explain a score. Never deploy it: a deployed
    threshold is fitted on other images (`calibration.fit_threshold`).
    """
    thresholds, tp, fp = cuts(margin, labels)
    return best_cut(thresholds, tp - fp) if tp[-1] and fp[-1] else float("nan")


def threshold_gap(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Accuracy at the best threshold minus accuracy at the deployed one, at least 0.

    It distinguishes a failed threshold (a large gap: for example, blur shifts every score but keeps the ranking) from a
    failed ranking (a small gap and a low AUC). nan unless both classes are present.
    """
    best = best_threshold(margin, labels)
    return best if np.isnan(best) else accuracy(margin, labels, best) - accuracy(margin, labels, threshold)
