"""Is one picture a copy of another? A pixel check that first aligns them, on 32×32 grey thumbnails.

Two pictures of different things may share a hash: a bright blob on dark, a horizon. What they do not share is detail.
So the check is the normalised cross-correlation of *detail*: band-passed grey, divided by its local strength, so that
one strong edge cannot stand for the whole picture. Brightness and contrast drop out. Detail only correlates where
the pictures lie on each other within a fraction of a pixel, hence the alignment: an affine map, found by
Gauss-Newton steps from the view in which the hashes met (inverse compositional, Baker & Matthews 2004, section 3.2).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.hashing import GRID, VIEWS, WINDOW, Floats, window_grid
from robustbench_df.data.imageset import Pixels

Index = NDArray[np.intp]

FLIPS = ((False, False), (True, False), (False, True), (True, True))
"""(left-right, top-bottom) by number; a candidate's ``flip`` counts into it."""

STEPS = 8
_BATCH = 4096
_EDGE = (GRID - WINDOW) // 2
_FINE, _COARSE, _LOCAL = 0.8, 2.5, 3.0
_FLOOR = 3.0
_DAMPING = 1e-3
_SCALE = (0.7, 1.4)
_TURN = 25.0
_SHIFT = 7.0


def blur_matrix(sigma: float) -> Floats:
    """Matrix ``[32, 32]`` of a Gaussian blur with mirrored borders: ``B @ image @ B.T``."""
    at = np.arange(GRID)
    matrix = np.zeros((GRID, GRID))
    for offset in range(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1):
        mirrored = np.abs(at + offset)
        mirrored = np.where(mirrored >= GRID, 2 * GRID - 2 - mirrored, mirrored) % GRID
        np.add.at(matrix, (at, mirrored), math.exp(-(offset**2) / (2 * sigma**2)))
    return np.asarray(matrix / matrix.sum(1, keepdims=True), np.float32)


def detail(thumbs: Pixels) -> Floats:
    """Return the detail that is compared: float32 ``[N, 32, 32]``, about 1 where there is structure, 0 on plain areas.

    Structure between `_FINE` and `_COARSE` pixels (difference of Gaussians), over its local root mean square plus
    `_FLOOR` grey levels, so that what JPEG and noise leave on a plain area stays small.
    """
    fine, coarse, local = blur_matrix(_FINE), blur_matrix(_COARSE), blur_matrix(_LOCAL)
    grey = thumbs.astype(np.float32)
    band = fine @ grey @ fine.T - coarse @ grey @ coarse.T
    return np.asarray(band / np.sqrt(local @ band**2 @ local.T + _FLOOR**2), np.float32)


def agreement(first: Floats, second: Floats, view: Index, flip: Index) -> Floats:
    """Align ``first`` to the window of ``second``, and return how well their detail agrees.

    Args:
        first, second: `detail` of n pairs, float32 ``[n, 32, 32]``.
        view, flip: which of `VIEWS` and `FLIPS` of ``first`` resembles ``second``: the start of the alignment.

    Returns:
        float32 ``[n]``: the correlation over the window in [-1, 1]; -1 where the alignment left the range of what
        crops and small rotations do.
    """
    out = np.empty(len(first), np.float32)
    for start in range(0, len(first), _BATCH):
        part = slice(start, start + _BATCH)
        out[part] = _agreement(first[part], second[part], _starts(view[part], flip[part]))
    return out


def _starts(view: Index, flip: Index) -> NDArray[np.float64]:
    """Affine maps ``[n, 2, 3]`` from window coordinates to those of the thumbnail, both about their centres."""
    views = np.stack([np.column_stack([v.matrix(), (v.dx, v.dy)]) for v in VIEWS])
    mirror = np.array([[-1.0 if h else 1.0, -1.0 if v else 1.0] for h, v in FLIPS])
    maps = views[view].copy()
    maps[:, :, :2] *= mirror[flip][:, None, :]
    return maps


