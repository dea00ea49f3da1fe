"""The fast bootstrap draws the same images as the plain one."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_df.metrics import resampling
from robustbench_df.metrics.intervals import bootstrap
from robustbench_df.metrics.resampling import bootstrap_scores
from robustbench_df.metrics.scores import eer, f1, tpr_at_fpr


def some(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    margin = np.round(rng.normal(2 * labels - 1, 1.5), 1)  # with ties
    return margin, (margin > 0.3).astype(int), labels


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n", [30, 301])
def test_it_is_the_plain_bootstrap_of_each_score(n: int, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 7 * n)  # so that several blocks are made
    margin, verdict, labels = some(n)
    groups = [f"g{k // 3}" for k in range(n)] if grouped else None
    found = bootstrap_scores(margin, verdict, labels, groups=groups, resamples=60, seed=3)
    plain = {"f1": (f1, 2.0 * verdict - 1), "eer": (eer, margin), "tpr_at_1pct_fpr": (tpr_at_fpr, margin)}
    for name, (statistic, score) in plain.items():
        wanted = bootstrap(statistic, score, labels, groups=groups, resamples=60, seed=3)
        got = found[name]
        assert (got.value, got.low, got.high) == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-12)
        assert (got.n, got.method) == (wanted.n, wanted.method)


def test_what_is_undefined_is_nan() -> None:
    for labels in (np.zeros(12, int), np.ones(12, int), np.zeros(0, int)):
        found = bootstrap_scores(np.arange(len(labels), dtype=float), np.ones(len(labels), int), labels, resamples=20)
        assert np.isnan(found["eer"].value)
        assert np.isnan(found["tpr_at_1pct_fpr"].low)
    labels = some(40)[2]
    perfect = bootstrap_scores(2.0 * labels - 1, labels, labels, resamples=20)
    assert perfect["f1"].value == 1
    assert np.isnan(perfect["f1"].low)  # no image with an error can be drawn: resampling cannot tell
