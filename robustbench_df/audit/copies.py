"""`find_copies`: all pairs of copies within a set of images, or between two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import EXAMPLES, Example
from robustbench_df.audit.hashing import Floats, contrast, thumbnails, view_hashes
from robustbench_df.audit.neighbours import CROWD, Index, candidates, confirm
from robustbench_df.data.imageset import ImageSet

PLAIN = 3.0
"""Contrast (standard deviation, in grey levels) below which a picture has too little structure to be recognised, such
as a clear sky: only its pixel-identical copies are searched for. CIFAKE has no such image."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Pairs of copies: the exact ones first, then by falling score.

    Attributes:
        first, second: intp ``[P]``: rows of the set with ``first < second``, or of the set and of the other one.
        exact: bool ``[P]``, pixel-identical.
        mirrored: bool ``[P]``, alike after a flip.
        score: float32 ``[P]``, how well the detail agrees (`alignment`), in [0, 1]; 1 where exact.
        n: number of images in the set.
        plain: how many of them are too plain for a search for near copies.
    """

    first: Index
    second: Index
    exact: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    score: Floats
    n: int
    plain: int

    def pairs(self) -> Index:
        """Return the pairs as rows, intp ``[P, 2]``."""
        return np.stack([self.first, self.second], axis=1)

    def families(self) -> Index:
        """Number the connected components under "is a copy of", intp ``[n]``; a split keeps each of them whole."""
        return _linked(self.first, self.second, self.n)

    def declared(self, images: ImageSet) -> NDArray[np.bool_]:
        """Tell which pairs lie in one group of the source's own, so that no split divides them."""
        groups = images.groups
        return np.asarray((groups[self.first] == groups[self.second]) & (groups[self.first] != ""), dtype=bool)

    def examples(self, images: ImageSet, other: ImageSet, which: Index) -> tuple[Example, ...]:
        """Return the ids of the pairs ``which`` in order, but one pair of each family before a second one of any."""
        b = self.second if other is images else self.second + len(images)
        family = _linked(self.first, b, len(images) + len(other))[self.first[which]]
        order = np.argsort(family, kind="stable")
        begin = np.searchsorted(family[order], family[order])
        turn = np.empty_like(order)
        turn[order] = np.arange(len(order)) - begin
        kept = which[np.argsort(turn, kind="stable")][:EXAMPLES]
        pairs = zip(images.ids[self.first[kept]], other.ids[self.second[kept]], strict=True)
        return tuple((str(a), str(b)) for a, b in pairs)


def find_copies(images: ImageSet, against: ImageSet | None = None) -> Copies:
    """Find all copies within a set, or between it and another one; the sizes of the images may differ.

    Exact copies have equal pixel hashes. Near copies look alike after a flip, a shift or crop, a small rotation, a
    change of brightness or contrast, noise, blur or JPEG; tests/audit/test_neighbours.py says how many of each kind are
    found. A near copy of a picture is also a near copy of all its exact copies. If more than `CROWD` images have the
    same pixels, only the first `CROWD` are paired with each other and with near copies; the rest are paired with the
    first one.

    Memory per image: 1 KiB for a thumbnail, 0.5 KiB for hashes, and 0.8 KiB more during the search; pixels are read in
    chunks.
    """
    here = _Side(images)
    there = here if against is None else _Side(against)
    within = against is None
    blocks = (_exact(here, there, within), _near(here, there, within))
    first, second, score, mirrored = _joined(blocks)
    exact = np.arange(len(first)) < len(blocks[0].first)
    order = np.lexsort((second, first, -score, ~exact))
    return Copies(
        first[order], second[order], exact[order], mirrored[order], score[order], len(images), int(here.plain.sum())
    )


class _Block(NamedTuple):
    first: Index
    second: Index
    score: Floats
    mirrored: NDArray[np.bool_]


def _joined(blocks: tuple[_Block, _Block]) -> _Block:
    one, two = blocks
    return _Block(
        np.concatenate([one.first, two.first]),
        np.concatenate([one.second, two.second]),
        np.concatenate([one.score, two.score]),
        np.concatenate([one.mirrored, two.mirrored]),
    )


