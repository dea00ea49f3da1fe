"""The fast bootstrap draws the same images as the plain one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from robustbench_df.metrics import resampling
from robustbench_df.metrics.intervals import auc_interval, bootstrap, percentile_interval, wilson
from robustbench_df.metrics.resampling import Outcomes, bootstrap_auc, bootstrap_scores, resampled_means
from robustbench_df.metrics.scores import Floats, Ints, auc, eer, f1, tpr_at_fpr


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


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kept", [0, resampling.KEPT])
def test_auc_and_means_are_those_of_the_plain_bootstrap(
    grouped: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "KEPT", kept)
    margin, verdict, labels = some(90)
    options: dict[str, Any] = {
        "groups": [f"g{k // 4}" if k % 5 else "" for k in range(90)] if grouped else None,
        "resamples": 60,
        "seed": 5,
    }
    got, wanted = bootstrap_auc(margin, labels, **options), bootstrap(auc, margin, labels, **options)
    assert (got.value, got.low, got.high) == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-12)
    assert (got.n, got.method) == (wanted.n, wanted.method)
    columns = np.stack([verdict == labels, margin], axis=1).astype(float)
    for k, replicates in enumerate(resampled_means(columns, labels, **options).T):
        wanted = bootstrap(lambda x, _: float(x.mean()), columns[:, k], labels, **options)
        found = percentile_interval(wanted.value, replicates, 90, wanted.method)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_one_class_has_no_auc_and_no_images_have_no_mean() -> None:
    assert np.isnan(bootstrap_auc(np.arange(4.0), np.zeros(4, int)).value)
    assert np.isnan(bootstrap_auc(np.zeros(0), np.zeros(0, int)).value)
    assert np.isnan(resampled_means(np.zeros((0, 2)), np.zeros(0, int), resamples=3)).all()


def test_each_score_is_covered() -> None:
    """Normal margins, so that the truth is known; the TPR at 1% needs the most images (see `bootstrap_scores`)."""
    rng, shift, labels = np.random.default_rng(7), 3.0, np.repeat([0, 1], 200)
    truth = {
        "f1": norm.cdf(shift / 2),
        "eer": norm.cdf(-shift / 2),
        "tpr_at_1pct_fpr": norm.cdf(shift - norm.ppf(0.99)),
    }
    hits: dict[str, list[bool]] = {name: [] for name in truth}
    for seed in range(100):
        margin = rng.normal(size=400) + shift * (labels - 0.5)
        found = bootstrap_scores(margin, (margin >= 0).astype(int), labels, resamples=120, seed=seed)
        for name, value in truth.items():
            hits[name].append(found[name].low <= value <= found[name].high)
    assert all(0.87 <= np.mean(own) <= 0.99 for own in hits.values()), {k: np.mean(v) for k, v in hits.items()}


def test_an_auc_of_groups_is_covered_where_delong_is_overconfident() -> None:
    rng, plain, cluster = np.random.default_rng(8), [], []
    names, labels = [f"g{k // 5}" for k in range(200)], np.repeat(np.arange(40) % 2, 5)
    truth = norm.cdf(2 / np.sqrt(2 * 1.09))
    for seed in range(100):
        margin = np.repeat(rng.normal(size=40), 5) + 0.3 * rng.normal(size=200) + 2.0 * labels
        for found, kept in (
            (bootstrap_auc(margin, labels, groups=names, resamples=120, seed=seed), cluster),
            (auc_interval(margin, labels), plain),
        ):
            kept.append(found.low <= truth <= found.high)
    assert 0.83 <= np.mean(cluster) <= 0.99  # 20 groups of a class
    assert np.mean(plain) < 0.75


def severities(rng: np.random.Generator, groups: int, size: int) -> tuple[Floats, Ints, list[str]]:
    """Verdicts ``[N, 5]`` of five severities on the same images, which are alike within a group and over severities."""
    labels = np.repeat(np.arange(groups) % 2, size)
    ease = np.repeat(rng.normal(size=groups), size) + 0.5 * rng.normal(size=groups * size)
    right = ease[:, None] + 0.3 * rng.normal(size=(groups * size, 5)) > -1 + 0.2 * np.arange(5)
    return right.astype(float), labels, [f"g{k // size}" for k in range(groups * size)]


@pytest.mark.parametrize(("groups", "size"), [(150, 1), (50, 4)])
def test_a_mean_over_severities_is_covered_by_drawing_images_and_not_by_drawing_cells(groups: int, size: int) -> None:
    truth = np.mean([float(severities(np.random.default_rng(1), 40_000, 1)[0].mean())])
    rng, hits, cells = np.random.default_rng(2), [], []
    for seed in range(100):
        right, labels, names = severities(rng, groups, size)
        outcomes = Outcomes(right[:, 0], labels, names if size > 1 else None)
        replicates = resampled_means(right.mean(1)[:, None], labels, groups=outcomes.groups, resamples=120, seed=seed)
        found = outcomes.interval(float(right.mean()), replicates[:, 0])
        hits.append(found.low <= truth <= found.high)
        naive = wilson(int(right.sum()), right.size)  # as if five severities were five times the images
        cells.append(naive.low <= truth <= naive.high)
    assert 0.87 <= np.mean(hits) <= 0.99
    assert np.mean(cells) < np.mean(hits) - 0.1


def test_a_ratio_of_two_detectors_errors_is_covered_by_drawing_both_on_the_same_images() -> None:
    """As mCE is: mean over two corruptions of error over the reference's."""

    def wrong(rng: np.random.Generator, n: int) -> Floats:
        ease = rng.normal(size=(n, 1)) + 0.6 * rng.normal(size=(n, 4))
        return (ease < np.array([-0.3, 0.0, -0.6, -0.4])).astype(float)

    def mce(errors: Floats) -> Floats:
        found: Floats = (errors[:, :2] / errors[:, 2:]).mean(1)
        return found

    truth = float(mce(wrong(np.random.default_rng(1), 400_000).mean(0, keepdims=True))[0])
    rng, labels, hits = np.random.default_rng(9), np.repeat([0, 1], 100), []
    for seed in range(100):
        errors = wrong(rng, 200)
        replicates = mce(resampled_means(errors, labels, resamples=120, seed=seed))
        found = percentile_interval(float(mce(errors.mean(0, keepdims=True))[0]), replicates, 200, "bootstrap")
        hits.append(found.low <= truth <= found.high)
    assert 0.87 <= np.mean(hits) <= 0.99


def test_where_all_came_out_alike_as_many_trials_count_as_units_were_drawn() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    alone = Outcomes(np.ones(6), labels, None)
    together = Outcomes(np.ones(6), labels, ["a", "a", "b", "c", "c", "c"])
    for outcomes, units in ((alone, 6), (together, 3)):
        found = outcomes.interval(1.0, outcomes.resampled(outcomes.right[:, None])[:, 0])
        assert (found.low, found.high, found.n) == (wilson(units, units).low, 1.0, 6)
