"""A light classifier without a network: what the pixels yield in a minute on a CPU.

The audit uses it for an independent second opinion on labels if there is no run: for label noise, and for the order and
polarity of a submission. It learns from noise residuals and block spectra, the classical traces of how a picture was
made, and judges only images that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.statistics import LUMA, Rows, chunks, pixel_statistics
from robustbench_df.data.components import components
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import DataError
from robustbench_df.metrics.intervals import Interval, auc_interval

FOLDS = 5

_CENTRE = 128
"""Side, in pixels, of the central square that is used of larger images: the traces are the same everywhere."""
_STEP = 2.0
"""Grey levels per bin of the residuals; with 5 bins from −2 to 2 as in SPAM (Pevný, Bas & Fridrich 2010)."""


def light_features(images: ImageSet, rows: Rows) -> NDArray[np.float32]:
    """Return the features of ``images.data[rows]``, float32 ``[n, K]``.

    The pixel statistics; the log mean magnitude of each of the 64 coefficients of the 8×8 block DCT of luma and two
    colour differences; and the joint histograms of neighbouring residuals of first and second order, along rows and
    columns (subtractive pixel adjacency: Pevný, Bas & Fridrich 2010, IEEE TIFS 5(2)).

    Raises:
        DataError: images too small.
    """
    trivial = pixel_statistics(images, rows)
    parts = [_features(_centre(pixels)) for _, pixels in chunks(images, rows)]
    return np.column_stack([*trivial.values(), np.concatenate(parts)]).astype(np.float32)


def _centre(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = pixels.shape[2:]
    top, left = max(height - _CENTRE, 0) // 2 // 8 * 8, max(width - _CENTRE, 0) // 2 // 8 * 8
    return pixels[:, :, top : top + _CENTRE, left : left + _CENTRE].astype(np.float32)


def _features(x: NDArray[np.float32]) -> NDArray[np.float32]:
    luma = np.tensordot(x, LUMA, axes=(1, 0))
    planes = (luma, x[:, 0] - x[:, 1], x[:, 2] - x[:, 1])
    spectra = [_block_spectrum(plane) for plane in planes]
    residuals = [
        _adjacency(np.diff(plane, n=order, axis=axis), axis) for plane in planes for order in (1, 2) for axis in (1, 2)
    ]
    return np.concatenate([*spectra, *residuals], axis=1)


def _block_spectrum(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log mean magnitude of the 8×8 DCT's coefficients over the blocks of ``[n, H, W]``: float32 ``[n, 64]``."""
    from scipy.fft import dctn

    n, height, width = plane.shape
    blocks = plane[:, : height // 8 * 8, : width // 8 * 8].reshape(n, height // 8, 8, width // 8, 8)
    magnitude = np.abs(dctn(blocks, axes=(2, 4), norm="ortho")).mean(axis=(1, 3))
    spectrum: NDArray[np.float32] = np.log(magnitude.reshape(n, 64) + 0.1)
    return spectrum


def _adjacency(residual: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Share of each of the 5 × 5 pairs of neighbouring quantised residuals along ``axis``: float32 ``[n, 25]``."""
    level = np.clip(np.rint(residual / _STEP), -2, 2).astype(np.int8) + 2
    first, second = (level[:, :-1], level[:, 1:]) if axis == 1 else (level[:, :, :-1], level[:, :, 1:])
    n = len(level)
    pair = (5 * first + second).reshape(n, -1) + 25 * np.arange(n)[:, None]
    counts = np.bincount(pair.ravel(), minlength=25 * n).reshape(n, 25)
    return np.asarray(np.sqrt(counts / counts.sum(axis=1, keepdims=True)), np.float32)


def folds_of(images: ImageSet, rows: Rows, folds: int = FOLDS, seed: int = 0) -> NDArray[np.intp]:
    """Return the fold of each of ``rows``; twins and groups share one. There are fewer folds if there are few groups.

    Raises:
        DataError: without one of the folds, only one class is left.
    """
    number = components(images, rows)
    count = int(number.max()) + 1 if len(rows) else 0
    order = np.random.default_rng(seed).permutation(count)
    fold: NDArray[np.intp] = order[number] % max(min(folds, count), 1)
    labels = images.labels[rows]
    for k in range(int(fold.max()) + 1 if count else 1):
        if len(np.unique(labels[fold != k])) < 2:
            raise DataError(f"{len(rows)} images in {count} groups are too few for {folds} folds with both classes")
    return fold


def out_of_fold(
    x: NDArray[Any], labels: NDArray[np.int8], fold: NDArray[np.intp], make: Callable[[], Any]
) -> NDArray[np.float64]:
    """Return P(fake) ``[N]`` of each row by a classifier fitted without its fold; ``make`` returns an unfitted one."""
    p = np.empty(len(labels))
    for k in np.unique(fold):
        held = fold == k
        p[held] = make().fit(x[~held], labels[~held]).predict_proba(x[held])[:, 1]
    return p


def light_classifier() -> Any:
    """Return an unfitted classifier of `light_features`: logistic regression, lightly regularised."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def light_opinion(images: ImageSet, learn: Rows, rows: Rows) -> tuple[NDArray[np.float64], Interval]:
    """Fit the light classifier on ``learn`` and apply it to ``rows``; the two must not overlap.

    Returns:
        P(fake) of ``rows``, and the classifier's out-of-fold AUROC on ``learn``, which says what the opinion is worth.

    Raises:
        DataError: too few images or one class only.
    """
    x, labels = light_features(images, learn), images.labels[learn]
    worth = auc_interval(out_of_fold(x, labels, folds_of(images, learn), light_classifier), labels)
    model = light_classifier().fit(x, labels)
    return np.asarray(model.predict_proba(light_features(images, rows))[:, 1], np.float64), worth
