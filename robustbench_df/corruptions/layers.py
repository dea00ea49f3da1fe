"""The layers that weather lays over a picture: plasma clouds, ice crystals and drops.

Each layer is a pure function of its noise: the same noise gives the same layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df import rng


def plasma(noise: Callable[[int], Tensor], side: int, decay: float) -> Tensor:
    """Fractal clouds by diamond-square on a torus (Fournier, Fussell & Carpenter 1982), each scaled to [0, 1].

    As in ImageNet-C, the noise of each level is ``decay ** 2`` times weaker than that of the level before.

    Args:
        noise: ``noise(k)`` gives uniform numbers in [0, 1), ``[N, 3, k, k]``, for a grid of ``k`` points a side: one
            number for the middle of each square, of its upper edge and of its left edge.
        side: a power of two, at least 2.
        decay: how smooth the clouds are; 3 is soft, 1.4 is nearly white noise.

    Returns:
        ``[N, side, side]``.
    """
    amplitude, k = 1.0, 1
    grid = torch.zeros_like(noise(1)[:, 0])
    while k < side:
        middle, upper, left = ((noise(k) * 2 - 1) * amplitude).unbind(1)
        below, right, across = grid.roll(-1, 1), grid.roll(-1, 2), grid.roll((-1, -1), (1, 2))
        middle = middle + (grid + below + right + across) / 4
        upper = upper + (grid + right + middle + middle.roll(1, 1)) / 4
        left = left + (grid + below + middle + middle.roll(1, 2)) / 4
        rows = (torch.stack((grid, upper), 3).flatten(2), torch.stack((left, middle), 3).flatten(2))
        grid = torch.stack(rows, 2).flatten(1, 2)
        amplitude, k = amplitude / decay**2, 2 * k
    low, high = grid.amin((1, 2), keepdim=True), grid.amax((1, 2), keepdim=True)
    return grid.sub_(low).div_(high - low)


def drops(liquid: Tensor) -> Tensor:
    """Light and shade of water drops, as ImageNet-C lights its spatter, 0 to 255 per pixel.

    This is the distance to the outline of the drops (Canny), clipped at 20 pixels, then equalised, embossed and
    smoothed. Distances are Euclidean; the original uses OpenCV's 5 x 5 approximation, which differs by at most 2%.

    Args:
        liquid: whole numbers 0 to 255, float ``[N, H, W]``.
    """
    distance = _box(_distance(_outline(liquid.to(torch.int16)), _FAR).clamp_max_(_FAR)).to(torch.int16)
    at = _around(_rimmed(_equalise(distance), mirrored=True))
    relief = at(0, 0) + at(0, 1) + at(1, 0) + 2 * at(1, 1) - 2 * at(-1, -1) - at(-1, 0) - at(0, -1)
    return _box(relief.clamp_(0, 255).float()).round_()


_FAR = 20
_WEAK, _STRONG = 50, 150
"""Canny's thresholds in ImageNet-C, for the sum of the absolute Sobel derivatives of 0 to 255."""


def _rimmed(x: Tensor, *, mirrored: bool) -> Tensor:
    """Add a rim of one pixel to ``[N, H, W]``: mirrored ``b|a b c|b``, else repeated ``a|a b c|c``. Any type."""
    for dim in (1, 2):
        size = x.shape[dim]
        inner = min(1, size - 1) if mirrored else 0
        x = torch.cat((x.narrow(dim, inner, 1), x, x.narrow(dim, size - 1 - inner, 1)), dim)
    return x


def _around(rimmed: Tensor) -> Callable[[int, int], Tensor]:
    """Return a function of (down, right), each -1 to 1, that returns the neighbours at that offset, ``[N, H, W]``."""
    height, width = rimmed.shape[1] - 2, rimmed.shape[2] - 2
    return lambda down, right: rimmed[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]


