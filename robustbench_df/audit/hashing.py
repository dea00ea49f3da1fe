"""64-bit perceptual hashes (pHash: signs of low DCT coefficients) of images, and of what augmentations make of them.

Everything is computed from a grey thumbnail of 32×32 pixels, whatever the size of the image, so that one set of
thresholds serves images of 32 px and of 512 px. What is hashed is the central window of 24×24 pixels: in a copy that
was shifted by up to 4 px or turned by up to 15° that window shows nothing but the original. So a copy is found if the
hash of its central window is near the hash of *some* shifted, rotated or enlarged window of the original. Those windows
are the `VIEWS`. Hashes of mirrored images cost nothing, because mirroring only negates the odd DCT coefficients.

Exact copies need no perceptual hash: `ImageSet.hashes` are digests of the pixels themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.statistics import LUMA
from robustbench_df.data.imageset import Pixels

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float32]

GRID = 32
"""Side of the grey thumbnail on which copies are sought: the size of CIFAR's images, where little detail is left."""

WINDOW = 24
"""Side of the window that is hashed and compared, in thumbnail pixels. The usual crop of 32-px training sets pads by
4 px and cuts 32 px (He et al. 2016, arXiv:1512.03385, section 4.2), which leaves at least these 24 px untouched."""

BITS = 64

_ORDERS = 20
"""Number of DCT orders of the thumbnail from which the hash is computed. The hash uses 9 orders of a window, which are
at most 0.22 cycles per thumbnail pixel; 20 orders of the thumbnail reach 0.31. Leaving out the others saves three
fifths of the work."""

_CHUNK_BYTES = 1 << 26
"""Bytes of pixels as float that are held at once; the result does not depend on it."""


class View(NamedTuple):
    """A window of an image: centre off by (dx, dy) thumbnail pixels, turned by ``angle`` degrees, side × ``zoom``."""

    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    zoom: float = 1.0

    def matrix(self) -> NDArray[np.float64]:
        """2×2 map from the window's coordinates (x, y about its centre) to the image's about its own."""
        cos, sin = self.zoom * math.cos(math.radians(self.angle)), self.zoom * math.sin(math.radians(self.angle))
        return np.array([[cos, -sin], [sin, cos]])


def _square(steps: Sequence[float], zoom: float = 1.0) -> list[View]:
    return [View(dx, dy, zoom=zoom) for dx in steps for dy in steps]


VIEWS: tuple[View, ...] = (
    View(),
    *_square((-4.0, -2.4, -0.8, 0.8, 2.4, 4.0)),
    *(View(angle=angle) for angle in (-12.0, -6.0, 6.0, 12.0)),
    *_square((-1.2, 0.0, 1.2), zoom=0.93),
    *_square((-2.1, -0.7, 0.7, 2.1), zoom=0.86),
)
"""The identity first. Every shift of up to 4 px lies within 0.8 px of one of them, every turn of up to 15° within 3°,
every crop that keeps 81% of the side (RandomResizedCrop down to two thirds of the area) within 5% and 0.9 px."""


