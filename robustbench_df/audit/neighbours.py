"""Find which images are copies of each other without comparing all pairs.

1. `candidates`: pairs whose hashes differ in few bits, for some view and flip of the first image. Images are sorted
   into buckets by a few bits of their hash, in several bands with different bits (locality-sensitive hashing, Indyk &
   Motwani 1998); only images in the same bucket are compared. The number of bits grows with the logarithm of the number
   of images, so buckets stay small. Queries are sorted by a few bits once, for all bands: consecutive look-ups then
   fall into the same part of every table, which stays in a core's cache.
2. `confirm`: the pixel check of `alignment`, for the remaining pairs.
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
"""Most bits of 64 in which the hashes of a candidate pair differ. Of the copies, 97% (crops to 64% of the area) to 100%
(JPEG, brightness, rotation) have a view within 10 bits; of the views of different CIFAKE images, one in a million lies
within 10 bits."""

CROWD = 32
"""Most images of one bucket that are compared with each image, and most candidates kept for each image, the nearest
ones. Where there are more (the frames of a video), they are copies of each other and need only be linked."""

THREADS = min(4, os.cpu_count() or 1)
"""Bands that are searched in parallel; with more threads, memory is the bottleneck."""

_POOL = 40
"""Number of hash bits that buckets are made of: those of the lowest frequencies, which misalignment changes least (in 2
to 8% of the copies, against 10 to 20% for the others)."""

_ROWS = 1 << 14  # of each view at once: what fits into a core's cache
_LEADING = 16  # bits by which queries are sorted
_PAIRS = 1 << 14  # thumbnails of so many pairs are held at once: 32 MiB
_ONE, _SEVERAL = np.uint64(1), np.uint64(1 << 63)
_PIECE_BITS = 14  # of the pool, looked up together: three tables of 128 KiB, of which sorted queries use a part
_PIECE = (1 << _PIECE_BITS) - 1


class Candidates(NamedTuple):
    """Pairs to be checked, intp ``[n]`` each: a view and flip of ``first`` has a hash near that of ``second``."""

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
        the radius are found: the more bits differ, the fewer are found (see the tests for how many). Each image has at
        most `CROWD` candidates, which still link all images that are alike.
    """
    search = partial(_band, _arranged(queries), index, same, radius)
    best = np.empty(0, np.uint64)
    with ThreadPoolExecutor(THREADS) as pool:
        for packed in pool.map(search, bands(len(index))):
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

    with ThreadPoolExecutor(THREADS) as pool:
        checked = [*pool.map(check, range(0, len(found.first), _PAIRS)), (np.empty(0, bool), np.empty(0, np.float32))]
    return np.concatenate([alike for alike, _ in checked]), np.concatenate([score for _, score in checked])