def _box(x: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels."""
    x = _rimmed(x, mirrored=True)
    x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    return (x[..., :-2] + x[..., 1:-1] + x[..., 2:]) / 9


def _outline(x: Tensor) -> Tensor:
    """Edges by Canny (1986), as OpenCV finds them: bool ``[N, H, W]`` of int16 0 to 255."""
    padded = _rimmed(x, mirrored=False)
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    cols = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx, dy = rows[..., 2:] - rows[..., :-2], cols[:, 2:] - cols[:, :-2]
    across, down = dx.abs(), dy.abs()
    size = across + down
    at = _around(F.pad(size, (1,) * 4))
    flat, steep = down < across * _TAN_22, down > across / _TAN_22
    falling = (dx ^ dy) >= 0  # the same sign: the slope runs from top left to bottom right
    peak = (flat & (size > at(0, -1)) & (size >= at(0, 1))) | (steep & (size > at(-1, 0)) & (size >= at(1, 0)))
    slanted = (falling & (size > at(-1, -1)) & (size > at(1, 1))) | (~falling & (size > at(-1, 1)) & (size > at(1, -1)))
    weak = (peak | (slanted & ~flat & ~steep)) & (size > _WEAK)
    edges = weak & (size > _STRONG)
    while True:  # weak edges that touch a strong one become strong
        grown = _rimmed(edges, mirrored=False)
        grown = grown[:, :-2] | grown[:, 1:-1] | grown[:, 2:]
        grown = (grown[..., :-2] | grown[..., 1:-1] | grown[..., 2:]) & weak
        if torch.equal(grown, edges):
            return edges
        edges = grown


_TAN_22 = math.tan(math.pi / 8)


def _distance(targets: Tensor, far: int) -> Tensor:
    """Euclidean distance to the nearest True of ``[N, H, W]``, exact up to ``far`` and above ``far`` beyond it.

    The squared distance is a minimum of parabolas, which are sums of steps of 1, 3, 5, ... (van den Boomgaard 1992).
    """
    squared = torch.where(targets, 0, (far + 1) ** 2).to(torch.int16)
    for dim in (1, 2):
        rest = squared.shape[dim] - 1
        first, last = squared.narrow(dim, 0, rest), squared.narrow(dim, 1, rest)
        for step in range(1, min(far, rest) + 1):
            raised = squared + (2 * step - 1)
            torch.minimum(first, raised.narrow(dim, 1, rest), out=first)
            torch.minimum(last, raised.narrow(dim, 0, rest), out=last)
    return squared.to(torch.float32).sqrt_()


def _equalise(x: Tensor) -> Tensor:
    """Equalise the histogram of int16 0 to 20 to 0 to 255, the smallest value to 0, as OpenCV's ``equalizeHist``."""
    n, levels = len(x), _FAR + 1
    index = (x.flatten(1) + torch.arange(n, device=x.device)[:, None] * levels).flatten()
    counts = torch.bincount(index, minlength=n * levels).view(n, levels)
    upto = counts.cumsum(1)
    first = counts.gather(1, x.flatten(1).amin(1, keepdim=True).long())
    above = upto[:, -1:] - first
    table = ((upto - first).clamp_min(0) * 255 / above.clamp_min(1)).round().to(x.dtype)
    table = torch.where(above > 0, table, torch.arange(levels, device=x.device, dtype=x.dtype))
    return table.flatten().take(index).view_as(x)


ICE_SIDE = 400
"""Side of an ice texture in pixels; the texture tiles seamlessly."""


@lru_cache(maxsize=4)
def ice(scale: float, device: torch.device) -> Tensor:
    """Synthesised window frost, ``[5, 3, s, s]`` in [0, 1] with ``s = 400 * scale``; every texture tiles.

    Needles of ice grow in grains, each grain along one of three directions (ice is hexagonal), thicker where a cloud
    of moisture was, with a bright seam where grains meet. Colour and contrast are those of `_ICE_LOOKS`.
    """
    side = round(ICE_SIDE * scale)
    bank = torch.stack([_texture(number) for number in range(len(_ICE_LOOKS))])
    return F.interpolate(bank, (side, side), mode="area").to(device)


def _texture(number: int) -> Tensor:
    grain, seam = _grains(number)
    needles = (1 - _streaks(number).gather(0, grain[None])[0].abs()).clamp_min(0)
    thick = torch.sigmoid(2 * _cloud(number)) * (0.3 + needles + seam)
    thick = (thick - thick.mean()) / thick.std()
    *colour, contrast = _ICE_LOOKS[number]
    return (torch.tensor(colour)[:, None, None] + contrast * thick).clamp(0, 1)


_ICE_LOOKS = (
    (0.305, 0.585, 0.650, 0.070),
    (0.787, 0.805, 0.841, 0.086),
    (0.787, 0.805, 0.841, 0.086),
    (0.540, 0.599, 0.648, 0.113),
    (0.441, 0.484, 0.528, 0.169),
)
"""Mean red, green and blue, and standard deviation, of the five photographs that the published code chooses from.

Measured on frost1 to frost5 of imagecorruptions 1.1.2; the second and third are the same photograph there.
"""
_DIRECTIONS, _GRAINS = 3, 24
_NEEDLE_LENGTH, _NEEDLE_WIDTH = 16.0, 1.0
"""Standard deviations in pixels of the smoothing along and across the needles."""


def _white(number: int, purpose: str, *shape: int) -> Tensor:
    return rng.normal(torch.tensor([number]), shape, "ice", purpose)[0]


def _waves() -> tuple[Tensor, Tensor]:
    """Angular frequencies of an ice texture, down ``[s, 1]`` and along ``[1, s // 2 + 1]``, in radians per pixel."""
    down, along = torch.fft.fftfreq(ICE_SIDE)[:, None], torch.fft.rfftfreq(ICE_SIDE)[None, :]
    return 2 * math.pi * down, 2 * math.pi * along


def _filtered(white: Tensor, response: Tensor) -> Tensor:
    """White noise ``[..., s, s]`` through a filter, on a torus, scaled to variance 1."""
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * response, s=(ICE_SIDE, ICE_SIDE))
    return field / field.std((-2, -1), keepdim=True)