class _Side:
    """One set: its distinct pictures, the images that show each, and their thumbnails and hashes for near copies."""

    def __init__(self, images: ImageSet) -> None:
        self.value, self.picture, self.size = np.unique(images.hashes, return_inverse=True, return_counts=True)
        self.order = np.argsort(self.picture, kind="stable")
        self.start = np.cumsum(self.size) - self.size
        thumbs = thumbnails(images.data)
        self.plain = contrast(thumbs) < PLAIN
        self.sought = np.flatnonzero(~self.plain[self.order[self.start]])
        self.thumbs = thumbs[self.lead(self.sought)]
        self.hashes = view_hashes(self.thumbs)

    def lead(self, pictures: Index) -> Index:
        """Row of the first image of each picture."""
        rows: Index = self.order[self.start[pictures]]
        return rows

    def rest(self, pictures: Index) -> tuple[Index, Index]:
        """Rows of the images after the first `CROWD` of each picture, and which entry of ``pictures`` they show."""
        beyond = np.maximum(self.size[pictures] - CROWD, 0)
        which = np.repeat(np.arange(len(pictures)), beyond)
        place = np.arange(len(which)) - (np.cumsum(beyond) - beyond)[which]
        return self.order[self.start[pictures][which] + CROWD + place], which


def _pairs(here: _Side, there: _Side, a: Index, b: Index) -> tuple[Index, Index, Index]:
    """Pair the images of pictures ``a`` with those of pictures ``b``: rows, rows, and which entry of ``a`` it was."""
    of_a, of_b = np.minimum(here.size[a], CROWD), np.minimum(there.size[b], CROWD)
    count = of_a * of_b
    which = np.repeat(np.arange(len(a)), count)
    place = np.arange(len(which)) - (np.cumsum(count) - count)[which]
    first = here.order[here.start[a][which] + place // of_b[which]]
    return first, there.order[there.start[b][which] + place % of_b[which]], which


def _exact(here: _Side, there: _Side, within: bool) -> _Block:
    """Pair images with the same pixels."""
    if within:
        a = b = np.flatnonzero(here.size > 1)
    else:
        a, b = np.intersect1d(here.value, there.value, assume_unique=True, return_indices=True)[1:]
    first, second, _ = _pairs(here, there, a, b)
    rest_a, of_a = here.rest(a)
    rest_b, of_b = there.rest(b)
    if within:
        kept = first < second
        rows = [(first[kept], second[kept]), (here.lead(a)[of_a], rest_a)]
    else:
        rows = [(first, second), (rest_a, there.lead(b)[of_a]), (here.lead(a)[of_b], rest_b)]
    first, second = (np.concatenate(column) for column in zip(*rows, strict=True))
    return _Block(first, second, np.ones(len(first), np.float32), np.zeros(len(first), bool))


def _near(here: _Side, there: _Side, within: bool) -> _Block:
    """Pair images of pictures that look alike."""
    sought = _sought(here, there, same=within)
    if not within:
        # It is unknown which of two pictures is a crop of the other, so each is searched for in the windows of the
        # other.
        back = _sought(there, here, same=False)
        sought = _joined((sought, back._replace(first=back.second, second=back.first)))
    a, b, score, mirrored = sought
    if within:
        a, b = np.minimum(a, b), np.maximum(a, b)
    best = _best(a, b, score, here.value[a] != there.value[b])
    first, second, which = _pairs(here, there, a[best], b[best])
    if within:
        first, second = np.minimum(first, second), np.maximum(first, second)
    return _Block(first, second, score[best][which], mirrored[best][which])


def _linked(first: Index, second: Index, n: int) -> Index:
    """Number the connected components of n images, of which some pairs are linked: intp ``[n]``."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _sought(queries: _Side, index: _Side, *, same: bool) -> _Block:
    """Search for pictures of ``index`` in the windows of ``queries``; returns pictures, not images."""
    found = candidates(queries.hashes, index.hashes[0], same=same)
    alike, score = confirm(queries.thumbs, index.thumbs, found)
    first, second = queries.sought[found.first[alike]], index.sought[found.second[alike]]
    return _Block(first, second, score[alike], found.flip[alike] > 0)


def _best(a: Index, b: Index, score: Floats, wanted: NDArray[np.bool_]) -> Index:
    """Choose the best alignment of each pair of pictures."""
    order = np.lexsort((-score, b, a))
    order = order[wanted[order]]
    best: Index = order[(np.diff(a[order], prepend=-1) != 0) | (np.diff(b[order], prepend=-1) != 0)]
    return best
