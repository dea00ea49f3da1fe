"""Which images are copies of each other, without comparing all with all.

1. `candidates`: pairs whose hashes differ in few bits, for some view and flip of the first image. Images are sorted
   into buckets by a few bits of their hash, several times over with other bits (locality-sensitive hashing, Indyk &
   Motwani 1998); only images in one bucket are compared. The bits taken grow with the logarithm of the number of
   images, so that buckets stay small.
2. `confirm`: the pixel check of `alignment`, for what is left.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.alignment import FLIPS, look_alike
from robustbench_df.audit.hashing import Floats, Hashes, flip_mask
from robustbench_df.data.imageset import Pixels

Index = NDArray[np.intp]

RADIUS = 10
"""Most bits of 64 in which the hashes of a candidate pair differ. Of copies 97% (crops to 64% of the area) to 100%
(JPEG, brightness, rotation) have a view within 10 bits; of views of different CIFAKE images one in a million."""

CROWD = 32
"""Images of one bucket that are compared with each image, and candidates kept for each image, the nearest ones: where
there are more (the frames of a video), they are copies of each other, and need only be linked."""

_POOL = 40
"""Bits that buckets are made of: those of the lowest frequencies, which misalignment changes least (in 2 to 8% of the
copies, against 10 to 20% for the others)."""

_ROWS = 1 << 14  # what fits into a core's cache
_PAIRS = 1 << 14  # thumbnails of so many pairs are held at once: 32 MiB
_THREADS = min(4, os.cpu_count() or 1)  # beyond, memory is what is waited for
_SIZE = (1 << 32) - 1  # the lower half of a cell
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""2⁶⁴ over the golden ratio: multiplicative hashing (Knuth, The Art of Computer Programming 3, section 6.4)."""


class Candidates(NamedTuple):
    """Pairs to be checked, intp ``[n]`` each: a view and a flip of ``first`` has nearly the hash of ``second``."""

    first: Index
    second: Index
    view: Index
    flip: Index
    distance: Index


def candidates(queries: Hashes, index: Hashes, *, same: bool = False, radius: int = RADIUS) -> Candidates:
    """Find pairs of near hashes.

    Args:
        queries: uint64 ``[V, N]``, up to 128 views of N images (`view_hashes`).
        index: uint64 ``[M]``, the hash of M images as they are.
        same: the N images are the M images; none is compared with itself.
        radius: most bits that may differ, below 64.

    Returns:
        For each pair and flip the view that is nearest, in order of ``first`` and ``second``. Not all pairs within
        the radius are found: the further apart, the fewer (see the tests for how many). Each image has at most `CROWD`
        candidates, which still links all that are alike.
    """
    bits = math.ceil(math.log2(max(64, len(index)))) + 2
    search = partial(_band, queries, index, same, radius, bits)
    best = np.empty(0, np.uint64)
    with ThreadPoolExecutor(_THREADS) as pool:
        for packed in pool.map(search, _band_masks(bits)):
            best = _nearest(np.concatenate([best, packed]))
            if len(best) > 2 * CROWD * queries.shape[1]:
                best = _closest(best, len(index))
    return _unpack(_closest(best, len(index)), len(index))


def confirm(first: Pixels, second: Pixels, found: Candidates) -> tuple[NDArray[np.bool_], Floats]:
    """Check candidates by their pixels.

    Args:
        first, second: the thumbnails of the N and of the M images, uint8 ``[N, 32, 32]`` (`hashing.thumbnails`).
        found: the candidates among them.

    Returns:
        Which of them are copies, bool ``[n]``, and how well their detail agrees, float32 ``[n]``; see `look_alike`.
    """

    def check(start: int) -> tuple[NDArray[np.bool_], Floats]:
        rows = slice(start, start + _PAIRS)
        return look_alike(first[found.first[rows]], second[found.second[rows]], found.view[rows], found.flip[rows])

    with ThreadPoolExecutor(_THREADS) as pool:
        checked = [*pool.map(check, range(0, len(found.first), _PAIRS)), (np.empty(0, bool), np.empty(0, np.float32))]
    return np.concatenate([alike for alike, _ in checked]), np.concatenate([score for _, score in checked])


