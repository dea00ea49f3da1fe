"""Code shared by the families of statistics: the representations of an image that they use, and soft histograms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROOT_FLOOR = 1e-5
"""Added to frequencies before the square root, because the slope of the root is unbounded at zero."""


class Views(NamedTuple):
    """A batch of images in the representations that the families use.

    Attributes:
        rgb: ``[N, 3, H, W]`` in [0, 1].
        ycc: luma and chroma ``[N, 3, H, W]`` in grey levels.
        residuals: high-pass residuals of ``ycc``, ``[N, 24, H, W]``, those of luma first.
    """

    rgb: Tensor
    ycc: Tensor
    residuals: Tensor

    @property
    def luma(self) -> Tensor:
        """Luma ``[N, 1, H, W]`` in grey levels."""
        return self.ycc[:, :1]


def memberships(values: Tensor, levels: Tensor) -> Tensor:
    """Return how much each value belongs to each level: ``[..., P]`` and evenly spaced ``[L]`` to ``[..., L, P]``.

    A value between two levels counts in part for both, so that attacks get a gradient; a value beyond the first or last
    level counts for that level. The memberships of a value sum to one.
    """
    return triangles(values.clamp(levels[0], levels[-1]), levels)


def triangles(values: Tensor, levels: Tensor) -> Tensor:
    """Return `memberships` without clamping: they fall to zero one step beyond the first and the last level."""
    return (1 - ((values[..., None, :] - levels[:, None]) / (levels[1] - levels[0])).abs()).clamp(min=0)


def root(frequencies: Tensor) -> Tensor:
    """Return square roots of frequencies: their distances are Hellinger distances, in which rare patterns matter."""
    return torch.sqrt(frequencies + _ROOT_FLOOR)
