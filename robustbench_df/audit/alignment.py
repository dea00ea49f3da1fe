"""Is one picture a copy of another? A pixel check that first aligns them, on 32×32 grey thumbnails.

Two pictures of different things may share a hash: a bright blob on dark, a horizon. What they do not share is detail.
So the check is the normalised cross-correlation of *detail*: band-passed grey, divided by its local strength, so that
one strong edge cannot stand for the whole picture. Brightness and contrast drop out. Detail only correlates where
the pictures lie on each other within a fraction of a pixel, hence the alignment: an affine map, found by
Gauss-Newton steps from the view in which the hashes met (inverse compositional, Baker & Matthews 2004, section 3.2).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.hashing import GRID, VIEWS, Floats, window_grid
from robustbench_df.data.imageset import Pixels

Index = NDArray[np.intp]
Maps = NDArray[np.float64]
"""Affine maps ``[n, 2, 3]`` from a window's coordinates to a thumbnail's, both about their centres."""

FLIPS = ((False, False), (True, False), (False, True), (True, True))
"""(left-right, top-bottom) by number; a candidate's ``flip`` counts into it."""

ALIKE, GREY = 0.93, 0.97
"""Least correlation of the detail and of the grey values, or"""

NOISY_ALIKE, NOISY_GREY = 0.9, 0.985
"""less of the one where there is more of the other: noise and JPEG take the detail of faint pictures first. Measured on
CIFAKE at 32 px: of 6.8 × 10⁸ pairs of a photograph and a generated picture, none of them copies, none passes; of copies
of each kind 98 to 100% do."""

SPARSE, SPARSE_ALIKE = 100.0, 0.96
"""Where the detail fills fewer than this many of the 400 pixels (an aeroplane in the sky; 3% of CIFAKE's images), other
pictures of the same thing look alike, and more is asked. Pixels are counted by the participation ratio of energy."""

COMPARED = 20
"""Side of the window that is compared. It is smaller than the one that is hashed, since blurs carry a copy's border
(the black of a shifted or turned picture) some pixels inwards."""

_EDGE = (GRID - COMPARED) // 2

_FINE, _COARSE, _LOCAL = 0.8, 2.5, 3.0
"""Standard deviations, in thumbnail pixels, of the blurs: what JPEG and resampling change lies below the first, what a
crop's border and an uneven light change above the second; strength is taken over the third."""

_FLOOR = 3.0
"""Grey levels of strength that count as nothing: what JPEG leaves on a plain area."""

_STEPS, _STRIDE = 8, 2
"""Gauss-Newton steps, on every second pixel of every second row; more of either changes nothing in the third digit."""

_START, _PROMISING, _PATIENCE = 0.45, 0.65, 2
"""Pairs below the first correlation of detail at the start, or below the second after as many steps, are given up: of
the copies fewer than 1% in the less lucky of the two directions, of the others nearly all."""

_ENOUGH = 0.98
"""A correlation of detail that needs no alignment."""

_DAMPING = 1e-3
"""Share of the mean diagonal added to the normal equations (Levenberg 1944): plain windows do not fix all parameters.
"""

_STRETCH, _ASPECT, _TURN, _SHIFT = (0.7, 1.4), 1.4, 25.0, 7.0
"""Least and largest scale, largest ratio of the two scales, largest turn in degrees and shift in thumbnail pixels that
an alignment may end with; a little beyond RandomResizedCrop's (Szegedy et al. 2015) and what `VIEWS` start from."""

_BATCH = 512  # what fits into a core's cache


@lru_cache(maxsize=8)
def blur_matrix(sigma: float) -> Floats:
    """Matrix ``[32, 32]`` of a Gaussian blur with mirrored borders: ``B @ image @ B.T``."""
    at = np.arange(GRID)
    matrix = np.zeros((GRID, GRID))
    for offset in range(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1):
        mirrored = np.abs(at + offset)
        mirrored = np.where(mirrored >= GRID, 2 * GRID - 2 - mirrored, mirrored) % GRID
        np.add.at(matrix, (at, mirrored), math.exp(-(offset**2) / (2 * sigma**2)))
    return np.asarray(matrix / matrix.sum(1, keepdims=True), np.float32)


def smooth(thumbs: Pixels) -> Floats:
    """Return the thumbnails without what JPEG and resampling change: float32 ``[N, 32, 32]`` in grey levels."""
    fine = blur_matrix(_FINE)
    return np.asarray(fine @ thumbs.astype(np.float32) @ fine.T, np.float32)


