"""How far the stated confidence can be believed: reliability bins, ECE and smooth ECE."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robustbench_df.metrics.scores import Floats, Ints, checked, probability


class Reliability(NamedTuple):
    """Bins of images of similar confidence: mean confidence, accuracy, and number of images in each."""

    confidence: Floats
    accuracy: Floats
    n: Ints


def reliability(margin: Floats, labels: Ints, bins: int = 15) -> Reliability:
    """Sort images into ``bins`` of equal size by the confidence in their top class, ``max(p, 1 - p)``.

    With fewer images than bins, each image is a bin. Images of equal confidence all count with their mean accuracy, so
    the bins do not depend on the order of the images.
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
    """Expected calibration error of the top label: mean ``|accuracy - confidence|``, bins weighted by size.

    Bins of equal mass (Nguyen & O'Connor 2015; Guo et al. 2017 use equal width), so no bin is empty. The
    estimate is biased upwards by something of the order of ``sqrt(bins / n)``: compare at equal ``n``. nan without
    images.
    """
    confidence, right, n = reliability(margin, labels, bins)
    return float(np.average(np.abs(right - confidence), weights=n)) if len(n) else float("nan")


_CELLS = 4096
"""Cells of the grid on [0, 1]: far finer than any bandwidth that occurs with up to a million images."""


def smooth_ece(margin: Floats, labels: Ints) -> float:
    """Smooth calibration error of P(fake), without bins (Błasiok & Nakkiran 2023).

    ``smECE_σ = ∫₀¹ |1/n Σ K_σ(t, pᵢ) (yᵢ - pᵢ)| dt`` with a Gaussian kernel reflected at 0 and 1, taken at the
    bandwidth where ``smECE_σ = σ``. ``smECE_σ`` decreases in σ, so this fixed point is unique. nan without images.
    """
    from scipy.fft import dct, idct

    margin, labels = checked(margin, labels)
    if not len(labels):
        return float("nan")
    p = probability(margin)
    place = p * _CELLS - 0.5  # in units of cells, from the centre of the first
    left = np.floor(place).astype(np.intp)
    residual = (labels - p) / len(p)
    mass = np.zeros(_CELLS)
    for cell, share in ((left, left + 1 - place), (left + 1, place - left)):
        mass += np.bincount(np.clip(cell, 0, _CELLS - 1), weights=residual * share, minlength=_CELLS)
    # With reflection, cosines are the eigenvectors of the smoothing: it multiplies each by one factor, so no
    # convolution is needed.
    spectrum = dct(mass, norm="ortho")
    frequency = np.pi * np.arange(_CELLS)

    def at(sigma: float) -> float:
        return float(np.abs(idct(spectrum * np.exp(-0.5 * (frequency * sigma) ** 2), norm="ortho")).sum())

    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > middle else (low, middle)
    return at(high)
