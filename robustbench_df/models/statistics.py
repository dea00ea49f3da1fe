"""A detector of statistics: JPEG blocks, colours and residuals, summed up over the image and told apart by kernels.

Steganalysis decides by how often small patterns occur, not by where (Fridrich & Kodovsky 2012,
doi:10.1109/TIFS.2012.2190402). With a few thousand images that is as good as a small network, for a fraction of the
work, and other images are mistaken: what an ensemble needs. Everything is soft-binned, so that attacks find gradients.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.models.frontend import YCC

_HORIZONTAL = ((0, 0, -1, 1, 0), (0, 0.5, -1, 0.5, 0), (0, -1 / 3, 1, -1, 1 / 3))
"""SRM's kernels of first, second and third order, scaled to a largest weight of 1; they also run down the image."""

_SQUARES = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
)
"""SRM's 3×3 and 5×5 square kernels, before the same scaling."""

_STEPS = (2.0, 6.0)
"""Grey levels to which residuals are quantised: one for flat regions, one for edges."""
_TRUNCATED = 4
"""Steps at which residuals are cut off."""

_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""JPEG's example table for luma (ITU-T T.81, table K.1). Quality 75, libjpeg's default, divides by half of it."""

_QUANTILES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)
_ENDS = (1.0, 3.0)
"""Grey levels from black and from white within which a value counts as clipped."""

_HEAD_STD = 1e-3
"""Of a fresh classifier: what is drawn at random stays small beside what is learnt in a few thousand steps."""
_ROOT_FLOOR = 1e-5
"""Added to frequencies before the root, whose slope has no bound at zero."""


class Blocks(nn.Module):
    """Statistics of the DCT coefficients of 8×8 luma blocks on JPEG's grid: size, share of zeros, distance to the grid.

    Maps luma ``[N, 1, H, W]`` in grey levels to ``[N, 192]``; what is left of incomplete blocks is not looked at.
    """

    SIZE = 3 * 64
    basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        k = torch.arange(8.0)
        cosines = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        steps = torch.tensor([(q + 1) // 2 for q in _LUMINANCE], dtype=torch.float32)
        basis = torch.einsum("ui,vj->uvij", cosines, cosines).reshape(64, 1, 8, 8) / steps.reshape(64, 1, 1, 1)
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, luma: Tensor) -> Tensor:
        """Return the three means over all blocks, of every frequency."""
        steps = F.conv2d(luma - 128, self.basis, stride=8).flatten(2)
        size = steps.abs()
        found = (size.log1p(), (1 - size).clamp(min=0), (steps - steps.round()).abs())
        return torch.cat([values.mean(2) for values in found], dim=1)


class Colours(nn.Module):
    """Quantiles, moments and clipped shares of the colours: maps RGB ``[N, 3, H, W]`` in [0, 1] to ``[N, 49]``."""

    SIZE = 3 * len(_QUANTILES) + 6 + 2 * len(_ENDS) + 6

    def forward(self, x: Tensor, ycc: Tensor) -> Tensor:
        """Return the statistics of ``x`` and of the same image as luma and chroma, in grey levels."""
        values = x.flatten(2)
        count = values.shape[2]
        quantiles = values.sort(dim=2).values[:, :, [round(q * (count - 1)) for q in _QUANTILES]]
        centred = ycc.flatten(2) - ycc.flatten(2).mean(2, keepdim=True)
        covariance = (centred @ centred.transpose(1, 2) / count).flatten(1)[:, [0, 1, 2, 4, 5, 8]]
        dark = [(1 - values * 255 / end).clamp(min=0).mean((1, 2)) for end in _ENDS]
        light = [(1 - (1 - values) * 255 / end).clamp(min=0).mean((1, 2)) for end in _ENDS]
        spread = (values.var(2, correction=0) * 255**2 + 1).log()
        clipped = torch.stack([*dark, *light], dim=1)
        return torch.cat([quantiles.flatten(1), covariance.asinh(), clipped, values.mean(2), spread], dim=1)


class HighPass(nn.Module):
    """Luma ``[N, 1, H, W]`` to residuals ``[N, 8, H, W]`` in grey levels: three across, the same down, two squares."""

    CHANNELS = 2 * len(_HORIZONTAL) + len(_SQUARES)
    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = F.pad(torch.tensor(_HORIZONTAL)[:, None], (0, 0, 2, 2))
        squares = torch.tensor(_SQUARES, dtype=torch.float32)
        squares = squares / squares.abs().amax((1, 2), keepdim=True)
        self.register_buffer("kernels", torch.cat([across, across.mT, squares])[:, None], persistent=False)

    def forward(self, luma: Tensor) -> Tensor:
        """Return the residuals, edges reflected."""
        return F.conv2d(F.pad(luma, (2, 2, 2, 2), mode="reflect"), self.kernels)


_BINS = 2 * _TRUNCATED + 1
_PATTERNS = [
    i * _BINS + j
    for i in range(_BINS)
    for j in range(_BINS)
    if (i, j) == min((i, j), (j, i), (_BINS - 1 - i, _BINS - 1 - j), (_BINS - 1 - j, _BINS - 1 - i))
]
"""Pairs of values, one of each set that mirroring or a change of sign turns into each other."""


class CoOccurrences(nn.Module):
    """How often two neighbouring residuals take two values: maps ``[N, 8, H, W]`` to ``[N, 250]``.

    Directions are pooled; patterns that are each other's negative or mirror image count as one.
    """

    SIZE = len(_STEPS) * (len(_HORIZONTAL) + len(_SQUARES)) * len(_PATTERNS)
    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        levels = torch.arange(-_TRUNCATED, _TRUNCATED + 1, dtype=torch.float32)
        self.register_buffer("levels", levels[:, None, None], persistent=False)

    def forward(self, residuals: Tensor) -> Tensor:
        """Return the roots of the frequencies (Hellinger's distance: rare patterns count)."""
        height, width = residuals.shape[2:]
        found = []
        for step in _STEPS:
            cut = (residuals / step).clamp(-_TRUNCATED, _TRUNCATED)
            # A column that belongs to no level: then a shift of the flat image pairs no pixel across a line's end.
            cut = F.pad(cut, (0, 1), value=_TRUNCATED + 1)[:, :, None]
            bins = (1 - (cut - self.levels).abs()).clamp(min=0).flatten(3)  # between two levels: in part in both
            pairs = _pairs(bins, 1) / (height * (width - 1)) + _pairs(bins, width + 1) / ((height - 1) * width)
            kinds = len(_HORIZONTAL)
            both = (pairs[:, :kinds] + pairs[:, kinds : 2 * kinds]) / 2
            pairs = torch.cat([both, pairs[:, 2 * kinds :]], dim=1)
            pairs = pairs + pairs.mT
            pairs = pairs + pairs.flip(2, 3)
            found.append(pairs.flatten(2)[:, :, _PATTERNS].flatten(1) / 8)
        return (torch.cat(found, dim=1) + _ROOT_FLOOR).sqrt()


def _pairs(bins: Tensor, shift: int) -> Tensor:
    """Sum of outer products ``[N, C, B, B]`` of memberships ``[N, C, B, pixels]`` and those ``shift`` further on."""
    return bins[..., :-shift] @ bins[..., shift:].mT


class FourierFeatures(nn.Linear):
    """cos(Wx + b), drawn so that their products are a Gaussian kernel (Rahimi & Recht 2007); learnt from there on.

    The kernel's width is the root of the number of inputs, which suits inputs of unit variance.
    """

    def reset_parameters(self) -> None:
        """Draw W and b."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / self.in_features))
        nn.init.uniform_(self.bias, 0, 2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[N, out_features]``."""
        return torch.cos(super().forward(x))


class StatisticsNet(nn.Module):
    """Map images ``[N, 3, H, W]`` in [0, 1], 8 px and more, to logits ``[N, 2]``.

    The kernels of the three families of statistics are added up: a family that says nothing does not drown the others.
    A CAM can only be read from the residuals; it does not show what blocks and colours say.
    """

    to_ycc: Tensor

    def __init__(self, features: int = 1024) -> None:
        super().__init__()
        self.register_buffer("to_ycc", 255 * torch.tensor(YCC)[:, :, None, None], persistent=False)
        self.blocks, self.colours = Blocks(), Colours()
        self.residuals, self.patterns = HighPass(), CoOccurrences()
        self.feature_info = [{"module": "residuals", "num_chs": HighPass.CHANNELS}]
        self.sizes = [Blocks.SIZE, Colours.SIZE, CoOccurrences.SIZE]
        # Statistics are of very different, often small, variance: hardly any of it may be taken for rounding.
        self.scale = nn.BatchNorm1d(sum(self.sizes), eps=1e-6, affine=False)
        self.kernels = nn.ModuleList(FourierFeatures(size, features) for size in self.sizes)
        self.head = nn.Linear(features * len(self.sizes), 2)
        nn.init.normal_(self.head.weight, std=_HEAD_STD)

    def statistics(self, x: Tensor) -> Tensor:
        """Return all statistics, float32 ``[N, 491]``."""
        ycc = F.conv2d(x, self.to_ycc)
        luma = ycc[:, :1]
        found = (self.blocks(luma), self.colours(x, ycc), self.patterns(self.residuals(luma)))
        return torch.cat(found, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; always in float32, for bf16 would blur the grey levels that are counted."""
        with torch.autocast(x.device.type, enabled=False):
            families = self.scale(self.statistics(x.float())).split(self.sizes, dim=1)
            seen = [kernel(family) for kernel, family in zip(self.kernels, families, strict=True)]
            logits: Tensor = self.head(torch.cat(seen, dim=1))
            return logits

    def get_classifier(self) -> nn.Module:
        """Return what is trained under a frozen backbone, as timm's networks do."""
        return self.head
