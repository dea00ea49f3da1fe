"""Fewer images: evenly spaced, and of both classes whatever the order of their names."""

from __future__ import annotations

import numpy as np

from robustbench_df.data.thinning import thin


def test_thinning_is_even() -> None:
    index, labels = np.arange(199), (np.arange(199) % 2).astype(np.int8)
    assert thin(index, 0, labels) is index
    few = thin(index, 100, labels)  # every second image would be of one class
    assert len(set(few.tolist())) == 100
    assert abs(int(labels[few].sum()) - 50) <= 1
    assert few.tolist() == sorted(few.tolist())
    assert len(set(thin(index, 198, labels).tolist())) == 198


def test_a_rare_class_keeps_its_share_and_at_least_one_image() -> None:
    labels = np.repeat([0, 1], [900, 90]).astype(np.int8)
    rows = thin(np.arange(990), 110, labels)
    assert np.bincount(labels[rows]).tolist() == [100, 10]
    for rare in (0, 1):
        labels = np.full(1000, 1 - rare, np.int8)
        labels[500] = rare
        assert 500 in thin(np.arange(1000), 10, labels)