def detail(thumbs: Pixels) -> Floats:
    """Return the detail that is compared: float32 ``[N, 32, 32]``, about 1 where there is structure, 0 on plain areas.

    Structure between `_FINE` and `_COARSE` pixels (difference of Gaussians), over its local root mean square plus
    `_FLOOR` grey levels, so that what JPEG and noise leave on a plain area stays small.
    """
    coarse, local = blur_matrix(_COARSE), blur_matrix(_LOCAL)
    band = smooth(thumbs) - coarse @ thumbs.astype(np.float32) @ coarse.T
    return np.asarray(band / np.sqrt(local @ band**2 @ local.T + _FLOOR**2), np.float32)


def look_alike(first: Pixels, second: Pixels, view: Index, flip: Index) -> tuple[NDArray[np.bool_], Floats]:
    """Align pictures to the windows of others, and tell whether they are copies.

    Args:
        first, second: thumbnails of n pairs, uint8 ``[n, 32, 32]``.
        view, flip: which of `VIEWS` and `FLIPS` of ``first`` resembles ``second``: the start of the alignment.

    Returns:
        The verdicts, bool ``[n]``, and the correlation of the detail over the window, float32 ``[n]`` in [-1, 1]; it is
        -1 where the alignment was given up, or left the range of what crops and small rotations do.
    """
    alike, score = np.zeros(len(first), bool), np.full(len(first), -1.0, np.float32)
    for start in range(0, len(first), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(first)))
        a, b, maps = detail(first[rows]), detail(second[rows]), _starts(view[rows], flip[rows])
        maps, kept = _align(a, b, maps)
        rows, a, b, maps = rows[kept], a[kept], b[kept], maps[kept]
        energy = _window(b, 1) ** 2
        filled = energy.sum(axis=1) ** 2 / (energy**2).sum(axis=1)
        score[rows] = _correlation(a, b, maps)
        grey = _correlation(smooth(first[rows]), smooth(second[rows]), maps)
        least = np.where(filled < SPARSE, SPARSE_ALIKE, np.where(grey < NOISY_GREY, ALIKE, NOISY_ALIKE))
        alike[rows] = (grey >= GREY) & (score[rows] >= least)
    return alike, score


def _correlation(first: Floats, second: Floats, maps: Maps, stride: int = 1) -> Floats:
    """Correlate the mapped windows of ``first`` with the windows of ``second``: float32 ``[n]``."""
    warped = _unit(_sample(first, maps, _points(stride)))
    return np.asarray(np.einsum("np,np->n", warped, _unit(_window(second, stride))), np.float32)


def _starts(view: Index, flip: Index) -> Maps:
    """The maps that the views and flips stand for."""
    views = np.stack([np.column_stack([v.matrix(), (v.dx, v.dy)]) for v in VIEWS])
    mirror = np.array([[-1.0 if h else 1.0, -1.0 if v else 1.0] for h, v in FLIPS])
    maps = views[view]
    maps[:, :, :2] *= mirror[flip][:, None, :]
    return maps


def _align(first: Floats, second: Floats, maps: Maps) -> tuple[Maps, NDArray[np.bool_]]:
    """Improve the maps where there is need and hope; return them, and which of the pairs may be copies."""
    score = _correlation(first, second, maps, _STRIDE)
    rows = np.flatnonzero((score >= _START) & (score < _ENOUGH))
    score[rows], maps[rows] = _improve(first[rows], second[rows], maps[rows])
    return maps, (score >= _PROMISING) & _plausible(maps)


def _improve(first: Floats, second: Floats, maps: Maps) -> tuple[Floats, Maps]:
    """Take Gauss-Newton steps; return the best correlations met, and their maps."""
    points = _points(_STRIDE)
    target = _unit(_window(second, _STRIDE))
    steepest = _steepest(second, points)
    normal = steepest.transpose(0, 2, 1) @ steepest
    damping = _DAMPING * np.trace(normal, axis1=1, axis2=2) / 6 + 1e-12
    solve = np.linalg.inv(normal + damping[:, None, None] * np.eye(6, dtype=np.float32)) @ steepest.transpose(0, 2, 1)
    best, best_maps = np.full(len(first), -1.0, np.float32), maps.copy()
    alive = np.arange(len(first))
    for step in range(_STEPS + 1):
        warped = _unit(_sample(first[alive], maps[alive], points))
        score = np.einsum("np,np->n", warped, target[alive])
        better = score > best[alive]
        best[alive[better]], best_maps[alive[better]] = score[better], maps[alive[better]]
        update = (solve[alive] @ (warped - target[alive])[:, :, None])[:, :, 0]
        maps[alive] = _compose(maps[alive], update)
        if step == _PATIENCE:
            alive = alive[best[alive] >= _PROMISING]
    return best, best_maps