def _streaks(number: int) -> Tensor:
    """Noise smoothed along one direction per channel, ``[_DIRECTIONS, s, s]``."""
    down, along = _waves()
    angle = torch.arange(_DIRECTIONS)[:, None, None] * math.pi / _DIRECTIONS
    lengthwise, across = along * angle.cos() + down * angle.sin(), down * angle.cos() - along * angle.sin()
    response = torch.exp(-0.5 * ((_NEEDLE_LENGTH * lengthwise) ** 2 + (_NEEDLE_WIDTH * across) ** 2))
    return _filtered(_white(number, "needles", _DIRECTIONS, ICE_SIDE, ICE_SIDE), response)


def _cloud(number: int) -> Tensor:
    """Noise ``[s, s]`` with amplitude falling as frequency to the power 1.5: broad patches with ragged edges."""
    down, along = _waves()
    response = (down**2 + along**2).clamp_min((2 * math.pi / ICE_SIDE) ** 2) ** -0.75
    response[0, 0] = 0
    return _filtered(_white(number, "cloud", ICE_SIDE, ICE_SIDE), response)


def _grains(number: int) -> tuple[Tensor, Tensor]:
    """Voronoi grains on a torus: the direction of each pixel, int64 ``[s, s]``, and its nearness to a seam, [0, 1]."""
    seeds = rng.uniform(torch.tensor([number]), (_GRAINS, 2, 1, 1), "ice", "grains")[0] * ICE_SIDE
    line, half = torch.arange(ICE_SIDE, dtype=torch.float32), ICE_SIDE / 2
    down = torch.remainder(line[:, None] - seeds[:, 0] + half, ICE_SIDE) - half
    along = torch.remainder(line[None, :] - seeds[:, 1] + half, ICE_SIDE) - half
    away = (down**2 + along**2).sqrt()
    first, grain = away.min(0)
    second = away.scatter(0, grain[None], math.inf).amin(0)
    return grain % _DIRECTIONS, torch.exp(-(second - first) / _SEAM)


_SEAM = 3.0
"""Width of a seam between grains in pixels."""
