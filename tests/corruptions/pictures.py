"""Pictures with the spectrum of photographs, and small measures that the corruption tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.corruptions.core import Draw, Setting

SIZES = [(32, 32), (33, 47), (70, 96)]


def pictures(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """8-bit values / 255: amplitude falls as 1 / frequency, channels mostly alike, mean .45, deviation about .2."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(n, 4, height, width, generator=generator)
    down, along = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    falling = 1 / (down**2 + along**2).sqrt().clamp_min(1 / max(height, width))
    falling[0, 0] = 0
    field = torch.fft.irfft2(torch.fft.rfft2(white) * falling, s=(height, width))
    field = field / field.std((2, 3), keepdim=True)
    colour = 0.85 * field[:, :1] + 0.5 * field[:, 1:]
    return ((0.45 + 0.2 * colour).clamp(0, 1) * 255).round() / 255


def draw(ids: Tensor | int, setting: Setting | int = 0) -> Draw:
    return Draw(torch.arange(ids) if isinstance(ids, int) else ids, (7, "test", repr(setting)))


def psnr(x: Tensor, y: Tensor) -> float:
    """Mean over the images, in decibels."""
    error = (x - y).pow(2).mean((1, 2, 3)).clamp_min(1e-10)
    return float((-10 * error.log10()).mean())
