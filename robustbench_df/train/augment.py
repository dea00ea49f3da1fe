"""Augmentation of batched tensors on the device; every random draw is keyed by (seed, image id, epoch).

Flips and shifts move whole pixels, so they preserve the high-frequency traces that a detector depends on. Only
rotation, scale and perspective interpolate.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df import rng
from robustbench_df.config import AugmentConfig
from robustbench_df.train.corrupted import corrupted
from robustbench_df.train.trivial import trivial_augment

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma weights."""


def augment(x: Tensor, config: AugmentConfig, ids: Tensor, *key: rng.Key) -> Tensor:
    """Return an augmented copy of ``x``, float ``[N, 3, H, W]`` in [0, 1].

    Args:
        x: images in [0, 1].
        config: which changes to apply, and how strongly.
        ids: int64 ``[N]`` image keys, on the device of ``x``.
        key: seed and epoch; the same id and key give the same change in any batch.
    """
    draws = rng.uniform(ids, (_COLUMNS,), "augment", *key)
    column = iter(draws.unbind(1))

    def symmetric(limit: float) -> Tensor:
        return (next(column) * 2 - 1) * limit

    if config.trivial:
        x = trivial_augment(x, next(column), next(column), next(column))
    if config.flip:
        x = torch.where((next(column) < config.flip)[:, None, None, None], x.flip(3), x)
    if config.vertical_flip:
        x = torch.where((next(column) < config.vertical_flip)[:, None, None, None], x.flip(2), x)
    if config.shift:
        x = _shift(x, next(column), next(column), config.shift)
    if config.rotation or config.scale or config.perspective:
        angle = symmetric(math.radians(config.rotation))
        zoom = 1 + symmetric(config.scale)
        tilt = torch.stack([symmetric(config.perspective / 2), symmetric(config.perspective / 2)], dim=1)
        x = _warp(x, angle, zoom, tilt)
    if config.brightness or config.contrast or config.saturation or config.hue:
        x = _jitter(
            x,
            1 + symmetric(config.brightness),
            1 + symmetric(config.contrast),
            1 + symmetric(config.saturation),
            symmetric(config.hue),
        )
    if config.erase:
        x = _erase(x, torch.stack([next(column) for _ in range(8)], dim=1), config.erase)
    if config.cutout:
        x = _cut_out(x, next(column), next(column), config.cutout)
    if config.corruption:
        x = corrupted(x, config.corruption, ids, *key)
    return x


_COLUMNS = 26
"""Random numbers per image: all changes together take 25; one more is spare."""


def _shift(x: Tensor, u: Tensor, v: Tensor, limit: float) -> Tensor:
    """Translate by whole pixels, at most ``limit`` of the side, reflecting at the edges."""
    n, channels, height, width = x.shape
    reach_y, reach_x = (min(max(round(limit * side), 1), side - 1) for side in (height, width))
    padded = F.pad(x, (reach_x, reach_x, reach_y, reach_y), mode="reflect")
    top = (u * (2 * reach_y + 1)).long()[:, None] + torch.arange(height, device=x.device)
    left = (v * (2 * reach_x + 1)).long()[:, None] + torch.arange(width, device=x.device)
    rows = padded.gather(2, top[:, None, :, None].expand(n, channels, height, padded.shape[3]))
    return rows.gather(3, left[:, None, None, :].expand(n, channels, height, width))


