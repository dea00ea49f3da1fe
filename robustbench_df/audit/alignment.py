"""Is one picture a copy of another? A pixel check that first aligns them, on 32×32 grey thumbnails.

Two pictures of different things may share a hash (a bright blob on a dark background, a horizon), but they do not share
detail. So the check is the normalised cross-correlation of *detail*: band-passed grey, divided by its local strength,
so that one strong edge cannot dominate the whole picture. Brightness and contrast cancel out. Detail correlates only if
the pictures coincide within a fraction of a pixel, so they are first aligned by an affine map. It is found by
Gauss-Newton steps that start from the view in which the hashes matched (inverse compositional, Baker & Matthews 2004,
section 3.2).
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
"""Affine maps ``[n, 2, 3]`` from a window's coordinates to a thumbnail's, both relative to their centres."""

FLIPS = ((False, False), (True, False), (False, True), (True, True))
"""The flips (left-right, top-bottom); a candidate's ``flip`` is an index into them."""

ALIKE, GREY = 0.93, 0.97
"""Least correlation of the detail and of the grey values of a copy."""

NOISY_ALIKE, NOISY_GREY = 0.9, 0.985
"""Alternative limits: less detail suffices if the grey values correlate more, because noise and JPEG remove the detail
of faint pictures first. Measured on CIFAKE at 32 px: of 6.8 × 10⁸ pairs of a photograph and a generated picture, none
of them copies, none passes; of each kind of copy, 98 to 100% pass."""

SPARSE, SPARSE_ALIKE = 100.0, 0.96
"""Where the detail fills fewer than `SPARSE` of the 400 pixels (an aeroplane in the sky; 3% of CIFAKE's images), other
pictures of the same thing look alike, so a correlation of `SPARSE_ALIKE` is required. Pixels are counted by the
participation ratio of the energy."""

COMPARED = 20
"""Side of the window that is compared. It is smaller than the hashed window, because blurs spread a copy's border (the
black of a shifted or rotated picture) some pixels inwards."""

_EDGE = (GRID - COMPARED) // 2

_FINE, _COARSE, _LOCAL = 0.8, 2.5, 3.0
"""Standard deviations of the blurs, in thumbnail pixels. JPEG and resampling change structure below the first, a crop's
border and uneven light change structure above the second; the local strength is averaged over the third."""

_FLOOR = 3.0
"""Local strength, in grey levels, that counts as nothing: what JPEG leaves on a plain area."""

_STEPS, _STRIDE = 8, 2
"""Number of Gauss-Newton steps, and stride between the pixels used; more steps or pixels do not change the third
digit."""

_START, _PROMISING, _PATIENCE = 0.45, 0.65, 2
"""Pairs with a correlation of detail below `_START` at the start, or below `_PROMISING` after `_PATIENCE` steps, are
given up. These are fewer than 1% of the copies, even in the less favourable of the two directions, and nearly all other
pairs."""

_ENOUGH = 0.98
"""Correlation of detail from which a pair needs no alignment."""

_DAMPING = 1e-3
"""Share of the mean diagonal added to the normal equations (Levenberg 1944): plain windows do not determine all
parameters.
"""

_STRETCH, _ASPECT, _TURN, _SHIFT = (0.7, 1.4), 1.4, 25.0, 7.0
"""Limits of an alignment: least and largest scale, largest ratio of the two scales, largest rotation in degrees and
largest shift in thumbnail pixels. They lie slightly beyond RandomResizedCrop's range (Szegedy et al. 2015) and that of
`VIEWS`."""

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

    Structure between `_FINE` and `_COARSE` pixels (difference of Gaussians), divided by its local root mean square with
    a floor of `_FLOOR` grey levels, so that JPEG artefacts and noise on a plain area stay small.
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
        -1 where the alignment was given up, or left the range of crops and small rotations.
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
    """Return the maps of the given views and flips."""
    views = np.stack([np.column_stack([v.matrix(), (v.dx, v.dy)]) for v in VIEWS])
    mirror = np.array([[-1.0 if h else 1.0, -1.0 if v else 1.0] for h, v in FLIPS])
    maps = views[view]
    maps[:, :, :2] *= mirror[flip][:, None, :]
    return maps


def _align(first: Floats, second: Floats, maps: Maps) -> tuple[Maps, NDArray[np.bool_]]:
    """Improve the maps that are promising but not yet good; return all maps, and which pairs may be copies."""
    score = _correlation(first, second, maps, _STRIDE)
    rows = np.flatnonzero((score >= _START) & (score < _ENOUGH))
    score[rows], maps[rows] = _improve(first[rows], second[rows], maps[rows])
    return maps, (score >= _PROMISING) & _plausible(maps)


def _improve(first: Floats, second: Floats, maps: Maps) -> tuple[Floats, Maps]:
    """Take Gauss-Newton steps; return the best correlations found, and their maps."""
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
    """Return the normalised window's change per parameter of an affine map (six): float32 ``[n, P, 6]``."""
    dy, dx = (_window(np.gradient(second, axis=axis), _STRIDE)[:, :, None] for axis in (1, 2))
    window = _window(second, _STRIDE)
    steepest = np.concatenate([dx * points, dy * points], axis=2).astype(np.float32)
    centred = window - window.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)[:, :, None] + 1e-6
    steepest = (steepest - steepest.mean(1, keepdims=True)) / norm
    unit = (centred / norm[:, :, 0])[:, :, None]
    # A change that only rescales the window is no misalignment: correlation ignores it.
    return np.asarray(steepest - unit * (unit.transpose(0, 2, 1) @ steepest), np.float32)


def _sample(image: Floats, maps: Maps, points: NDArray[np.float64]) -> Floats:
    """Sample ``image`` bilinearly at the mapped points, its border repeated: float32 ``[n, P]`` for P points."""
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
    """Compose ``maps`` with the inverse of the small maps ``update`` ``[n, 6]``, clipped to a trusted range."""
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
