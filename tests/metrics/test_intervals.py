from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest, norm

from robustbench_df.errors import DataError, UsageError
from robustbench_df.metrics.intervals import (
    Interval,
    auc_interval,
    bootstrap,
    placement_variance,
    placements,
    units,
    wilson,
)
from robustbench_df.metrics.scores import accuracy, auc, balanced_accuracy, recall

SIMULATIONS = 400


def covered(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))


def detector(rng: np.random.Generator, n_real: int, n_fake: int, shift: float):
    labels = np.repeat([0, 1], [n_real, n_fake])
    return rng.normal(size=len(labels)) + shift * labels, labels


@pytest.mark.parametrize(("k", "n"), [(0, 20), (20, 20), (1, 3), (124, 128), (970, 1000)])
def test_wilson_is_scipys(k, n):
    interval = wilson(k, n)
    theirs = binomtest(k, n).proportion_ci(0.95, "wilson")
    assert (interval.low, interval.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert interval.low <= interval.value <= interval.high
    assert interval.n == n


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for p, n in ((0.97, 128), (0.5, 60)):
        assert 0.91 <= covered(p, [wilson(int(k), n) for k in rng.binomial(n, p, SIMULATIONS)]) <= 0.985


def test_undefined_and_impossible_shares():
    assert np.isnan([wilson(0, 0).value, wilson(0, 0).low, wilson(0, 0).high]).all()
    with pytest.raises(DataError, match="5 successes out of 4"):
        wilson(5, 4)
    with pytest.raises(UsageError, match="level 95"):
        wilson(1, 4, level=95)


def test_delong_variance_is_the_definition_over_all_pairs():
    rng = np.random.default_rng(1)
    margin, labels = detector(rng, 30, 20, 1.0)
    margin = np.round(margin, 1)  # with ties
    fake, real = margin[labels == 1], margin[labels == 0]
    wins = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
    per_fake, per_real = placements(margin, labels)
    np.testing.assert_allclose(per_fake, wins.mean(axis=1))
    np.testing.assert_allclose(per_real, wins.mean(axis=0))
    expected = np.cov(wins.mean(axis=1)) / 20 + np.cov(wins.mean(axis=0)) / 30
    assert placement_variance(per_fake, per_real) == pytest.approx(float(expected))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_interval_covers(shift):
    rng = np.random.default_rng(2)
    intervals = [auc_interval(*detector(rng, 60, 40, shift)) for _ in range(SIMULATIONS)]
    assert 0.91 <= covered(norm.cdf(shift / np.sqrt(2)), intervals) <= 0.985
    assert all(0 < i.low <= i.value <= i.high < 1 for i in intervals if i.method == "delong")


def test_a_perfect_auc_is_not_certain():
    labels = np.repeat([0, 1], [30, 20])
    interval = auc_interval(labels * 2.0, labels)
    assert interval == Interval(1.0, pytest.approx(0.025 ** (1 / 20)), 1.0, 50, "clopper-pearson")
    worst = auc_interval(-labels * 2.0, labels)
    assert (worst.low, worst.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    constant = auc_interval(np.zeros(50), labels)
    assert constant.low < 0.3 < 0.7 < constant.high
    alone = auc_interval(np.array([0.0, 1.0, 2.0]), np.array([0, 1, 0]))
    assert alone.high - alone.low > 0.9
    assert np.isnan(auc_interval(np.zeros(3), np.zeros(3, int)).low)


def test_the_fallback_covers_where_most_samples_are_perfect():
    rng = np.random.default_rng(3)
    shift = 3.6
    intervals = [auc_interval(*detector(rng, 15, 15, shift)) for _ in range(SIMULATIONS)]
    assert np.mean([i.value == 1 for i in intervals]) > 0.3
    assert covered(norm.cdf(shift / np.sqrt(2)), intervals) > 0.94


def test_bootstrap_covers_and_keeps_the_class_balance():
    rng = np.random.default_rng(4)
    seen = set()

    def recall_and_record(margin, labels):
        seen.add(int(labels.sum()))
        return recall(margin, labels)

    truth = norm.cdf(1.0)
    intervals = [
        bootstrap(recall_and_record, *detector(rng, 20, 60, 1.0), resamples=120, seed=s)
        for s in range(SIMULATIONS // 3)
    ]
    assert 0.88 <= covered(truth, intervals) <= 0.985
    assert seen == {60}


def test_bootstrap_is_scipys_of_two_samples():
    """Classes drawn apart from each other, percentile ends; only the random numbers differ."""
    margin, labels = detector(np.random.default_rng(7), 90, 60, 1.0)
    ours = bootstrap(balanced_accuracy, margin, labels, resamples=3000)
    both = margin[labels == 0] < 0, margin[labels == 1] >= 0
    theirs = stats.bootstrap(
        both,
        lambda real, fake, axis: (real.mean(axis=axis) + fake.mean(axis=axis)) / 2,
        method="percentile",
        n_resamples=3000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.008)


def grouped(rng: np.random.Generator, groups: int = 40, size: int = 5):
    """All images of a group share most of their score, and their class."""
    labels = np.repeat(np.arange(groups) % 2, size)
    shared = np.repeat(rng.normal(size=groups), size)
    names = np.repeat([f"g{k}" for k in range(groups)], size)
    return shared + 0.3 * rng.normal(size=groups * size) + 2.0 * labels - 1.0, labels, names


def test_cluster_bootstrap_covers_where_the_plain_one_is_overconfident():
    rng = np.random.default_rng(5)
    plain, cluster = [], []
    for s in range(SIMULATIONS // 4):
        margin, labels, names = grouped(rng)
        plain.append(bootstrap(accuracy, margin, labels, resamples=120, seed=s))
        cluster.append(bootstrap(accuracy, margin, labels, groups=names, resamples=120, seed=s))
    truth = norm.cdf(1 / np.sqrt(1.09))
    assert 0.88 <= covered(truth, cluster) <= 0.985
    assert covered(truth, plain) < 0.75
    assert cluster[0].method == "cluster bootstrap"


def test_units_are_whole_groups_and_ungrouped_images_stand_alone():
    labels = np.array([0, 1, 0, 1, 1, 0])
    parts = units(labels, ["a", "b", "a", "", "", "b"])
    members = {tuple(sorted(parts.images(np.array([u])))) for u in range(len(parts.size))}
    assert members == {(0, 2), (1, 5), (3,), (4,)}
    strata = [{tuple(sorted(parts.images(np.array([u])))) for u in stratum} for stratum in parts.strata]
    assert strata == [{(0, 2)}, {(1, 5)}, {(3,), (4,)}]
    twice = parts.images(np.array([0, 0]))
    np.testing.assert_array_equal(twice[: len(twice) // 2], twice[len(twice) // 2 :])
    with pytest.raises(DataError, match="one per image"):
        units(labels, ["a"])


def test_bootstrap_is_a_function_of_its_seed_and_can_be_paired():
    rng = np.random.default_rng(6)
    margin, labels = detector(rng, 50, 50, 1.0)
    first = bootstrap(auc, margin, labels, resamples=100, seed=1)
    assert first == bootstrap(auc, margin, labels, resamples=100, seed=1)
    assert first != bootstrap(auc, margin, labels, resamples=100, seed=2)
    twins = np.stack([margin, margin + 0.05 * rng.normal(size=100)], axis=1)
    paired = bootstrap(lambda x, y: auc(x[:, 0], y) - auc(x[:, 1], y), twins, labels, resamples=100)
    assert paired.high - paired.low < 0.3 * (first.high - first.low)


def test_bootstrap_says_nothing_where_it_knows_nothing():
    labels = np.array([0, 0, 1, 1])
    perfect = bootstrap(accuracy, labels * 2.0 - 1, labels, resamples=50)
    assert perfect.value == 1.0
    assert np.isnan([perfect.low, perfect.high]).all()

    def often_undefined(margin, labels):
        return margin.mean() if margin[labels == 1].max() > 0 else np.nan

    quarter = bootstrap(often_undefined, np.array([-1.0, -2.0, 1.0, -1.0]), labels, resamples=200)
    assert quarter.value == -0.75
    assert np.isnan([quarter.low, quarter.high]).all()
    empty = bootstrap(accuracy, np.array([]), np.array([], int), resamples=10)
    assert np.isnan([empty.value, empty.low, empty.high]).all()