def _warp(x: Tensor, angle: Tensor, zoom: Tensor, tilt: Tensor) -> Tensor:
    """Rotate (radians), scale and tilt about the centre in one bilinear sampling; edges are reflected."""
    height, width = x.shape[2:]
    ys = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=x.device)
    xs = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=x.device)
    gy, gx = torch.meshgrid(ys, xs, indexing="ij")
    cos, sin = (torch.cos(angle) / zoom)[:, None, None], (torch.sin(angle) / zoom)[:, None, None]
    depth = 1 + tilt[:, 0, None, None] * gx + tilt[:, 1, None, None] * gy
    grid = torch.stack([(cos * gx - sin * gy) / depth, (sin * gx + cos * gy) / depth], dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Change colours; hue rotates the chroma plane of YIQ (a linear map) by the fraction ``hue`` of a full turn."""
    luma = torch.tensor(_LUMA, device=x.device).reshape(1, 3, 1, 1)
    x = x * brightness[:, None, None, None]
    mean = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = mean + (x - mean) * contrast[:, None, None, None]
    if bool((hue != 0).any()):
        x = torch.einsum("nij,njhw->nihw", _hue_matrices(2 * math.pi * hue), x)
    grey = (x * luma).sum(1, keepdim=True)
    return (grey + (x - grey) * saturation[:, None, None, None]).clamp(0, 1)


def _hue_matrices(angle: Tensor) -> Tensor:
    """RGB matrices ``[N, 3, 3]`` that rotate the I-Q plane of YIQ (FCC 1953 weights) by ``angle`` radians."""
    to_yiq = torch.tensor(
        [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
        device=angle.device,
    )
    turn = torch.zeros(len(angle), 3, 3, device=angle.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = torch.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -torch.sin(angle), torch.sin(angle)
    matrices: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrices


def _erase(x: Tensor, u: Tensor, probability: float) -> Tensor:
    """Fill a rectangle with one random colour: area 2–33%, aspect 0.3–3.3 (Zhong et al. 2020, section 4)."""
    height, width = x.shape[2:]
    area = (0.02 + u[:, 1] * 0.31) * height * width
    aspect = torch.exp((u[:, 2] * 2 - 1) * math.log(3.3))
    h = (area * aspect).sqrt().clamp(max=height - 1)
    w = (area / aspect).sqrt().clamp(max=width - 1)
    hit = _within(x, u[:, 3] * (height - h), u[:, 4] * (width - w), h, w) & (u[:, 0] < probability)[:, None, None, None]
    return torch.where(hit, u[:, 5:8, None, None], x)


def _cut_out(x: Tensor, u: Tensor, v: Tensor, share: float) -> Tensor:
    """Cover a random rectangle inside the image with grey; its sides are ``share`` of the image's sides.

    After Cutout (DeVries & Taylor 2017, arXiv:1708.04552); there the square may extend beyond the image.
    """
    h, w = (min(max(round(share * side), 1), side - 1) for side in x.shape[2:])
    top, left = (u * (x.shape[2] - h + 1)).floor(), (v * (x.shape[3] - w + 1)).floor()
    return torch.where(_within(x, top, left, torch.full_like(u, h), torch.full_like(v, w)), 0.5, x)


def _within(x: Tensor, top: Tensor, left: Tensor, h: Tensor, w: Tensor) -> Tensor:
    """Return a mask ``[N, 1, H, W]`` of one rectangle per image, given by its corner and sides ``[N]`` in pixels."""
    height, width = x.shape[2:]
    ys = torch.arange(height, device=x.device)[None]
    xs = torch.arange(width, device=x.device)[None]
    in_rows = (ys >= top[:, None]) & (ys < (top + h)[:, None])
    in_columns = (xs >= left[:, None]) & (xs < (left + w)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def mix(x: Tensor, target: Tensor, mixup: float, cutmix: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Apply mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) to a batch, with one coefficient for the whole batch.

    Args:
        x: images ``[N, 3, H, W]``.
        target: class probabilities ``[N, 2]``.
        mixup, cutmix: Beta parameters, 0 = off; if both are on, each batch uses one of them at random.
        generator: on the CPU; source of all random choices.
    """
    if not mixup and not cutmix:
        return x, target
    cut = bool(cutmix) and (not mixup or float(torch.rand((), generator=generator)) < 0.5)
    share = _beta(cutmix if cut else mixup, generator)
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    if not cut:
        return share * x + (1 - share) * x[partner], share * target + (1 - share) * target[partner]
    height, width = x.shape[2:]
    half_h, half_w = (round(side * math.sqrt(1 - share) / 2) for side in (height, width))
    cy, cx = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
    top, bottom = max(cy - half_h, 0), min(cy + half_h, height)
    left, right = max(cx - half_w, 0), min(cx + half_w, width)
    x = x.clone()
    x[:, :, top:bottom, left:right] = x[partner][:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return x, share * target + (1 - share) * target[partner]


def _beta(parameter: float, generator: torch.Generator) -> float:
    """Draw from Beta(a, a) as a ratio of Gamma draws."""
    gamma = torch._standard_gamma(torch.full((2,), parameter), generator=generator)
    return float(gamma[0] / gamma.sum().clamp(min=1e-12))
