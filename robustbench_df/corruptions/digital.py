"""Light, colour, compression, resolution and shape (Hendrycks & Dietterich 2019, arXiv:1903.12261).

All take ``x`` float32 ``[N, 3, H, W]`` in [0, 1] and return the same shape. The settings and their sources are in
`catalogue`. Brightness and saturation act in HSV. RGB is linear in either one while the other two HSV components are
fixed, so no conversion is needed.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.corruptions.blur import banded, gaussian
from robustbench_df.corruptions.codecs import jpeg
from robustbench_df.corruptions.core import Draw, Setting


def brightness(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Increase the value of HSV, up to 1; hue and saturation stay the same. ``setting``: (amount added)."""
    value = x.amax(1, keepdim=True)
    brighter = (value + setting[0]).clamp_(0, 1)
    return torch.where(value > 0, x * (brighter / value), brighter)


def contrast(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Pull each channel towards its mean over the image. ``setting``: (share of the contrast that is kept)."""
    mean = x.mean((2, 3), keepdim=True)
    return torch.lerp(mean, x, setting[0])


def saturate(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Scale and shift the saturation of HSV within [0, 1]. ``setting``: (factor, amount added).

    Grey has no hue. It is treated as red, as in scikit-image, so a positive shift tints it red.
    """
    factor, added = setting
    value = x.amax(1, keepdim=True)
    span = value - x.amin(1, keepdim=True)
    red = torch.tensor([0.0, 1.0, 1.0], device=x.device).reshape(1, 3, 1, 1)
    away = torch.where(span > 0, (value - x) / span, red)  # 0 for the strongest channel, 1 for the weakest
    saturation = torch.where(value > 0, span / value, 0).mul_(factor).add_(added).clamp_(0, 1)
    return value * (1 - saturation * away)


def jpeg_compression(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Encode as baseline JPEG with 4:2:0 chroma and decode again. ``setting``: (quality)."""
    return jpeg(x, int(setting[0]))


def pixelate(x: Tensor, setting: Setting, _draw: Draw) -> Tensor:
    """Shrink and enlarge again, both with Pillow's box filter. ``setting``: (scale of each side)."""
    height, width = x.shape[2:]
    rows, columns = (max(1, int(side * setting[0])) for side in (height, width))
    # Selecting whole rows is fast, selecting single pixels within a row is not, so one matrix shrinks and enlarges the
    # columns.
    x = _boxed_rows(x, rows)
    x = banded(x, _there_and_back(width, columns).to(x.device, x.dtype), math.ceil(width / columns), -1)
    return _boxed_rows(x, height)


def elastic_transform(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Move three points at random and the image with them, then every pixel by a smooth field (Simard et al. 2003).

    ``setting``: (amplitude of the field, its smoothing deviation, largest move of a point), all in pixels. The three
    points are the centre of the image plus and minus a third of its shorter side, as in the published code. That code
    uses (row, column) as (x, y), which matters only for non-square images and is corrected here.
    """
    amplitude, sigma, reach = setting
    x = _move_corners(x, (draw.uniform((3, 2), "points") * 2 - 1) * reach)
    if amplitude == 0:
        return x
    noise = draw.uniform((2, *x.shape[2:]), "field") * 2 - 1
    field = gaussian(noise, sigma, border="symmetric", truncate=3.0) * amplitude
    rows, columns = _lines(x)
    return _sample(x, columns + field[:, 0], rows + field[:, 1], mirrored=False)


def _move_corners(x: Tensor, moves: Tensor) -> Tensor:
    """Apply the affine map that shifts three points by ``moves [N, 3, (x, y)]``; outside, the image is mirrored."""
    height, width = x.shape[2:]
    third = min(height, width) // 3
    offsets = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=x.device) * third
    before = torch.tensor([width // 2, height // 2], device=x.device) + offsets
    after = before + moves
    # The inverse map: write a pixel relative to the moved third point in the basis of the moved edges; the same
    # coordinates in the basis of the original edges give the place to sample.
    edges = after[:, :2] - after[:, 2:]
    (a, b), (c, d) = (edge.unbind(-1) for edge in edges.unbind(1))
    scale = a * d - b * c
    scale = torch.where(scale.abs() < 1, scale.sign() + (scale == 0), scale)  # three points almost on one line
    inverse = torch.stack([d, -b, -c, a], 1).reshape(-1, 2, 2) / scale[:, None, None]
    linear = inverse @ (before[:2] - before[2])
    shift = before[2] - (after[:, 2:] @ linear)[:, 0]
    rows, columns = _lines(x)
    to_x, to_y = (
        columns * linear[:, 0, i, None, None] + rows * linear[:, 1, i, None, None] + shift[:, i, None, None]
        for i in (0, 1)
    )
    return _sample(x, to_x, to_y, mirrored=True)


def _lines(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return row numbers ``[H, 1]`` and column numbers ``[1, W]``."""
    height, width = x.shape[2:]
    return torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)[None]


def _sample(x: Tensor, to_x: Tensor, to_y: Tensor, *, mirrored: bool) -> Tensor:
    """Sample ``x`` bilinearly at pixel coordinates ``[N, H, W]``; outside, the image is mirrored.

    With ``mirrored``, the edge pixel is shown once, ``c b|a b c`` (OpenCV's default border); otherwise twice,
    ``b a|a b c`` (scipy's ``reflect``).
    """
    height, width = x.shape[2:]
    if mirrored:
        grid = (2 * to_x / max(width - 1, 1) - 1, 2 * to_y / max(height - 1, 1) - 1)
    else:
        grid = ((2 * to_x + 1) / width - 1, (2 * to_y + 1) / height - 1)
    return F.grid_sample(x, torch.stack(grid, -1), padding_mode="reflection", align_corners=mirrored)


def _boxed_rows(x: Tensor, wanted: int) -> Tensor:
    """Resample the rows to ``wanted`` rows with `_box`."""
    steps = [(row.to(x.device), weight.to(x.device, x.dtype)) for row, weight in _box_steps(x.shape[2], wanted)]
    (row, weight), *others = steps
    out = x.index_select(2, row)
    if others:  # a single pixel has weight 1
        out *= weight
    for row, weight in others:
        out.addcmul_(x.index_select(2, row), weight)
    return out


@functools.lru_cache(maxsize=16)
def _box_steps(size: int, wanted: int) -> list[tuple[Tensor, Tensor]]:
    """Write `_box` as a sum: the first pixel of every window and its weight, then the second, and so on."""
    share = _box(size, wanted)
    weight, pixel = share.sort(dim=1, descending=True, stable=True)
    most = int((share > 0).sum(1).max())
    return [(pixel[:, step].contiguous(), weight[:, step, None].float()) for step in range(most)]


@functools.lru_cache(maxsize=16)
def _there_and_back(size: int, small: int) -> Tensor:
    """Return the matrix of `_box` from ``size`` to ``small`` and back again, float32 ``[size, size]``."""
    return _box(size, small)[_box(small, size).argmax(1)].float()


def _box(size: int, wanted: int) -> Tensor:
    """Return Pillow's box filter, float64 ``[wanted, size]``: the mean of the pixels whose centre lies in the window.

    A window is as wide as one pixel of the coarser grid; it includes its right end but not its left end.
    """
    scale = size / wanted
    centre = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(size, dtype=torch.float64) - centre[:, None] + 0.5) / max(scale, 1.0)
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)