def _band_masks(bits: int) -> list[np.uint64]:
    """The bits by which each band sorts: ``bits`` of the `_POOL` lowest frequencies, drawn once and for all."""
    rng = np.random.default_rng(np.random.PCG64(0))
    draws = [rng.permutation(_POOL)[:bits] for _ in range(3 * bits // 2)]
    return [np.uint64(sum(1 << int(k) for k in draw)) for draw in draws]


def _band(queries: Hashes, index: Hashes, same: bool, radius: int, bits: int, mask: np.uint64) -> Hashes:
    """Return the pairs within ``radius`` that share a bucket of one band, packed."""
    buckets = _Buckets(index, mask, bits)
    found = [np.empty(0, np.uint64)]
    for view, row in enumerate(queries):
        # Upside down, images are only sought as a whole: no usual augmentation joins that to a crop.
        for flip, (horizontal, vertical) in enumerate(FLIPS if view == 0 else FLIPS[:2]):
            negated = flip_mask(horizontal, vertical)
            for begin in range(0, len(row), _ROWS):
                hashes = row[begin : begin + _ROWS] ^ negated
                first, second = buckets.partners(hashes)
                distance = np.bitwise_count(hashes.take(first) ^ index.take(second))
                near = np.flatnonzero(distance <= radius)
                first, second, distance = first[near] + begin, second[near], distance[near]
                other = ~(same & (first == second))
                found.append(_pack(first[other], second[other], len(index), flip, distance[other], view))
    return _nearest(np.concatenate(found))


class _Buckets:
    """The images of an index, sorted by some bits of their hashes."""

    def __init__(self, index: Hashes, mask: np.uint64, bits: int) -> None:
        self.mask, self.shift = mask, np.uint64(64 - bits)
        number = self._number(index)
        self.order = _sorted(number)
        size = np.bincount(number.take(self.order), minlength=1 << bits)  # in order, so that memory is walked through
        self.occupied = size > 0  # an eighth of the cells' memory: it stays in the cache, and most look-ups end here
        # Start and size side by side: one look-up in memory instead of two.
        self.cells = (np.cumsum(size) - size) << 32 | size

    def _number(self, hashes: Hashes) -> Index:
        return ((hashes & self.mask) * _MIX >> self.shift).astype(np.intp)

    def partners(self, hashes: Hashes) -> tuple[Index, Index]:
        """Return (row of ``hashes``, place in the index) of all that share a bucket, `CROWD` per row at most."""
        number = self._number(hashes)
        row = np.flatnonzero(self.occupied.take(number))
        cell = self.cells.take(number.take(row))
        low, size = cell >> 32, cell & _SIZE
        taken = np.minimum(size, CROWD)
        which = np.repeat(np.arange(len(row)), taken)
        place = np.arange(len(which)) - (np.cumsum(taken) - taken).take(which)
        if len(size) and size.max() > CROWD:
            # Each row takes the next few round the circle, so that all are linked though not all are compared.
            place = (place + np.where(size > CROWD, row, 0).take(which)) % size.take(which)
        return row.take(which), self.order.take(low.take(which) + place)


def _sorted(number: Index) -> Index:
    """Return the stable order of numbers below 2³², in linear time: numpy sorts 16 bits by radix, more by merging."""
    order = np.argsort((number & 0xFFFF).astype(np.uint16), kind="stable")
    return order[np.argsort((number >> 16).astype(np.uint16)[order], kind="stable")]


def _pack(first: Index, second: Index, n_index: int, flip: int, distance: NDArray[np.uint8], view: int) -> Hashes:
    """Put a candidate into one number that sorts by pair, flip and distance: pair << 15 | 2, 6 and 7 bits."""
    pair = first.astype(np.uint64) * np.uint64(n_index) + second.astype(np.uint64)
    return pair << np.uint64(15) | np.uint64(flip << 13 | view) | distance.astype(np.uint64) << np.uint64(7)


def _nearest(packed: Hashes) -> Hashes:
    """Keep, of each pair and flip, the nearest view."""
    packed = np.sort(packed)
    pair = packed >> np.uint64(13)
    kept: Hashes = packed[np.append(True, pair[1:] != pair[:-1])[: len(packed)]]
    return kept


def _closest(packed: Hashes, n_index: int) -> Hashes:
    """Keep, of each first image, the `CROWD` nearest pairs."""
    first, distance = packed // np.uint64(n_index << 15 or 1), packed >> np.uint64(7) & np.uint64(63)
    order = np.lexsort((distance, first))
    place = np.arange(len(order)) - np.searchsorted(first, first[order])  # first rises, as packed does
    return np.sort(packed[order[place < CROWD]])


def _unpack(packed: Hashes, n_index: int) -> Candidates:
    pair, rest = packed >> np.uint64(15), packed.astype(np.intp) & (1 << 15) - 1
    first, second = np.divmod(pair, np.uint64(max(1, n_index)))
    return Candidates(first.astype(np.intp), second.astype(np.intp), rest & 127, rest >> 13, rest >> 7 & 63)
