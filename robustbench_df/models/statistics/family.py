"""What families of statistics share: the views of an image that they look at, and soft histograms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROOT_FLOOR = 1e-5
"""Added to frequencies before the root, whose slope has no bound at zero."""


class Views(NamedTuple):
    """A batch of images as every family may look at it.

    Attributes:
        rgb: ``[N, 3, H, W]`` in [0, 1].
        ycc: luma and chroma ``[N, 3, H, W]`` in grey levels.
        residuals: what high-pass filters leave of these, ``[N, 24, H, W]``, those of luma first.
    """

    rgb: Tensor
    ycc: Tensor
    residuals: Tensor

    @property
    def luma(self) -> Tensor:
        """``[N, 1, H, W]`` in grey levels."""
        return self.ycc[:, :1]


def memberships(values: Tensor, levels: Tensor) -> Tensor:
    """Return how far each value belongs to each level: ``[..., P]`` and evenly spaced ``[L]`` to ``[..., L, P]``.

    Between two levels a value counts in part for both, so that attacks find a gradient; beyond the ends it counts for
    these. The memberships of a value sum to one.
    """
    return triangles(values.clamp(levels[0], levels[-1]), levels)


def triangles(values: Tensor, levels: Tensor) -> Tensor:
    """Return `memberships` that are zero a step beyond the ends and further."""
    return (1 - ((values[..., None, :] - levels[:, None]) / (levels[1] - levels[0])).abs()).clamp(min=0)


def root(frequencies: Tensor) -> Tensor:
    """Return the square roots: distances between them are Hellinger's, in which rare patterns count."""
    return torch.sqrt(frequencies + _ROOT_FLOOR)
