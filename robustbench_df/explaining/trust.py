"""Tests of a map: does it depend on the learnt weights, and does it mark the pixels that the verdict rests on?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_df import rng
from robustbench_df.explaining.cams import Maps
from robustbench_df.metrics.scores import Floats, midranks

SANE = 0.5
"""A map fails from this mean rank correlation with a randomised network's maps on: it is then more similar than
dissimilar to the map of a network that has learnt nothing. The threshold is ours: Adebayo et al. 2018
(arXiv:1810.03292) plot the correlation without one."""

REMOVED = 0.2
"""Share of the pixels that are painted over."""

MOVES = 2
"""Number of control placements of the same shape per image."""

NAME = "extra drop without the hottest 20%"
MEANING = (
    "How much more the probability of the detector's own verdict falls when the hottest 20% of the map are painted "
    "over with the image's mean colour than when the same shape is painted over elsewhere, as a share of 1. Above 0 "
    "the map marks pixels that the verdict rests on; around 0 it does not."
)


def rank_correlation(a: Maps, b: Maps) -> Floats:
    """Spearman's rank correlation of each pair of maps ``[N, H, W]``, float64 ``[N]``; NaN where one is constant."""
    out = np.full(len(a), np.nan)
    for k, (one, other) in enumerate(zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True)):
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            out[k] = np.corrcoef(midranks(one), midranks(other))[0, 1]
    return out


def hottest(maps: Maps, ids: Tensor, seed: int = 0, share: float = REMOVED) -> Tensor:
    """Mark the ``share`` of hottest pixels, bool ``[N, H, W]``; ties are broken at random, keyed by the image."""
    n, height, width = maps.shape
    noise = rng.uniform(ids.cpu(), (height, width), seed, "ties") * 1e-6
    values = (torch.from_numpy(maps) + noise).flatten(1)
    count = max(round(share * height * width), 1)
    chosen = torch.zeros_like(values, dtype=torch.bool).scatter_(1, values.topk(count, dim=1).indices, True)
    return chosen.reshape(n, height, width)


def moved(mask: Tensor, ids: Tensor, *key: rng.Key) -> Tensor:
    """Shift each mask ``[N, H, W]`` by a random offset per image, with wrap-around at the borders.

    Random pixels would not be a fair control: scattered holes hurt a network more than one hole of the same area.
    """
    n, height, width = mask.shape
    draw = rng.uniform(ids.cpu(), (2,), *key)
    rows = (torch.arange(height) + (draw[:, :1] * height).long()) % height
    columns = (torch.arange(width) + (draw[:, 1:] * width).long()) % width
    return mask[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def painted(x: Tensor, mask: Tensor) -> Tensor:
    """Return images ``[N, 3, H, W]`` with the masked pixels ``[N, H, W]`` set to each image's own mean colour."""
    return torch.where(mask[:, None].to(x.device), x.mean((2, 3), keepdim=True), x)


def extra_drop(
    p_fake: Callable[[Tensor], Floats], x: Tensor, maps: Maps, verdict: NDArray[np.int8], ids: Tensor, seed: int = 0
) -> Floats:
    """Return the measure that `MEANING` describes, per image, float64 ``[N]`` in [-1, 1].

    This is pixel flipping (Samek et al. 2017, arXiv:1509.06321) with one step and a control of the same shape.

    Args:
        p_fake: returns P(fake) ``[N]`` for images ``[N, 3, H, W]``.
        x: images in [0, 1].
        maps: their maps; must not be blank.
        verdict: ``[N]``, 1 = fake: the class whose probability is measured.
        ids: int64 ``[N]``, keys of the images' own randomness.
    """

    def probability(images: Tensor) -> Floats:
        p = p_fake(images)
        return np.where(verdict == 1, p, 1 - p)

    mask = hottest(maps, ids, seed)
    elsewhere = [probability(painted(x, moved(mask, ids, seed, "moved", k))) for k in range(MOVES)]
    drop: Floats = np.mean(elsewhere, axis=0) - probability(painted(x, mask))
    return drop
