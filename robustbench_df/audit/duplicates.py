"""Copies: pixel-identical and near, within one set or between two, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import EXAMPLES, AuditFinding, Example, Figure, Severity
from robustbench_df.audit.hashing import contrast, thumbnails, view_hashes
from robustbench_df.audit.neighbours import Index, candidates, confirm
from robustbench_df.data.imageset import SPLIT_NAMES, UNLABELLED, ImageSet, Pixels, Strings
from robustbench_df.metrics.intervals import wilson

PLAIN = 3.0
"""Contrast (standard deviation, in grey levels) below which a picture shows too little to be recognised by: a clear
sky. Such images are only compared byte by byte, and counted."""

LEAKED = 0.01
"""Share of judged images with a near copy on the learnt side (lower end of the 95% Wilson interval) from which scores
are not to be trusted: they may move accuracy by a point, which is what good detectors differ by. Below it is a warning,
as CIFAR-10 itself has such pairs."""

_MOST_PAIRS = 4096
"""Pairs that two sets of pixel-identical images give before they are only linked."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Pairs of copies, exact ones first, each by falling score.

    Attributes:
        first, second: intp ``[P]``; rows of the set, with ``first < second``, or of the set and of the other one. All
            pairs of near copies; of n pixel-identical images n − 1 pairs, each with the first of them.
        exact: bool ``[P]``, pixel-identical.
        mirrored: bool ``[P]``, alike after a flip.
        score: float32 ``[P]``, how well the detail agrees (`alignment`), in [0, 1]; 1 where exact.
        size: number of images in the set, and in the other one (the same number where there is none).
        between: whether the pairs lie between two sets.
        plain: images of the first set too plain for near copies to be sought.
    """

    first: Index
    second: Index
    exact: NDArray[np.bool_]
    mirrored: NDArray[np.bool_]
    score: NDArray[np.float32]
    size: tuple[int, int]
    between: bool
    plain: int

    def pairs(self) -> Index:
        """Return the pairs as rows, intp ``[P, 2]``."""
        return np.stack([self.first, self.second], axis=1)

    def families(self) -> Index:
        """Number the connected components of images under "is a copy of", intp ``[N]``, for pairs within one set."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        n = self.size[0]
        ones = np.ones(len(self.first), np.int8)
        _, number = connected_components(coo_matrix((ones, (self.first, self.second)), shape=(n, n)), directed=False)
        return np.asarray(number, np.intp)

    def declared(self, images: ImageSet) -> NDArray[np.bool_]:
        """Tell which pairs lie in one group of the source's own, so that no split divides them."""
        groups = images.groups
        return np.asarray((groups[self.first] == groups[self.second]) & (groups[self.first] != ""), dtype=bool)

    def examples(self, images: ImageSet, other: ImageSet, rows: Index) -> tuple[Example, ...]:
        """Return the ids of the first pairs among ``rows``."""
        return tuple(
            (str(images.ids[self.first[k]]), str(other.ids[self.second[k]])) for k in rows[:EXAMPLES].tolist()
        )


def find_copies(images: ImageSet, against: ImageSet | None = None) -> Copies:
    """Find all copies within a set, or between it and another one, of any sizes.

    Exact copies have equal pixel hashes. Near copies look alike after a flip, a shift or crop, a small rotation, a
    change of brightness or contrast, noise, blur or JPEG. Which share of them is found, and how many false pairs come
    with them, is measured in tests/audit/test_neighbours.py.

    Memory: a thumbnail of 1 KiB and some hundred bytes of hashes per image; pixels are read in chunks.
    """
    here = _Side(images)
    there = here if against is None else _Side(against)
    exact = _exact(here, there, within=against is None)
    near = _near(here, there, within=against is None)
    ...