@lru_cache(maxsize=2)
def _points(stride: int) -> NDArray[np.float64]:
    """The window's sampling points in homogeneous coordinates, ``[400 / stride², 3]``."""
    points = np.column_stack([window_grid(COMPARED), np.ones(COMPARED**2)]).reshape(COMPARED, COMPARED, 3)
    return points[::stride, ::stride].reshape(-1, 3)


def _window(images: Floats, stride: int) -> Floats:
    """The middle of images as rows: float32 ``[n, 400 / stride²]``."""
    return images[:, _EDGE:-_EDGE:stride, _EDGE:-_EDGE:stride].reshape(len(images), len(_points(stride)))


def _steepest(second: Floats, points: NDArray[np.float64]) -> Floats:
    """How the normalised window changes with each of the six parameters of an affine map: float32 ``[n, P, 6]``."""
    dy, dx = (_window(np.gradient(second, axis=axis), _STRIDE)[:, :, None] for axis in (1, 2))
    window = _window(second, _STRIDE)
    steepest = np.concatenate([dx * points, dy * points], axis=2).astype(np.float32)
    centred = window - window.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)[:, :, None] + 1e-6
    steepest = (steepest - steepest.mean(1, keepdims=True)) / norm
    unit = (centred / norm[:, :, 0])[:, :, None]
    # What only rescales the window is no misalignment: correlation does not see it.
    return np.asarray(steepest - unit * (unit.transpose(0, 2, 1) @ steepest), np.float32)


def _sample(image: Floats, maps: Maps, points: NDArray[np.float64]) -> Floats:
    """Look ``image`` up at the mapped points, bilinearly, its border repeated: float32 ``[n, 400]``."""
    at = (points @ maps.transpose(0, 2, 1) + (GRID - 1) / 2).clip(0, GRID - 1.001).astype(np.float32)
    corner = at.astype(np.int32)
    fx, fy = np.moveaxis(at - corner, 2, 0)
    base = corner[..., 1] * GRID + corner[..., 0] + np.arange(len(image), dtype=np.int32)[:, None] * GRID * GRID
    flat = image.reshape(-1)
    top = flat[base] * (1 - fx) + flat[base + 1] * fx
    bottom = flat[base + GRID] * (1 - fx) + flat[base + GRID + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy, np.float32)


def _unit(windows: Floats) -> Floats:
    centred = windows - windows.mean(1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6), np.float32)


def _compose(maps: Maps, update: Floats) -> Maps:
    """Return ``maps`` after the inverse of the small maps ``update`` ``[n, 6]``, these kept small enough to trust."""
    limit = np.array([0.1, 0.1, 2.0])
    small = update.reshape(-1, 2, 3).astype(np.float64).clip(-limit, limit)
    inverse = np.linalg.inv(np.eye(2) + small[:, :, :2])
    linear = maps[:, :, :2] @ inverse
    return np.concatenate([linear, maps[:, :, 2:] - linear @ small[:, :, 2:]], axis=2)


def _plausible(maps: Maps) -> NDArray[np.bool_]:
    """Tell which maps a crop, a small rotation and a flip can make."""
    a, b, c, d = maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1]
    stretch = np.linalg.svd(maps[:, :, :2], compute_uv=False)
    mirrored = np.sign(a * d - b * c)
    turn = np.degrees(np.abs(np.arctan2(c - mirrored * b, a + mirrored * d)))
    turn = np.minimum(turn, 180 - turn)  # a picture upside down is two flips
    shift = np.abs(maps[:, :, 2]).max(axis=1)
    in_range = (stretch[:, 1] >= _STRETCH[0]) & (stretch[:, 0] <= _STRETCH[1])
    in_range &= stretch[:, 0] <= _ASPECT * stretch[:, 1]
    return np.asarray(in_range & (turn <= _TURN) & (shift <= _SHIFT))
