"""Fewer images of a set, chosen without chance and without losing a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.components import Index


def thin(index: Index, limit: int, labels: NDArray[np.int8]) -> Index:
    """Keep at most ``limit`` entries (0: all), evenly spaced within each class; class proportions are kept.

    ``labels`` are those of the whole set. Every n-th of the images themselves would be all of one class where real and
    fake alternate, as pairs do in the order of their names.
    """
    if not limit or len(index) <= limit:
        return index
    by_class = index[np.argsort(labels[index], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(index) - 1, limit).round().astype(np.intp)])
