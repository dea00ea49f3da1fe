"""The ranking of hard images, on answers written by hand."""

from __future__ import annotations

import numpy as np

from robustbench_df.metrics.hardness import disputed, hardest


def test_the_hardest_are_wrong_by_most_and_then_by_confidence() -> None:
    p = np.array([[0.9, 0.9, 0.1, 0.6, 0.2], [0.1, 0.8, 0.4, 0.6, 0.9]])
    labels = np.array([0, 0, 0, 0, 1], np.int8)
    rows = hardest(p, (p >= 0.5).astype(np.int8), labels)
    assert rows.tolist() == [1, 3, 0, 4]  # both wrong at .85, both at .6, one at .9 and .1, one at .2; 2 is right


def test_verdicts_count_not_one_half() -> None:
    p = np.array([[0.4, 0.7], [0.4, 0.7]])
    assert hardest(p, (p >= 0.8).astype(np.int8), np.array([0, 0])).tolist() == []
    assert hardest(p, (p >= 0.3).astype(np.int8), np.array([0, 0])).tolist() == [1, 0]


def test_the_most_disputed_differ_in_verdict() -> None:
    p = np.array([[0.9, 0.99, 0.1, 0.55], [0.1, 0.51, 0.2, 0.45]])
    verdict = (p >= 0.5).astype(np.int8)
    assert disputed(p, verdict).tolist() == [0, 3]  # 1 is farther apart than 3, but of one verdict
    assert disputed(p[:1], verdict[:1]).tolist() == []  # one detector agrees with itself
