"""Which images belong together, so that no split, fold or resampling may divide them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import ImageSet

Index = NDArray[np.intp]


def components(images: ImageSet, index: Index, families: Index | None = None) -> Index:
    """Number the connected components of ``index`` under "same pixels", "same group" and "same family".

    Args:
        images: the set.
        index: rows of it, ``[n]``.
        families: a number for every image of the set ``[N]``; those with the same one are near copies
            (`robustbench_df.audit.copies.Copies.families`). None leaves near copies out.

    Returns:
        intp ``[n]``.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(index)
    groups = images.groups[index]
    named = np.flatnonzero(groups != "")
    everyone = np.arange(n)
    links = [(everyone, images.hashes[index]), (named, groups[named].astype(str))]
    if families is not None:
        links.append((everyone, families[index]))
    total, rows, hubs = n, [], []
    for members, values in links:
        _, number = np.unique(values, return_inverse=True)
        rows.append(members)
        hubs.append(total + number)
        total += int(number.max()) + 1 if len(number) else 0
    ones = np.ones(sum(map(len, rows)), np.int8)
    graph = coo_matrix((ones, (np.concatenate(rows), np.concatenate(hubs))), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1][:n], np.intp)
