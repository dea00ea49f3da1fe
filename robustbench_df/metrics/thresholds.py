"""Where a threshold can lie, where it would do best, and what a badly placed one costs."""

from __future__ import annotations

import numpy as np

from robustbench_df.metrics.scores import Floats, Ints, accuracy, checked, cumulative, probability


def cuts(margin: Floats, labels: Ints) -> tuple[Floats, Ints, Ints]:
    """Return every threshold on P(fake) worth trying, falling, and the fakes and the reals each calls fake.

    A threshold lies midway between two neighbouring probabilities, the first and last between them and 1 or
    0, so the first calls nothing fake and the last everything.
    """
    margin, labels = checked(margin, labels)
    values, tp, fp = cumulative(probability(margin), labels)
    upper, lower = np.append(1.0, values), np.append(values, 0.0)
    middle = (upper + lower) / 2
    # Between two neighbouring floats there is no midpoint: `>=` still parts them at the upper one.
    return np.where(middle > lower, middle, upper), np.append(0, tp), np.append(0, fp)


def best_cut(thresholds: Floats, objective: Floats | Ints) -> float:
    """Return the threshold with the highest objective; among equals the nearest to .5, then the higher."""
    best = thresholds[objective == objective.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def best_threshold(margin: Floats, labels: Ints) -> float:
    """Return the threshold on P(fake) with the highest accuracy on these very images.

    nan unless both classes are there. An upper bound to explain a score with, never a threshold to deploy:
    that one is fitted on other images (`calibration.fit_threshold`).
    """
    thresholds, tp, fp = cuts(margin, labels)
    return best_cut(thresholds, tp - fp) if tp[-1] and fp[-1] else float("nan")


def threshold_gap(margin: Floats, labels: Ints, threshold: float = 0.5) -> float:
    """Accuracy at the best threshold minus accuracy at the deployed one, at least 0.

    It tells a threshold that failed (a large gap: blur moves every score, the ranking stands) from a ranking
    that failed (a small gap beside a low AUC). nan unless both classes are there.
    """
    best = best_threshold(margin, labels)
    return best if np.isnan(best) else accuracy(margin, labels, best) - accuracy(margin, labels, threshold)