def thumbnails(data: Pixels) -> Pixels:
    """Shrink images to grey thumbnails by averaging areas (images below 32 px are enlarged linearly).

    Args:
        data: uint8 ``[N, 3, H, W]`` of any size, such as `ImageSet.data`; read in chunks, so it may be a memory map.

    Returns:
        uint8 ``[N, 32, 32]``: 1 KiB per image.
    """
    n, _, height, width = data.shape
    rows, columns = _resampling(height), _resampling(width)
    out = np.empty((n, GRID, GRID), np.uint8)
    step = max(1, _CHUNK_BYTES // (16 * height * width))
    for start in range(0, n, step):
        part = data[start : start + step]
        grey = LUMA[0] * part[:, 0] + LUMA[1] * part[:, 1] + LUMA[2] * part[:, 2]
        small = grey if (height, width) == (GRID, GRID) else rows @ grey @ columns.T
        out[start : start + step] = np.rint(small).clip(0, 255)
    return out


def contrast(thumbs: Pixels) -> Floats:
    """Return each thumbnail's standard deviation inside the window, float32 ``[N]`` in grey levels."""
    edge = (GRID - WINDOW) // 2
    step = _CHUNK_BYTES // (4 * GRID * GRID)
    chunks = [
        thumbs[start : start + step, edge:-edge, edge:-edge].astype(np.float32).std(axis=(1, 2))
        for start in range(0, len(thumbs), step)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.float32)


def view_hashes(thumbs: Pixels, views: Sequence[View] = VIEWS) -> Hashes:
    """Hash each view of each thumbnail.

    Args:
        thumbs: uint8 ``[N, 32, 32]``.
        views: V windows.

    Returns:
        uint64 ``[V, N]``. Bit k (from the lowest) is set where the k-th DCT coefficient of the window is positive,
        coefficients by rising frequency. Unlike the usual pHash (Zauner 2010, sec. 3.2.1) it compares the coefficients
        with 0 and leaves out the mean (order 0), so flips are exact: see `flip_mask`.
    """
    waves = _waves(GRID)[:_ORDERS]
    project = np.concatenate([_projection(view) for view in views])
    out = np.empty((len(views), len(thumbs)), np.uint64)
    step = max(1, _CHUNK_BYTES // (4 * len(project)))
    for start in range(0, len(thumbs), step):
        spectra = waves @ thumbs[start : start + step].astype(np.float32) @ waves.T
        positive = (spectra.reshape(len(spectra), -1) @ project.T > 0).reshape(-1, len(views), BITS)
        packed = np.packbits(positive, axis=2, bitorder="little").view("<u8")[..., 0]
        out[:, start : start + step] = packed.T
    return out


def flip_mask(horizontal: bool, vertical: bool) -> np.uint64:
    """Return the bits that mirroring negates: cosines of odd order are odd about the middle."""
    kx, ky = _frequencies().T
    odd = (kx * horizontal + ky * vertical) % 2 == 1
    return np.uint64(sum(1 << int(k) for k in np.flatnonzero(odd)))


def window_grid(side: int = WINDOW) -> NDArray[np.float64]:
    """Return a window's sampling points about its centre, float64 ``[side², 2]`` as (x, y), row by row."""
    line = np.arange(side) - (side - 1) / 2
    y, x = np.meshgrid(line, line, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


@lru_cache(maxsize=1)
def _frequencies() -> NDArray[np.intp]:
    """The `BITS` lowest DCT orders (kx, ky) except (0, 0), by rising frequency, int ``[64, 2]``."""
    orders = [(kx, ky) for kx in range(WINDOW) for ky in range(WINDOW) if kx or ky]
    return np.array(sorted(orders, key=lambda k: (k[0] ** 2 + k[1] ** 2, k))[:BITS])


def _waves(extent: int) -> Floats:
    """Orthonormal DCT-II as a matrix ``[extent, extent]``: order by pixel."""
    angle = np.outer(np.arange(extent), np.arange(extent) + 0.5) * math.pi / extent
    scale = np.where(np.arange(extent) == 0, math.sqrt(1 / extent), math.sqrt(2 / extent))
    return np.asarray(np.cos(angle) * scale[:, None], np.float32)


@lru_cache(maxsize=len(VIEWS))
def _projection(view: View) -> Floats:
    """Matrix ``[64, 400]`` from a thumbnail's low DCT orders to the DCT coefficients of one view of it."""
    points = window_grid() @ view.matrix().T + np.array([view.dx, view.dy]) + (GRID - 1) / 2
    sample = np.zeros((WINDOW * WINDOW, GRID * GRID), np.float32)
    corner = np.floor(points).astype(np.intp)
    for ox in (0, 1):
        for oy in (0, 1):
            x, y = (corner + np.array([ox, oy])).clip(0, GRID - 1).T
            weight = np.abs(1 - ox - (points - corner)[:, 0]) * np.abs(1 - oy - (points - corner)[:, 1])
            np.add.at(sample, (np.arange(len(points)), y * GRID + x), weight)
    kx, ky = _frequencies().T
    window, whole = _waves(WINDOW), _waves(GRID)[:_ORDERS]
    measure = (window[ky][:, :, None] * window[kx][:, None, :]).reshape(BITS, -1)
    return np.asarray(measure @ sample @ np.kron(whole, whole).T, np.float32)


def _resampling(extent: int) -> Floats:
    """Matrix ``[32, extent]``: means over areas when shrinking, linear interpolation when enlarging."""
    if extent >= GRID:
        edges = np.linspace(0, extent, GRID + 1)
        pixel = np.arange(extent)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.asarray(overlap.clip(0) * GRID / extent, np.float32)
    at = ((np.arange(GRID) + 0.5) * extent / GRID - 0.5).clip(0, extent - 1)
    weights: NDArray[Any] = 1 - np.abs(at[:, None] - np.arange(extent))
    return np.asarray(weights.clip(0), np.float32)
