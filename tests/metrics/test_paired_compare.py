from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from robustbench_df.errors import DataError
from robustbench_df.metrics.compare import corruption_errors, holm, mcnemar, paired_delong
from robustbench_df.metrics.intervals import auc_interval
from robustbench_df.metrics.scores import auc


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (10, 10), (40, 15)])
def test_mcnemar_is_the_binomial_test_of_the_discordant(only_a, only_b):
    right_a = np.repeat([1, 0, 1, 0], [only_a, only_b, 50, 7])
    right_b = np.repeat([0, 1, 1, 0], [only_a, only_b, 50, 7])
    result = mcnemar(right_a, right_b)
    discordant = only_a + only_b
    expected = binomtest(only_a, discordant).pvalue if discordant else 1.0
    assert result.p_value == pytest.approx(expected)
    assert result.difference == pytest.approx(right_a.mean() - right_b.mean())
    assert result.low < result.difference < result.high or discordant == 0
    n = discordant + 59  # half an image more in each of the four cells
    p10, p01 = (only_a + 0.5) / n, (only_b + 0.5) / n
    half = 1.959964 * np.sqrt((p10 + p01 - (p10 - p01) ** 2) / n)
    assert (result.low, result.high) == pytest.approx((p10 - p01 - half, p10 - p01 + half), abs=1e-6)
    swapped = mcnemar(right_b, right_a)
    assert (swapped.low, swapped.high) == pytest.approx((-result.high, -result.low))
    assert result.n == discordant + 57


def test_mcnemar_interval_covers():
    rng = np.random.default_rng(0)
    cells = rng.multinomial(150, [0.12, 0.06, 0.75, 0.07], 400)
    hits = []
    for counts in cells:
        result = mcnemar(np.repeat([1, 0, 1, 0], counts), np.repeat([0, 1, 1, 0], counts))
        hits.append(result.low <= 0.06 <= result.high)
    assert 0.91 <= np.mean(hits) <= 0.985


def test_mcnemar_refuses_other_images_and_has_nothing_to_say_of_none():
    with pytest.raises(DataError, match="same images"):
        mcnemar(np.ones(3), np.ones(4))
    assert np.isnan(mcnemar(np.array([]), np.array([])).p_value)


def pair(rng: np.random.Generator, n: int, gain: float = 0.0):
    labels = np.repeat([0, 1], n // 2)
    shared = rng.normal(size=n)
    a, b = (shared + 0.7 * rng.normal(size=n) + labels * (1 + extra) for extra in (gain, 0.0))
    return a, b, labels


def test_paired_delong_is_uniform_under_the_null_and_covers_zero():
    rng = np.random.default_rng(1)
    results = [paired_delong(*pair(rng, 120)) for _ in range(400)]
    assert kstest([r.p_value for r in results], "uniform").pvalue > 0.01
    assert 0.91 <= np.mean([r.low <= 0 <= r.high for r in results]) <= 0.985


def test_paired_delong_sees_a_real_difference_that_unpaired_intervals_miss():
    rng = np.random.default_rng(2)
    a, b, labels = pair(rng, 400, gain=0.3)
    result = paired_delong(a, b, labels)
    assert result.difference == pytest.approx(auc(a, labels) - auc(b, labels))
    assert result.p_value < 0.001
    assert auc_interval(a, labels).low < auc_interval(b, labels).high, "alone they overlap"
    swapped = paired_delong(b, a, labels)
    assert (swapped.difference, swapped.p_value) == pytest.approx((-result.difference, result.p_value))


def test_paired_delong_variance_is_that_of_the_covariance_matrix():
    a, b, labels = pair(np.random.default_rng(3), 60, gain=0.2)
    wins = [x[labels == 1][:, None] > x[labels == 0] for x in (a, b)]
    s10, s01 = (np.cov(np.stack([w.mean(axis=axis) for w in wins])) for axis in (1, 0))
    cov = s10 / 30 + s01 / 30
    z = paired_delong(a, b, labels).difference / np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    from scipy.stats import norm

    assert paired_delong(a, b, labels).p_value == pytest.approx(2 * norm.sf(abs(z)))


def test_paired_delong_at_its_edges():
    a, _, labels = pair(np.random.default_rng(4), 40)
    assert paired_delong(a, a**3, labels).p_value == 1.0, "the same ranking"
    opposite = paired_delong(labels - 0.5, 0.5 - labels, labels)
    assert opposite.difference == 1.0
    assert np.isnan(opposite.p_value), "no variance to judge by"
    assert np.isnan(paired_delong(a, a, np.zeros(40, int)).difference)


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02, np.nan, 0.03]), [0.04, np.nan, 0.04])
    assert len(holm([])) == 0


def test_holm_keeps_the_family_wise_error_where_raw_p_values_do_not():
    p = np.random.default_rng(5).random((1000, 10))
    assert np.mean(p.min(axis=1) < 0.05) > 0.3
    assert np.mean([holm(row).min() < 0.05 for row in p]) < 0.07


ERRORS = {"blur": [0.2, 0.4], "noise": [0.1, 0.5]}
BASE = {"blur": [0.3, 0.3], "noise": [0.4, 0.8]}


def test_corruption_errors_by_hand():
    got = corruption_errors(ERRORS, 0.1, BASE, 0.2, "resnet")
    assert got.ce == pytest.approx({"blur": 1.0, "noise": 0.5})
    assert got.relative_ce == pytest.approx({"blur": 0.4 / 0.2, "noise": 0.4 / 0.8})
    assert (got.mce, got.relative_mce, got.mean_error) == pytest.approx((0.75, 1.25, 0.3))
    assert got.undefined == ()
    assert got.reference == "resnet"
    itself = corruption_errors(BASE, 0.2, BASE, 0.2, "resnet")
    assert (itself.mce, itself.relative_mce) == pytest.approx((1.0, 1.0))


def test_a_reference_that_is_not_hurt_measures_nothing():
    got = corruption_errors(ERRORS, 0.1, BASE | {"blur": [0.1, 0.3]}, 0.2, "resnet")
    assert np.isnan(got.relative_ce["blur"])
    assert got.undefined == ("blur",)
    assert got.relative_mce == pytest.approx(got.relative_ce["noise"])
    rounded = corruption_errors({"blur": [0.5, 0.5]}, 0.1, {"blur": [0.02, 0.04]}, 0.03, "resnet")
    assert (0.02 - 0.03) + (0.04 - 0.03) > 0, "zero but for rounding"
    assert np.isnan(rounded.relative_mce)
    none = corruption_errors(ERRORS, 0.1, {"blur": [0.0, 0.0], "noise": [0.0, 0.0]}, 0.0, "oracle")
    assert np.isnan([none.mce, none.relative_mce]).all()
    assert none.mean_error == pytest.approx(0.3)


@pytest.mark.parametrize("base", [{"blur": [0.3, 0.3]}, BASE | {"noise": [0.4]}, BASE | {"fog": [0.1]}])
def test_corruption_errors_want_the_same_cells(base):
    with pytest.raises(DataError, match="evaluate both on the same"):
        corruption_errors(ERRORS, 0.1, base, 0.2, "resnet")
