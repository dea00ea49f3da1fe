"""Small batched operations that web corruptions, weather and chains share, on float ``[N, C, H, W]`` in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.corruptions.blur import gaussian

KERNELS = ("nearest", "bilinear", "bicubic")
"""Resampling kernels. The last two average over the pixels they shrink (antialiasing), as browsers and Pillow do."""

_LUMA = (0.299, 0.587, 0.114)
"""Rec. ITU-R BT.601, the grey of JPEG, Pillow and OpenCV."""


def scaled(x: Tensor, scale: float) -> tuple[int, int]:
    """Return (height, width) of ``x`` times ``scale``, at least one pixel each way."""
    return max(1, round(x.shape[2] * scale)), max(1, round(x.shape[3] * scale))


def resize(x: Tensor, size: tuple[int, int], kernel: str = "bilinear") -> Tensor:
    """Resample to ``size`` = (height, width) with one of `KERNELS`; bicubic overshoot is clipped to [0, 1]."""
    if size == tuple(x.shape[2:]):
        return x
    if kernel == "nearest":
        return F.interpolate(x, size, mode="nearest-exact")
    return F.interpolate(x, size, mode=kernel, antialias=True, align_corners=False).clamp(0, 1)


def there_and_back(x: Tensor, scale: float, kernel: str) -> Tensor:
    """Resample to ``scale`` times the size and back again with the same kernel."""
    return resize(resize(x, scaled(x, scale), kernel), (x.shape[2], x.shape[3]), kernel)


def gather(bank: Tensor, which: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Cut one window per image out of a bank of pictures.

    Args:
        bank: ``[T, C, h, w]``.
        which: int64 ``[N]``, which picture.
        rows, cols: int64 ``[N, H]`` and ``[N, W]``, its rows and columns.

    Returns:
        ``[N, C, H, W]``.
    """
    return bank[which[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()


def crop(x: Tensor, share: float, place: Tensor) -> Tensor:
    """Cut out ``share`` of each side, at ``place``: ``[N, 2]`` in [0, 1), from top left to bottom right."""
    height, width = scaled(x, share)
    top = (place[:, :1] * (x.shape[2] - height + 1)).long()
    left = (place[:, 1:] * (x.shape[3] - width + 1)).long()
    rows, cols = (torch.arange(count, device=x.device) for count in (height, width))
    return gather(x, torch.arange(len(x), device=x.device), top + rows, left + cols)


def sharpen(x: Tensor, amount: float) -> Tensor:
    """Unsharp mask: add ``amount`` times the detail that a Gaussian of one pixel removes, then clip to [0, 1]."""
    return (x + amount * (x - gaussian(x, 1.0))).clamp(0, 1)


def luma(x: Tensor) -> Tensor:
    """Grey of RGB (BT.601), ``[N, 1, H, W]``."""
    red, green, blue = _LUMA
    return (x[:, :1] * red).add_(x[:, 1:2], alpha=green).add_(x[:, 2:], alpha=blue)


def grey(x: Tensor, share: float = 1.0) -> Tensor:
    """Mix ``share`` of the grey of each pixel into it; 1 leaves no colour."""
    return torch.lerp(x, luma(x).expand_as(x), share)


def posterise(x: Tensor, levels: int) -> Tensor:
    """Round each channel to ``levels`` equally spaced values, black and white among them."""
    return (x * (levels - 1)).round() / (levels - 1)


def gamma(x: Tensor, exponent: float) -> Tensor:
    """Return ``x ** exponent``, in double because torch's float32 power rounds differently at the end of a batch."""
    return x.clamp_min(0).double().pow_(exponent).to(x.dtype)
