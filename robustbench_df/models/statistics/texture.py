"""Statistics of neighbouring pixels: patterns of residuals, their correlations, and energies by scale."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.models.statistics.family import Views, memberships, root, triangles

_HORIZONTAL = ((0, 0, -1, 1, 0), (0, 0.5, -1, 0.5, 0), (0, -1 / 3, 1, -1, 1 / 3))
"""SRM's kernels of first, second and third order, scaled to a largest weight of 1; also used vertically."""

_SQUARES = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
)
"""SRM's 3×3 and 5×5 square kernels, not yet scaled in that way."""


class HighPass(nn.Module):
    """Map planes ``[N, C, H, W]`` to ``[N, C * 8, H, W]`` residuals: per plane 3 horizontal, 3 vertical, 2 square."""

    CHANNELS = 2 * len(_HORIZONTAL) + len(_SQUARES)
    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = F.pad(torch.tensor(_HORIZONTAL)[:, None], (0, 0, 2, 2))
        squares = torch.tensor(_SQUARES, dtype=torch.float32)
        squares = squares / squares.abs().amax((1, 2), keepdim=True)
        self.register_buffer("kernels", torch.cat([across, across.mT, squares])[:, None], persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        """Return the residuals; edges are padded by reflection."""
        padded = F.pad(planes, (2, 2, 2, 2), mode="reflect").flatten(0, 1)[:, None]
        residuals: Tensor = F.conv2d(padded, self.kernels).unflatten(0, planes.shape[:2]).flatten(1, 2)
        return residuals


_STEPS = (2.0, 6.0)
"""Quantisation steps of residuals in grey levels: a fine one for flat regions, a coarse one for edges."""
_TRUNCATED = 2
"""Residuals are truncated to plus or minus this many steps."""
_BINS = 2 * _TRUNCATED + 1


def _unlike(count: int, length: int) -> list[int]:
    """Return indices of patterns of ``length`` values below ``count``, one per class under mirroring and negation."""
    kept = []
    for k, pattern in enumerate(itertools.product(range(count), repeat=length)):
        negative = tuple(count - 1 - value for value in pattern)
        if pattern == min(pattern, pattern[::-1], negative, negative[::-1]):
            kept.append(k)
    return kept


_KEPT = _unlike(_BINS, 3)


class Patterns(nn.Module):
    """Frequencies of the value triples of three adjacent luma residuals: the spatial rich model's co-occurrences.

    Patterns that are each other's negative or mirror image count as one. Directions are merged as well: rows of a
    horizontal kernel's residuals with columns of the vertical kernel's, and the other way round.
    """

    SIZE = len(_STEPS) * HighPass.CHANNELS * len(_KEPT)
    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(-_TRUNCATED, _TRUNCATED + 1.0), persistent=False)
        kinds = len(_HORIZONTAL)
        self.turned = [*range(kinds, 2 * kinds), *range(kinds), *range(2 * kinds, HighPass.CHANNELS)]

    def forward(self, views: Views) -> Tensor:
        """Return the square roots of the frequencies."""
        residuals = views.residuals[:, : HighPass.CHANNELS]
        found = []
        for step in _STEPS:
            cut = (residuals / step).clamp(-_TRUNCATED, _TRUNCATED)
            both = (self._triples(cut) + self._triples(cut.mT)[:, self.turned]) / 2
            both = both + both.transpose(2, 4)
            both = both + both.flip(2, 3, 4)
            found.append(both.flatten(2)[:, :, _KEPT].flatten(1) / 4)
        return root(torch.cat(found, dim=1))

    def _triples(self, cut: Tensor) -> Tensor:
        """Return frequencies ``[N, C, L, L, L]`` (last, middle, first) of row-wise triples in ``[N, C, H, W]``."""
        height, width = cut.shape[2:]
        # Append two columns that belong to no level, so that shifting the flattened image joins no pixels across rows.
        lines = F.pad(cut, (0, 2), value=2 * _TRUNCATED).flatten(2)
        bins = triangles(lines, self.levels)
        first, middle, last = bins[..., :-2], bins[..., 1:-1], bins[..., 2:]
        found = [(last * middle[:, :, level, None]) @ first.mT for level in range(_BINS)]
        return torch.stack(found, dim=3) / (height * (width - 2))


_CROSS = ((0, 1), (1, 2), (2, 1), (1, 0))
_DIAGONAL = ((0, 0), (0, 2), (2, 2), (2, 0))
"""Four neighbours of a pixel, in order around it, as row and column offsets in the image padded by one."""
_TOLERANCE = 2.0
"""Grey levels by which a neighbour must differ to count as darker or lighter."""


class Neighbours(nn.Module):
    """Local ternary patterns of luma (Tan & Triggs 2010) over the four direct and over the four diagonal neighbours."""

    SIZE = 2 * 3**4
    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(-1.0, 2.0), persistent=False)

    def forward(self, views: Views) -> Tensor:
        """Return the square roots of the patterns' frequencies."""
        luma = views.luma
        height, width = luma.shape[2:]
        padded = F.pad(luma, (1, 1, 1, 1), mode="reflect")
        found = []
        for around in (_CROSS, _DIAGONAL):
            near = torch.stack([padded[:, 0, i : i + height, j : j + width] for i, j in around], dim=1) - luma
            a, b, c, d = memberships(near.flatten(2) / _TOLERANCE, self.levels).unbind(1)
            first, second = ((p[:, :, None] * q[:, None]).flatten(1, 2) for p, q in ((a, b), (c, d)))
            found.append((first @ second.mT).flatten(1) / (height * width))
        return root(torch.cat(found, dim=1))


_REACH = 3
_LAGS = [(y, x) for y in range(_REACH + 1) for x in range(-_REACH, _REACH + 1) if (y, x) > (0, 0)]
_CORRELATED = (1, 4, 6)
"""Indices of the residuals used: second order, horizontal and vertical, and the 3×3 square."""


class Correlations(nn.Module):
    """Autocorrelations of the residuals of luma and chroma up to 3 px away, and their log variances."""

    SIZE = 3 * len(_CORRELATED) * (len(_LAGS) + 1)

    def forward(self, views: Views) -> Tensor:
        """Return the statistics."""
        chosen = views.residuals.unflatten(1, (3, -1))[:, :, _CORRELATED].flatten(1, 2)
        height, width = chosen.shape[2:]
        power = chosen.square().mean((2, 3)) + 1
        found = [power.log()]
        for down, across in _LAGS:
            left, right = max(-across, 0), max(across, 0)
            one = chosen[:, :, : height - down, left : width - right]
            other = chosen[:, :, down:, right : width - left]
            found.append((one * other).mean((2, 3)) / power)
        return torch.cat(found, dim=1)


_SCALES = 3


class Wavelets(nn.Module):
    """Log energies of Haar wavelet bands of luma and chroma by scale and direction, and how sparse the bands are."""

    SIZE = 3 * _SCALES * 3 * 2

    def forward(self, views: Views) -> Tensor:
        """Return the statistics; of an odd side the last line is dropped."""
        ycc = views.ycc
        found = []
        for _ in range(_SCALES):
            even = ycc[:, :, : ycc.shape[2] // 2 * 2, : ycc.shape[3] // 2 * 2]
            a, b, c, d = (even[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
            bands = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=2) / 2
            power = bands.square().mean((3, 4)) + 0.1
            found += [power.log(), bands.abs().mean((3, 4)) / power.sqrt()]
            ycc = F.avg_pool2d(ycc, 2)
        return torch.cat(found, dim=1).flatten(1)
