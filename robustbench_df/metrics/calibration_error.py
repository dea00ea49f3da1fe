"""How far the stated confidence can be believed: reliability bins and ECE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustbench_df.metrics.scores import Floats, Ints, checked, probability


class Reliability(NamedTuple):
    """Bins of images of like confidence: mean confidence, accuracy, and number of images in each."""

    confidence: Floats
    accuracy: Floats
    n: Ints


def reliability(margin: Floats, labels: Ints, bins: int = 15) -> Reliability:
    """Sort images into ``bins`` of equal size by the confidence in their top class, ``max(p, 1 - p)``.

    Fewer images than bins make one bin each. Images of equal confidence share their accuracy evenly, so the
    bins do not depend on the order in which the images came.
    """
    margin, labels = checked(margin, labels)
    confidence = probability(np.abs(margin))
    right = (probability(margin) >= 0.5) == (labels == 1)
    values, where, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    shared = np.bincount(where, weights=right, minlength=len(values)) / counts
    rows = [row for row in np.array_split(np.argsort(where, kind="stable"), max(bins, 1)) if len(row)]
    return Reliability(
        np.array([confidence[row].mean() for row in rows]),
        np.array([shared[where[row]].mean() for row in rows]),
        np.array([len(row) for row in rows], np.int64),
    )


def ece(margin: Floats, labels: Ints, bins: int = 15) -> float:
    """Expected calibration error of the top label: ``|accuracy - confidence|`` of the bins, by their images.

    Bins of equal mass (Nguyen & O'Connor 2015; Guo et al. 2017 use equal width), so no bin is empty. The
    estimate is biased upwards by something of the order of ``sqrt(bins / n)``: compare at equal ``n``. nan if
    empty.
    """
    confidence, right, n = reliability(margin, labels, bins)
    return float(np.average(np.abs(right - confidence), weights=n)) if len(n) else float("nan")
