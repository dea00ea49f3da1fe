"""Statistics of JPEG's 8×8 grid: DCT coefficients of its blocks, and pixel differences by position in a block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.models.statistics.family import Views, memberships, root

_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""JPEG's example table for luma (ITU-T T.81, table K.1). Quality 75, libjpeg's default, uses half of these values."""

_LEVELS = 9
"""Number of levels of a coefficient's magnitude, half a quantisation step apart."""


class Blocks(nn.Module):
    """Histogram of magnitudes and largest magnitude of each DCT coefficient of 8×8 luma blocks on JPEG's grid.

    640 numbers; incomplete blocks at the border are ignored.
    """

    SIZE = (_LEVELS + 1) * 64
    basis: Tensor
    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        k = torch.arange(8.0)
        cosines = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        steps = torch.tensor([(q + 1) // 2 for q in _LUMINANCE], dtype=torch.float32)
        basis = torch.einsum("ui,vj->uvij", cosines, cosines).reshape(64, 1, 8, 8) / steps.reshape(64, 1, 1, 1)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("levels", torch.arange(_LEVELS) / 2, persistent=False)

    def forward(self, views: Views) -> Tensor:
        """Return the square roots of the histogram, and the logarithm of the largest magnitude."""
        size = F.conv2d(views.luma - 128, self.basis, stride=8).flatten(2).abs()
        found = memberships(size, self.levels).mean(3).flatten(1)
        return torch.cat([root(found), (size.amax(2) + 0.1).log()], dim=1)


_SIDE = 8
_BORDER = (0, 1, -2, -1)
"""Lines at the image's border whose values are kept one by one."""


class Places(nn.Module):
    """Log means of first and second differences of luma and chroma, by column and by row within a block.

    Also at the image's borders, where resizers and generators lack neighbouring pixels: 144 numbers in all.
    """

    SIZE = 3 * 2 * 2 * (_SIDE + len(_BORDER))

    def forward(self, views: Views) -> Tensor:
        """Return the logarithms."""
        found = []
        for lines in (views.ycc, views.ycc.mT):
            first = lines[..., 1:] - lines[..., :-1]
            for differences in (first, first[..., 1:] - first[..., :-1]):
                profile = differences.abs().mean(2)
                found += [_by_place(profile), profile[:, :, _BORDER]]
        return (torch.cat(found, dim=2) + 0.3).log().flatten(1)


def _by_place(profile: Tensor) -> Tensor:
    """Return means ``[N, C, 8]`` of every eighth value of ``[N, C, L]``; zero for a position without values."""
    missing = (0, -profile.shape[2] % _SIDE)
    totals, counts = (
        F.pad(values, missing).unflatten(-1, (-1, _SIDE)).sum(-2)
        for values in (profile, torch.ones_like(profile[0, 0]))
    )
    means: Tensor = totals / counts.clamp(min=1)
    return means