def bands(n: int) -> list[np.uint64]:
    """Return the bits by which each band sorts ``n`` images: a fixed random choice of the `_POOL` lowest frequencies.

    Each band has ``log2(n) + 2`` bits, so at most every fourth bucket holds an image. There are 1.5 times as many bands
    as bits. Every view of an image is looked up once in each band, which is O(n log n) in total.
    """
    bits = math.ceil(math.log2(max(64, n))) + 2
    rng = np.random.default_rng(np.random.PCG64(0))
    draws = [rng.permutation(_POOL)[:bits] for _ in range(3 * bits // 2)]
    return [np.uint64(sum(1 << int(k) for k in draw)) for draw in draws]


class _Arranged(NamedTuple):
    """Each view's hashes in order of `_LEADING` bits, uint64 ``[V, N]``, and the image of each, uint32 ``[V, N]``."""

    hashes: Hashes
    image: NDArray[np.uint32]


def _arranged(queries: Hashes) -> _Arranged:
    """Sort each view by its leading bits, in linear time: numpy sorts 16 bits by radix.

    Those leading bits that a band uses become the highest bits of its bucket numbers (`_extraction`). So in every band,
    the n-th rows of all views have nearby buckets.
    """
    out = _Arranged(np.empty_like(queries), np.empty(queries.shape, np.uint32))
    for view, hashes in enumerate(queries):
        order = np.argsort((hashes >> np.uint64(_POOL - _LEADING)).astype(np.uint16), kind="stable")
        out.hashes[view], out.image[view] = hashes.take(order), order
    return out


def _band(queries: _Arranged, index: Hashes, same: bool, radius: int, mask: np.uint64) -> Hashes:
    """Return the pairs within ``radius`` that share a bucket of one band, packed."""
    buckets = _Buckets(index, mask)
    negated = np.array([flip_mask(*flip) for flip in FLIPS])
    found = [np.empty(0, np.uint64)]
    for begin in range(0, queries.hashes.shape[1], _ROWS):
        part = queries.hashes[:, begin : begin + _ROWS]
        view, row, second, flip, distance = buckets.near(part, negated, radius)
        first = queries.image[view, row + begin].astype(np.intp)
        other = ~(same & (first == second))
        found.append(_pack(first[other], second[other], len(index), flip[other], distance[other], view[other]))
    return _nearest(np.concatenate(found))


class _Buckets:
    """The images of an index, sorted into buckets that are numbered by some bits of the hashes.

    A look-up takes longer in a larger table. So most look-ups end at `occupied`, one byte per bucket. The other tables
    have entries for occupied buckets only; their place is the number of occupied buckets before (rank by words,
    Jacobson 1989).
    """

    def __init__(self, index: Hashes, mask: np.uint64) -> None:
        self.tables = _extraction(mask)
        number = self.number(index)
        ordered = np.sort(number << 32 | np.arange(len(index)))  # vectorised: faster than a radix sort
        number, self.order = ordered >> 32, ordered & 0xFFFFFFFF
        self.hashes = index.take(self.order)  # from here on, memory is read sequentially
        self.begin = np.flatnonzero(np.diff(number, prepend=-1))
        self.size = np.diff(self.begin, append=len(index))
        # The hash of a bucket's first image; its highest bit is replaced by a flag for several images.
        self.lone = self.hashes.take(self.begin) & ~_SEVERAL | np.where(self.size > 1, _SEVERAL, np.uint64(0))
        self.occupied = np.zeros(1 << int(mask).bit_count(), bool)
        self.occupied[number] = True
        self.words = np.packbits(self.occupied, bitorder="little").view("<u8")
        count = np.bitwise_count(self.words)
        self.before = (np.cumsum(count, dtype=np.int64) - count).astype(np.int32)

    def number(self, hashes: Hashes) -> Index:
        """Return the bucket of each hash. It is linear: ``number(a ^ b) == number(a) ^ number(b)``."""
        bits = hashes.view(np.intp)
        out = self.tables[0].take(bits & _PIECE)
        for k, table in enumerate(self.tables[1:], start=1):
            out |= table.take(bits >> k * _PIECE_BITS & _PIECE)
        return out

    def near(
        self, hashes: Hashes, negated: Hashes, radius: int
    ) -> tuple[Index, Index, Index, Index, NDArray[np.uint8]]:
        """Find images that share a bucket with ``hashes[view, row] ^ negated[flip]`` and are within ``radius`` of it.

        Returns view, row, place in the index, flip and distance of each such pair.
        """
        turned, found, asked = self.number(negated), [], []
        for view, chunk in enumerate(hashes):
            number = self.number(chunk)
            # Upside-down images are searched for only as a whole: no usual augmentation combines that with a crop.
            for flip in range(len(negated) if view == 0 else 2):
                found.append(self._promising(chunk, negated[flip], number ^ turned[flip], radius))
                asked.append((view, flip))
        row, bucket, sought = (np.concatenate(column) for column in zip(*found, strict=True))
        view_of, flip_of = np.repeat(asked, [len(rows) for rows, _, _ in found], axis=0).T
        which, place = self.partners(row, bucket)
        distance = np.bitwise_count(sought.take(which) ^ self.hashes.take(place))
        kept = np.flatnonzero(distance <= radius)
        which = which.take(kept)
        place = self.order.take(place.take(kept))
        return view_of.take(which), row.take(which), place, flip_of.take(which), distance.take(kept)

    def _promising(self, hashes: Hashes, negated: np.uint64, number: Index, radius: int) -> tuple[Index, Index, Hashes]:
        """Return rows whose bucket holds one near hash or several hashes, the bucket's rank, and the flipped hash."""
        row = np.flatnonzero(self.occupied.take(number))
        bucket, sought = self.rank(number.take(row)), hashes.take(row) ^ negated
        lone = self.lone.take(bucket)
        near = np.bitwise_count((lone ^ sought) & ~_SEVERAL) <= radius
        promising = np.flatnonzero(near | (lone >= _SEVERAL))
        return row.take(promising), bucket.take(promising), sought.take(promising)

    def rank(self, number: Index) -> Index:
        """Count the occupied buckets before each of these numbers."""
        word, bit = number >> 6, (number & 63).view(np.uint64)
        below = self.words.take(word) & (_ONE << bit) - _ONE
        before: Index = self.before.take(word) + np.bitwise_count(below).astype(np.intp)
        return before

    def partners(self, row: Index, bucket: Index) -> tuple[Index, Index]:
        """Return (position in ``row``, place in order) of all that share a bucket, `CROWD` per row at most."""
        begin, size = self.begin.take(bucket), self.size.take(bucket)
        taken = np.minimum(size, CROWD)
        which = np.repeat(np.arange(len(row)), taken)
        place = np.arange(len(which)) - (np.cumsum(taken) - taken).take(which)
        if len(size) and size.max() > CROWD:
            # Each row takes the next few images cyclically, so all are linked although not all are compared.
            place = (place + np.where(size > CROWD, row, 0).take(which)) % size.take(which)
        return which, begin.take(which) + place


def _extraction(mask: np.uint64) -> list[Index]:
    """Return tables, one per piece of the pool, that gather the bits of a mask side by side, in order."""
    chosen = [k for k in range(_POOL) if int(mask) >> k & 1]
    piece = np.arange(1 << _PIECE_BITS)
    tables = [np.zeros(1 << _PIECE_BITS, np.intp) for _ in range(-(-_POOL // _PIECE_BITS))]
    for place, bit in enumerate(chosen):
        tables[bit // _PIECE_BITS] |= (piece >> bit % _PIECE_BITS & 1) << place
    return tables


def _pack(first: Index, second: Index, n_index: int, flip: Index, distance: NDArray[np.uint8], view: int) -> Hashes:
    """Pack a candidate into one number: pair << 15, then flip (2 bits), distance (6 bits) and view (7 bits)."""
    pair = first.astype(np.uint64) * np.uint64(n_index) + second.astype(np.uint64)
    return pair << np.uint64(15) | (flip << 13 | view).astype(np.uint64) | distance.astype(np.uint64) << np.uint64(7)


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
