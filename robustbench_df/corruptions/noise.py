"""Noise of the sensor: normal, shot (Poisson), impulse and speckle (Hendrycks & Dietterich 2019, arXiv:1903.12261).

All take ``x`` float32 ``[N, 3, H, W]`` in [0, 1] and return the same shape; the caller clips. Every channel of every
pixel draws its own number. The settings and their sources are in `catalogue`.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from robustbench_df.corruptions.core import Draw, Setting

_LEVELS = 256
"""8-bit levels: the intensities whose Poisson distribution is tabulated."""

_GUIDE = 1024
"""Buckets of the uniform number; each remembers where the search for the count begins (Chen & Asau 1974)."""

_ON_LEVEL = 1e-4
"""A value this close to an 8-bit level counts as on it, in levels; dividing by 255 and back errs by at most 3e-5."""

_SMALLEST = 2.0**-25
"""Replaces a uniform number of 0, which means less than 2 ** -24, so that it never selects a count of probability 0."""

_MAX_REST = 40
"""Largest number of terms of the Poisson sum for the part above a level. Its mean is at most 2, so no uniform number
needs more."""


def gaussian_noise(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Add normal noise. ``setting``: (standard deviation in [0, 1])."""
    (deviation,) = setting
    return torch.add(x, draw.normal(tuple(x.shape[1:])), alpha=deviation)


def speckle_noise(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Add normal noise in proportion to the pixel. ``setting``: (standard deviation as a share of the pixel)."""
    (deviation,) = setting
    return torch.addcmul(x, x, draw.normal(tuple(x.shape[1:])), value=deviation)


def impulse_noise(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Set a share of the values to 0 or 1, both equally likely. ``setting``: (share)."""
    (share,) = setting
    u = draw.uniform(tuple(x.shape[1:]))
    return (x * (u >= share)).add_(u < share / 2)


def shot_noise(x: Tensor, setting: Setting, draw: Draw) -> Tensor:
    """Count photons. ``setting``: (expected photons of a white pixel); the result is a Poisson count divided by it.

    The count is the inverse CDF at a uniform number, exact to the 24 bits of that number. The CDFs of the 256 levels of
    an 8-bit image are tabulated. A value between two levels gets a second, small count for the part above the lower
    level, because independent Poisson counts add up to a Poisson count of the summed mean.
    """
    (photons,) = setting
    shape = tuple(x.shape[1:])
    scaled = (x * (_LEVELS - 1)).flatten()
    level = (scaled + _ON_LEVEL).long().clamp_(0, _LEVELS - 1)
    count = _count_at_level(level, draw.uniform(shape, "level").flatten(), photons)
    rest = scaled.sub_(level)
    between = (rest > _ON_LEVEL).nonzero().squeeze(1)
    if len(between):
        u = draw.uniform(shape, "rest").flatten()[between]
        count[between] += _small_count(rest[between] * (photons / (_LEVELS - 1)), u)
    return (count / photons).reshape(x.shape)


@functools.lru_cache(maxsize=16)
def _poisson_tables(photons: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the Poisson distribution of every level.

    First ``P(count <= k)``, float32 ``[256, K]``, whose last column is 1. Then int64 ``[256, _GUIDE]``: the place, in
    the flattened first table, of the smallest count that a uniform number in that bucket can give.
    """
    mean = torch.arange(_LEVELS, dtype=torch.float64)[:, None] * (photons / (_LEVELS - 1))
    # Eight standard deviations and a few counts: the probability beyond is too small for the 24 bits of a uniform
    # number.
    k = torch.arange(int(photons + 8 * math.sqrt(photons)) + 16, dtype=torch.float64)
    share = (torch.xlogy(k, mean) - mean - torch.lgamma(k + 1)).exp()
    below = share.cumsum(1).float()
    below[:, -1] = 1
    start = (torch.arange(_GUIDE) / _GUIDE).clamp_(min=_SMALLEST).expand(_LEVELS, -1).contiguous()
    first = torch.searchsorted(below, start, right=True)
    place = first + torch.arange(_LEVELS)[:, None] * len(k)
    return below.to(device), place.to(device)


def _count_at_level(level: Tensor, u: Tensor, photons: float) -> Tensor:
    """Return the smallest count with ``u < P(count <= k)``, float32, for flat int64 levels and uniform numbers."""
    below, place = _poisson_tables(photons, level.device)
    u = u.clamp(min=_SMALLEST)
    at = place.flatten().index_select(0, level * _GUIDE + (u * _GUIDE).long())
    late = (u >= below.flatten().index_select(0, at)).nonzero().squeeze(1)
    at[late] += 1
    # The outermost buckets span many counts but few pixels; these pixels are looked up in the whole distribution.
    far = late[u[late] >= below.take(at[late])]
    found = torch.searchsorted(below[level[far]], u[far, None], right=True).squeeze(1)
    at[far] = level[far] * below.shape[1] + found
    return at.sub_(level * below.shape[1]).float()


def _small_count(mean: Tensor, u: Tensor) -> Tensor:
    """Return a Poisson count of a mean up to about 2, by adding up probabilities until the sum exceeds ``u``."""
    share = torch.exp(-mean)
    below, count = share.clone(), torch.zeros_like(mean)
    for k in range(1, _MAX_REST):
        more = u >= below
        if not bool(more.any()):
            break
        count += more
        share = share * mean / k
        below += share
    return count
