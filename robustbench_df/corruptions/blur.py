"""Blurs: Gaussian, defocus, frosted glass, motion and zoom (Hendrycks & Dietterich 2019, arXiv:1903.12261).

All take ``x`` float32 ``[N, 3, H, W]`` in [0, 1] and return the same shape. The settings and their sources are in
`catalogue`; lengths are in pixels. A Gaussian filter is a banded matrix that includes the border rule, so it works at
any image size.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.corruptions.core import Draw, Setting
from robustbench_df.precision import exact_fp32

Border = Literal["edge", "mirror", "symmetric"]
"""How a line ``a b c`` continues outside: ``a a|a b c|c c``, ``c b|a b c|b a`` or ``b a|a b c|c b``."""

_TILE = 32
"""Number of outputs that a filter computes at once. It is small because each output costs as many products as a tile
plus the filter is long."""

_CHANNELS = 32
"""Channels that fill a processor's vector units, which work in blocks of 8 or 16."""

_NOTHING = 1e-6
"""Smaller weights are left out: they change a pixel by less than a thousandth of an 8-bit level."""


def gaussian_blur(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Gaussian filter. ``setting``: (standard deviation). Cut at 4 deviations, edge repeated, as in scikit-image."""
    return gaussian(x, setting[0])


def defocus_blur(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Average over the disc of a lens out of focus. ``setting``: (radius, deviation of the blur of the disc's rim)."""
    kernel = disk(*setting).to(x.device)
    n, channels, height, width = x.shape
    reach, planes = len(kernel) // 2, n * channels
    # One grouped convolution with a channel per plane. A small number of planes is cut into bands, because the
    # processor handles 16 channels at once.
    bands = max(1, _CHANNELS // planes)
    band = -(-height // bands)
    row = torch.arange(bands)[:, None] * band + torch.arange(band + 2 * reach)
    rows = _outside(height, reach, "mirror", x.device)[row.flatten().clamp_(max=height - 1 + 2 * reach)]
    columns = _outside(width, reach, "mirror", x.device)
    padded = x.index_select(3, columns).index_select(2, rows)
    weight = kernel.expand(planes * bands, 1, -1, -1).contiguous()
    with exact_fp32():
        out = F.conv2d(padded.reshape(1, len(weight), -1, len(columns)), weight, groups=len(weight))
    return out.reshape(n, channels, -1, width)[:, :, :height]


def glass_blur(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Frosted glass: blur, shuffle neighbouring pixels, blur. ``setting``: (deviation, reach, rounds).

    The published code visits the pixels from the last to the first. It is meant to swap each one with a neighbour up to
    ``reach`` before or ``reach - 1`` after it, but on colour pixels its swap of two array views only copies the
    neighbour. CIFAR-10-C and ImageNet-C were made in this way, so this function does the same, without the sequential
    loop (`_walk`).
    """
    sigma, reach, rounds = setting[0], int(setting[1]), int(setting[2])
    blurred = gaussian(x, sigma)
    n, _, height, width = x.shape
    source = torch.arange(n * height * width, device=x.device)
    for turn in range(rounds):
        source = source.take(_walk(n, height, width, reach, draw, f"turn {turn}"))
    place = (source.reshape(n, 1, -1) % (height * width)).expand(-1, x.shape[1], -1)
    return gaussian(blurred.flatten(2).gather(2, place).reshape(x.shape), sigma)


def motion_blur(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Blur along a line at -45 to 45 degrees. ``setting``: (radius, deviation), as `streak`."""
    degrees = draw.uniform((), "angle") * 90 - 45
    return streak(x, int(setting[0]), setting[1], degrees)


def zoom_blur(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Average the image and its enlargements. ``setting``: (end, step) of the zoom factors from 1, end excluded."""
    end, step = setting
    # numpy's arange, as for the published images: rounding sometimes makes its last factor the end itself.
    factors = np.arange(1, end, step).tolist()
    total = x.clone()
    for factor in factors:
        total += _zoomed(x, factor)
    return total.div_(len(factors) + 1)


def gaussian(x: Tensor, sigma: float, border: Border = "edge", truncate: float = 4.0) -> Tensor:
    """Filter the last two axes with a Gaussian, cut at ``truncate`` deviations as in scipy.ndimage.

    Args:
        x: float ``[..., H, W]``.
        sigma: standard deviation in pixels.
        border: what lies outside.
        truncate: half the filter's length in deviations.
    """
    radius = int(truncate * sigma + 0.5)
    return _blurred(x, radius, sigma, border) if radius else x


def streak(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Blur along a line that starts at each pixel and runs in one direction, as ImageMagick's motion blur does.

    The weights are half a Gaussian over ``2 * radius + 1`` whole-pixel steps. Outside the image, the edge repeats. A
    line longer than the image keeps its full weight (imagecorruptions stops at the border, which darkens the image).

    Args:
        x: float ``[N, C, H, W]``.
        radius: half the line's length in pixels.
        sigma: standard deviation in pixels.
        degrees: ``[N]``, 0 is along the row, 90 down the column.
    """
    height, width = x.shape[2:]
    weights = _gaussian_taps(2 * radius, sigma)[2 * radius :]
    weights = weights / weights.sum()
    weights = weights[weights > _NOTHING]
    # Images with similar angles make the same moves. Sorted by angle, they form contiguous slices, one per distinct
    # move of a step.
    degrees, order = degrees.sort()
    angle = torch.deg2rad(degrees.double().cpu())[:, None]
    step = torch.arange(len(weights), dtype=torch.float64)
    moves = torch.stack([step * angle.sin(), step * angle.cos()], 2).sub_(0.5).ceil_().long()  # [N, steps, (y, x)]
    up, left = (-moves.amin((0, 1)).clamp(max=0)).tolist()
    down, right = moves.amax((0, 1)).clamp(min=0).tolist()
    padded = F.pad(x[order], (left, right, up, down), mode="replicate")
    out = torch.zeros_like(x)
    for weight, move in zip(weights.tolist(), moves.unbind(1), strict=True):
        start = 0
        distinct, counts = torch.unique_consecutive(move, dim=0, return_counts=True)
        for (dy, dx), count in zip(distinct.tolist(), counts.tolist(), strict=True):
            rows = slice(start, start + count)
            out[rows].add_(padded[rows, :, up + dy :, left + dx :][..., :height, :width], alpha=weight)
            start += count
    return out[order.argsort()]


@functools.lru_cache(maxsize=16)
def disk(radius: float, alias: float) -> Tensor:
    """Return the kernel of an out-of-focus lens, float32 ``[K, K]`` with odd K, its rim softened by a Gaussian.

    The grid extends 8 pixels from the centre, or the radius if that is larger. The rim's filter has 3 taps, or 5 for a
    radius above 8 (``disk`` of make_imagenet_c.py). Rows and columns without weight are left out. As in the published
    code, the rim is mirrored where the disc touches the edge of the grid: at radii 8 and 10 the weights add up to 1.01,
    which brightens the image by 1%.
    """
    reach, rim = (8, 1) if radius <= 8 else (int(radius), 2)
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).float()
    kernel = _blurred(kernel / kernel.sum(), rim, alias, "mirror")
    spare = reach - min(reach, int(radius) + rim)
    return kernel[spare : len(kernel) - spare, spare : len(kernel) - spare]


def banded(x: Tensor, matrix: Tensor, reach: int, axis: int) -> Tensor:
    """Multiply axis -1 or -2 of ``x`` by ``matrix [size, size]``, which is zero beyond ``reach`` off the diagonal."""
    size = x.shape[axis]
    parts = []
    for start in range(0, size, _TILE):
        stop = min(start + _TILE, size)
        low, high = max(start - reach, 0), min(stop + reach, size)
        near, rows = x.narrow(axis, low, high - low), matrix[start:stop, low:high]
        parts.append(near @ rows.T if axis == -1 else rows @ near)
    return torch.cat(parts, axis) if len(parts) > 1 else parts[0]


def _blurred(x: Tensor, radius: int, sigma: float, border: Border) -> Tensor:
    """Correlate both axes with ``2 * radius + 1`` weights of a Gaussian."""
    for axis in (-1, -2):
        matrix = _gaussian_matrix(x.shape[axis], radius, sigma, border, x.device)
        x = banded(x, matrix.to(x.dtype), radius, axis)
    return x


@functools.lru_cache(maxsize=16)
def _gaussian_matrix(size: int, radius: int, sigma: float, border: Border, device: torch.device) -> Tensor:
    """Return the filter of `_blurred` on a line of ``size`` pixels as a matrix, float32 ``[size, size]``."""
    taps = _gaussian_taps(radius, sigma)
    place = _outside(size, radius, border, taps.device).unfold(0, len(taps), 1)
    matrix = torch.zeros(size, size, dtype=taps.dtype).scatter_add_(1, place, taps.expand(size, -1))
    return matrix.to(device, torch.float32)


def _outside(size: int, reach: int, border: Border, device: torch.device) -> Tensor:
    """Return the pixel at each place ``-reach`` … ``size - 1 + reach`` of a line; ``reach`` may exceed ``size``."""
    place = torch.arange(-reach, size + reach, device=device)
    if border == "edge":
        return place.clamp(0, size - 1)
    if border == "symmetric":
        place = place % (2 * size)
        return torch.minimum(place, 2 * size - 1 - place)
    period = max(2 * (size - 1), 1)
    place = place % period
    return torch.minimum(place, period - place)


def _gaussian_taps(radius: int, sigma: float) -> Tensor:
    """Return ``2 * radius + 1`` weights that sum to 1, float64."""
    taps = torch.exp(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2 / (-2 * sigma**2))
    return taps / taps.sum()


def _zoomed(x: Tensor, factor: float) -> Tensor:
    """Enlarge the centre bilinearly with aligned corners, as scipy's ``zoom`` does, and trim both sides equally."""
    sides = x.shape[2:]
    kept = [math.ceil(side / factor) for side in sides]
    large = [round(keep * factor) for keep in kept]
    return _centre(F.interpolate(_centre(x, kept), size=large, mode="bilinear", align_corners=True), list(sides))


def _centre(x: Tensor, sides: list[int]) -> Tensor:
    """Crop the centre; an odd margin is one pixel smaller at the top or left."""
    top, left = (x.shape[2] - sides[0]) // 2, (x.shape[3] - sides[1]) // 2
    return x[:, :, top : top + sides[0], left : left + sides[1]]


def _walk(n: int, height: int, width: int, reach: int, draw: Draw, purpose: str) -> Tensor:
    """Return the pixel that each pixel's value comes from in one round of `glass_blur`, flat int64 ``[N * H * W]``.

    The published loop runs from the last pixel to the first, and each pixel takes the value of a neighbour. A neighbour
    earlier in the image has not been visited yet, so it still has its old value. A later one has been visited, so its
    value came from yet another pixel, and so on. These chains are followed for all pixels in parallel; each iteration
    doubles the length covered.
    """
    source = torch.arange(n * height * width, device=draw.ids.device).reshape(n, height, width)
    inner = source[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
    if inner.numel() == 0:
        return source.flatten()
    side = 2 * reach
    cell = (draw.uniform(tuple(inner.shape[1:]), purpose) * side**2).long()
    move = (cell // side - reach) * width + cell % side - reach
    # A negative number ends a chain: it is the bitwise complement of the pixel whose old value is taken.
    pointer = ~source
    target = inner + move
    pointer[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = torch.where(move > 0, target, ~target)
    pointer = pointer.flatten()
    open_ends = (pointer >= 0).nonzero().squeeze(1)
    while len(open_ends):
        pointer[open_ends] = pointer[pointer[open_ends]]
        open_ends = open_ends[pointer[open_ends] >= 0]
    return ~pointer
