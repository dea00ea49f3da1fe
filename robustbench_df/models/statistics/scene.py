"""Statistics of the scene: colours, their layout, the orientation of edges, and energies by scale.

Such descriptors were used for scene recognition before neural networks. Generated images differ in them too: in their
typical content, in contrast, and in the sharpness of surfaces.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.models.statistics.family import Views

_QUANTILES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
_ENDS = (1.0, 3.0)
"""Grey levels from black and from white within which a value counts as clipped."""


class Colours(nn.Module):
    """Quantiles, moments and clipped shares of the colours: 49 numbers."""

    SIZE = 3 * len(_QUANTILES) + 6 + 2 * len(_ENDS) + 6

    def forward(self, views: Views) -> Tensor:
        """Return the statistics of RGB, luma and chroma."""
        values = views.rgb.flatten(2)
        count = values.shape[2]
        quantiles = values.sort(dim=2).values[:, :, [round(q * (count - 1)) for q in _QUANTILES]]
        ycc = views.ycc.flatten(2)
        centred = ycc - ycc.mean(2, keepdim=True)
        covariance = (centred @ centred.transpose(1, 2) / count).flatten(1)[:, [0, 1, 2, 4, 5, 8]]
        dark = [(1 - values * 255 / end).clamp(min=0).mean((1, 2)) for end in _ENDS]
        light = [(1 - (1 - values) * 255 / end).clamp(min=0).mean((1, 2)) for end in _ENDS]
        spread = (values.var(2, correction=0) * 255**2 + 1).log()
        clipped = torch.stack([*dark, *light], dim=1)
        return torch.cat([quantiles.flatten(1), covariance.asinh(), clipped, values.mean(2), spread], dim=1)


_CELLS = 8
"""Cells per side for colours and edges."""


class Layout(nn.Module):
    """Mean luma and chroma of 8×8 cells, like a tiny image: 192 numbers."""

    SIZE = 3 * _CELLS**2

    def forward(self, views: Views) -> Tensor:
        """Return the means, in grey levels."""
        return F.adaptive_avg_pool2d(views.ycc, _CELLS).flatten(1)


_ORIENTATIONS = 8


class Orientations(nn.Module):
    """Histogram of oriented gradients of luma (Dalal & Triggs 2005), 8 orientations in 8×8 cells: 512 numbers.

    A gradient votes for an orientation with a power of the cosine of the angle between them. This is smooth, unlike the
    votes of Dalal & Triggs.
    """

    SIZE = _ORIENTATIONS * _CELLS**2
    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(_ORIENTATIONS) * math.pi / _ORIENTATIONS
        self.register_buffer("directions", torch.stack([angles.cos(), angles.sin()], dim=1)[..., None, None], False)

    def forward(self, views: Views) -> Tensor:
        """Return the roots of the votes, divided by their norm over the image."""
        padded = F.pad(views.luma, (1, 1, 1, 1), mode="reflect")
        across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        size = across.square() + down.square() + 1
        along = F.conv2d(torch.cat([across, down], dim=1), self.directions).square()
        votes = F.adaptive_avg_pool2d(along.pow(4) / size.pow(3.5), _CELLS).flatten(1)
        shares: Tensor = votes / (votes.norm(dim=1, keepdim=True) + 1)
        return (shares + 1e-4).sqrt()


_FREQUENCIES = (0.4, 0.25)
"""Cycles per pixel: the finest band, and one that is also applied to the image at 1/2 and 1/4 of its size."""
_TURNS = 6
_HALVINGS = 2
_REACH = 4
"""Pixels from a filter's middle to its end."""
_GIST_CELLS = 4


class Gist(nn.Module):
    """Log energies of Gabor filters on luma, 4 scales by 6 orientations in 4×4 cells: 384 numbers.

    After the gist descriptor of scenes (Oliva & Torralba 2001).
    """

    SIZE = (len(_FREQUENCIES) + _HALVINGS) * _TURNS * _GIST_CELLS**2
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.cat([_gabor(f) for f in _FREQUENCIES]), persistent=False)

    def forward(self, views: Views) -> Tensor:
        """Return the logarithms of the filters' mean moduli."""
        luma = views.luma
        found = [_energies(luma, self.filters)]
        for _ in range(_HALVINGS):
            luma = F.avg_pool2d(luma, 2)
            found.append(_energies(luma, self.filters[len(self.filters) // 2 :]))
        return (torch.cat(found, dim=1) + 0.5).log()


def _gabor(frequency: float) -> Tensor:
    """Return even and odd filters ``[6 * 2, 1, 9, 9]`` of one frequency; their response to a flat image is zero."""
    line = torch.arange(-_REACH, _REACH + 1.0)
    angles = (torch.arange(_TURNS) * math.pi / _TURNS)[:, None, None]
    phase = 2 * math.pi * frequency * (line * angles.cos() + line[:, None] * angles.sin())
    window = torch.exp(-(line.square() + line[:, None].square()) * (frequency / 0.5) ** 2 / 0.9)
    window = window / window.sum()
    waves = torch.stack([phase.cos(), phase.sin()], dim=1) * window
    waves = waves - waves.sum((2, 3), keepdim=True) * window
    return waves.flatten(0, 1)[:, None]


def _energies(luma: Tensor, filters: Tensor) -> Tensor:
    """Return mean moduli in 4×4 cells, ``[N, filters / 2 * 16]``."""
    padded = F.pad(luma, (_REACH,) * 4, mode="replicate")
    even, odd = F.conv2d(padded, filters).unflatten(1, (-1, 2)).unbind(2)
    modulus = (even.square() + odd.square() + 1e-6).sqrt()
    return F.adaptive_avg_pool2d(modulus, _GIST_CELLS).flatten(1)