def _agreement(first: Floats, second: Floats, maps: NDArray[np.float64]) -> Floats:
    points = np.column_stack([window_grid(), np.ones(WINDOW * WINDOW)])
    template = second[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
    target = _unit(template.reshape(len(second), -1))
    steepest = _steepest(second, points)
    normal = np.einsum("npi,npj->nij", steepest, steepest)
    trace = np.trace(normal, axis1=1, axis2=2)
    normal += (_DAMPING * trace[:, None, None] / 6 + 1e-12) * np.eye(6, dtype=np.float32)
    inverse = np.linalg.inv(normal)
    best = np.full(len(first), -1.0, np.float32)
    best_maps = maps.copy()
    for step in range(STEPS + 1):
        warped = _unit(_sample(first, maps, points))
        score = np.einsum("np,np->n", warped, target)
        better = score > best
        best[better], best_maps[better] = score[better], maps[better]
        if step < STEPS:
            update = np.einsum("nij,npj,np->ni", inverse, steepest, warped - target, optimize=True)
            maps = _compose(maps, update)
    return np.where(_plausible(best_maps), best, -1).astype(np.float32)


def _steepest(second: Floats, points: NDArray[np.float64]) -> Floats:
    """How the normalised window changes with each of the six parameters of an affine map: float32 ``[n, 576, 6]``."""
    dy, dx = (g[:, _EDGE:-_EDGE, _EDGE:-_EDGE].reshape(len(second), -1, 1) for g in np.gradient(second, axis=(1, 2)))
    window = second[:, _EDGE:-_EDGE, _EDGE:-_EDGE].reshape(len(second), -1)
    steepest = np.concatenate([dx * points, dy * points], axis=2).astype(np.float32)
    centred = window - window.mean(1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)[:, :, None] + 1e-6
    steepest = (steepest - steepest.mean(1, keepdims=True)) / norm
    unit = (centred / norm[:, :, 0])[:, :, None]
    # What only rescales the window is no misalignment: correlation does not see it.
    return np.asarray(steepest - unit * np.einsum("npi,npj->nij", unit, steepest), np.float32)


def _sample(image: Floats, maps: NDArray[np.float64], points: NDArray[np.float64]) -> Floats:
    """Look ``image`` up at the mapped points, bilinearly, its border repeated: float32 ``[n, 576]``."""
    at = (points @ maps.transpose(0, 2, 1) + (GRID - 1) / 2).clip(0, GRID - 1.001).astype(np.float32)
    corner = at.astype(np.intp)
    fx, fy = np.moveaxis(at - corner, 2, 0)
    base = corner[..., 1] * GRID + corner[..., 0] + np.arange(len(image))[:, None] * GRID * GRID
    flat = image.reshape(-1)
    top = flat[base] * (1 - fx) + flat[base + 1] * fx
    bottom = flat[base + GRID] * (1 - fx) + flat[base + GRID + 1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy, np.float32)


def _unit(windows: Floats) -> Floats:
    centred = windows - windows.mean(1, keepdims=True)
    return np.asarray(centred / (np.linalg.norm(centred, axis=1, keepdims=True) + 1e-6), np.float32)


def _compose(maps: NDArray[np.float64], update: Floats) -> NDArray[np.float64]:
    """Return ``maps`` after the inverse of the small maps ``update`` ``[n, 6]``, these kept small enough to trust."""
    limit = np.array([0.1, 0.1, 2.0])
    small = update.reshape(-1, 2, 3).astype(np.float64).clip(-limit, limit)
    inverse = np.linalg.inv(np.eye(2) + small[:, :, :2])
    linear = maps[:, :, :2] @ inverse
    return np.concatenate([linear, maps[:, :, 2:] - linear @ small[:, :, 2:]], axis=2)


def _plausible(maps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which maps a crop, a small rotation and a flip can make."""
    a, b, c, d = maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1]
    stretch = np.linalg.svd(maps[:, :, :2], compute_uv=False)
    mirrored = np.sign(a * d - b * c)
    turn = np.degrees(np.abs(np.arctan2(c - mirrored * b, a + mirrored * d)))
    turn = np.minimum(turn, 180 - turn)  # a picture upside down is two flips
    shift = np.abs(maps[:, :, 2]).max(axis=1)
    in_range = (stretch[:, 1] >= _SCALE[0]) & (stretch[:, 0] <= _SCALE[1])
    return np.asarray(in_range & (turn <= _TURN) & (shift <= _SHIFT))
