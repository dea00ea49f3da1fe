"""Frost, fog, snow and spatter, as ImageNet-C and CIFAR-10-C have them (Hendrycks & Dietterich 2019), batched.

Constants: ``cifar`` from the authors' make_cifar_c.py, ``imagenet`` from their make_imagenet_c.py. Differences from the
authors' code:

- frost: synthetic textures (`layers.ice`) instead of photographs;
- fog: the side of the cloud map is the next power of two of the longer image side; theirs is always 32 or 256;
- snow: flakes are not rounded to 8 bits before the motion blur; noise is drawn only for the part that the zoom shows;
- spatter: an image without a single drop stays unchanged; theirs divides by zero.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.corruptions import layers, pixels
from robustbench_df.corruptions.blur import gaussian, streak
from robustbench_df.corruptions.core import Draw, Setting

FROST: dict[str, tuple[Setting, ...]] = {
    "cifar": ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    "imagenet": ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
}
"""Weight of the image, weight of the ice, and scale of the texture (CIFAR-10-C shrinks its photographs to a fifth)."""

FOG: dict[str, tuple[Setting, ...]] = {
    "cifar": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "imagenet": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
}
"""Density, and decay of the noise from one scale to the next finer one."""

SNOW: dict[str, tuple[Setting, ...]] = {
    "cifar": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "imagenet": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
}
"""Mean and deviation of the flakes' noise, zoom, threshold, radius and sigma of the motion blur, share of the image
kept."""

SPATTER: dict[str, tuple[Setting, ...]] = {
    "cifar": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "imagenet": (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
}
"""Mean and deviation of the noise, its smoothing, threshold, strength (water) or smoothing (mud), 0 water or 1 mud."""


def frost(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Add a window of ice, cut from one of five textures at a place keyed by the image. Setting: see `FROST`."""
    keep, amount, scale = setting
    bank = layers.ice(scale, x.device)
    u = draw.uniform((3,), "window")
    which = (u[:, 0] * len(bank)).long()
    corner = (u[:, 1:] * bank.shape[2]).long()
    rows, cols = (
        (corner[:, axis, None] + torch.arange(x.shape[2 + axis], device=x.device)) % bank.shape[2] for axis in (0, 1)
    )
    return pixels.gather(bank, which, rows, cols).mul_(amount).add_(x, alpha=keep)


def fog(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Add a plasma cloud and rescale to the image's original brightest value. Setting: see `FOG`."""
    density, decay = setting
    height, width = x.shape[2:]
    side = max(2, 1 << (max(height, width) - 1).bit_length())
    cloud = layers.plasma(lambda k: _three(draw.uniform((k, k), f"plasma {k}")), side, decay)[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return torch.add(x, cloud, alpha=density).mul_(brightest / (brightest + density))


def _three(u: Tensor) -> Tensor:
    """Split each 24-bit uniform number into three of 8 bits: ``[N, k, k]`` to ``[N, 3, k, k]``, a third of the work.

    A step of 1/256 of a level's noise is far below what 8-bit pixels show.
    """
    bits = (u * 2**24).to(torch.int32)
    return torch.stack((bits >> 16, (bits >> 8) & 255, bits & 255), 1).float().add_(0.5).div_(256)


def snow(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Whiten the image and let flakes fall over it in two directions. Setting: see `SNOW`."""
    mean, deviation, zoom, threshold, radius, sigma, keep = setting
    height, width = x.shape[2:]
    small = (math.ceil(height / zoom), math.ceil(width / zoom))
    noise = mean + deviation * draw.normal(small, "flakes")
    flakes = flake_layer(noise, zoom, threshold, (height, width))
    flakes = streak(flakes, int(radius), sigma, 90 * draw.uniform((), "angle") - 135)
    white = torch.maximum(x, pixels.luma(x) * 1.5 + 0.5)
    return torch.lerp(white, x, keep).add_(flakes).add_(flakes.flip(2, 3))


def flake_layer(noise: Tensor, zoom: float, threshold: float, size: tuple[int, int]) -> Tensor:
    """Enlarge noise ``[N, h, w]``, crop its centre and zero values below ``threshold``: ``[N, 1, *size]``."""
    enlarged = (round(noise.shape[1] * zoom), round(noise.shape[2] * zoom))
    layer = F.interpolate(noise[:, None], enlarged, mode="bilinear", align_corners=True)
    top, left = (enlarged[0] - size[0]) // 2, (enlarged[1] - size[1]) // 2
    layer = layer[:, :, top : top + size[0], left : left + size[1]]
    return torch.where(layer < threshold, 0, layer).clamp(0, 1)


_WATER = (175 / 255, 238 / 255, 238 / 255)
"""Pale turquoise."""
_MUD = (63 / 255, 42 / 255, 20 / 255)
_OPAQUE = 0.8
"""Mud with less cover than this is left out."""


def spatter(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Drops of water that add light, or spots of mud that hide what is behind. Setting: see `SPATTER`."""
    mean, deviation, *rest = setting
    return spatter_with(mean + deviation * draw.normal(tuple(x.shape[2:])), x, *rest)


def spatter_with(noise: Tensor, x: Tensor, smoothing: float, threshold: float, amount: float, mud: float) -> Tensor:
    """Apply spatter with a given noise field ``[N, H, W]``; the other arguments are those of `SPATTER`."""
    liquid = gaussian(noise, smoothing)
    if mud:
        cover = gaussian((liquid > threshold).to(x.dtype), amount)[:, None]
        cover = torch.where(cover < _OPAQUE, 0, cover)
        return x * (1 - cover) + cover * _colour(_MUD, x)
    liquid = (torch.where(liquid < threshold, 0, liquid).clamp(0, 1) * 255).floor()
    light = (liquid * layers.drops(liquid))[:, None]
    return x + amount * light / light.amax((2, 3), keepdim=True).clamp_min(1) * _colour(_WATER, x)


def _colour(colour: tuple[float, ...], x: Tensor) -> Tensor:
    return torch.tensor(colour, device=x.device, dtype=x.dtype)[:, None, None]
