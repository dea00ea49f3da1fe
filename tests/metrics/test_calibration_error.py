from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from robustbench_df.metrics.calibration_error import ece, reliability
from robustbench_df.metrics.scores import probability


def believable(n: int, seed: int = 0, temperature: float = 1.0):
    """Margins with labels drawn at P(fake), then made over-confident by a ``temperature`` below 1."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=n) * 2
    return margin / temperature, (rng.random(n) < probability(margin)).astype(int)


def test_small_when_calibrated_and_growing_with_overconfidence():
    values = [ece(*believable(20_000, temperature=t)) for t in (1.0, 0.7, 0.4)]
    assert values[0] < 0.012
    assert values[0] + 0.02 < values[1] < values[2]


def test_ece_by_hand():
    # Four images at confidence .8, three of them right; four at .6, one right.
    p = np.array([0.8, 0.8, 0.8, 0.2, 0.6, 0.6, 0.6, 0.4])
    labels = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    margin = np.log(p / (1 - p))
    table = reliability(margin, labels, bins=2)
    np.testing.assert_allclose(table.confidence, [0.6, 0.8])
    np.testing.assert_allclose(table.accuracy, [0.25, 0.75])
    np.testing.assert_array_equal(table.n, [4, 4])
    assert ece(margin, labels, bins=2) == pytest.approx((0.35 + 0.05) / 2)


def test_reliability_is_sklearns_of_the_top_label():
    margin, labels = believable(1500, seed=3, temperature=0.6)
    confidence = probability(np.abs(margin))
    right = (margin >= 0) == (labels == 1)
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    table = reliability(margin, labels, bins=15)
    np.testing.assert_allclose(table.confidence, mean, atol=2e-3)  # their bins' edges are interpolated quantiles
    np.testing.assert_allclose(table.accuracy, accuracy, atol=0.02)
    assert ece(margin, labels) == pytest.approx(np.abs(accuracy - mean).mean(), abs=2e-3)


def test_ece_does_not_depend_on_the_order_of_tied_images():
    labels = np.repeat([1, 0], [36, 24])
    margin = np.full(60, np.log(0.6 / 0.4))  # 60% sure of each, and 60% right: calibrated
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        assert ece(margin[order], labels[order], bins=7) == pytest.approx(0.0, abs=1e-12)


def test_bins_have_equal_mass_and_never_outnumber_the_images():
    margin, labels = believable(1000)
    assert np.ptp(reliability(margin, labels, bins=15).n) <= 1
    assert len(reliability(margin[:4], labels[:4], bins=15).n) == 4
