from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn import metrics as reference

from robustbench_df.errors import DataError
from robustbench_df.metrics.calibration_error import ece
from robustbench_df.metrics.scores import (
    Confusion,
    accuracy,
    auc,
    balanced_accuracy,
    brier,
    confusion,
    eer,
    f1,
    log_loss,
    margins,
    midranks,
    precision,
    probability,
    recall,
    roc_curve,
    tpr_at_fpr,
)
from robustbench_df.metrics.thresholds import best_threshold, threshold_gap

BOTH_CLASSES = (auc, eer, tpr_at_fpr, balanced_accuracy, threshold_gap)
ANY_IMAGES = (accuracy, log_loss, brier, ece)


def sample(n: int = 400, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    margin = rng.normal(size=n) * 2 + labels * 1.5
    return (np.round(margin) if ties else margin), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_sklearn(ties, seed):
    margin, labels = sample(seed=seed, ties=ties)
    p = probability(margin)
    called = p >= 0.5
    expected = {
        auc: reference.roc_auc_score(labels, margin),
        log_loss: reference.log_loss(labels, p),
        brier: reference.brier_score_loss(labels, p),
        accuracy: reference.accuracy_score(labels, called),
        balanced_accuracy: reference.balanced_accuracy_score(labels, called),
        precision: reference.precision_score(labels, called),
        recall: reference.recall_score(labels, called),
        f1: reference.f1_score(labels, called),
    }
    for function, value in expected.items():
        assert function(margin, labels) == pytest.approx(value, abs=1e-12), function.__name__
    fpr, tpr, thresholds = reference.roc_curve(labels, margin, drop_intermediate=False)
    for ours, theirs in zip(roc_curve(margin, labels), (fpr, tpr, thresholds), strict=True):
        np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize("ties", [False, True])
def test_equal_error_rate_is_where_scipy_finds_the_root(ties):
    margin, labels = sample(seed=4, ties=ties)
    fpr, tpr, _ = reference.roc_curve(labels, margin, drop_intermediate=False)
    root = brentq(lambda rate: 1 - rate - np.interp(rate, fpr, tpr), 0, 1, xtol=1e-12)
    assert eer(margin, labels) == pytest.approx(root, abs=1e-9)


def test_confusion_counts_by_hand_and_threshold_is_inclusive():
    margin = np.array([-2.0, 0.0, 3.0, -1.0, 5.0])
    labels = np.array([0, 0, 0, 1, 1])
    assert confusion(margin, labels) == Confusion(tn=1, fp=2, fn=1, tp=1)
    assert confusion(margin, labels, threshold=0.0).fp == 3
    never = confusion(np.full(5, 1e6), labels, threshold=1.0)
    assert (never.fp, never.tp) == (0, 0), "a threshold of 1 means never, even for a saturated probability"


def test_probability_is_safe_and_exact():
    margin = np.array([-1e4, -800.0, -40.0, 0.0, 40.0, 1e4, np.inf, -np.inf])
    p = probability(margin)
    assert p[3] == 0.5
    assert np.all((p >= 0) & (p < 1))
    assert p[2] == pytest.approx(np.exp(-40.0), rel=1e-12), "the small side keeps its relative precision"
    small = np.linspace(-30, 30, 101)
    np.testing.assert_allclose(probability(small) + probability(-small), 1.0, rtol=1e-15)


def test_log_loss_of_a_saturated_error_is_its_margin():
    assert log_loss(np.array([1000.0]), np.array([0])) == pytest.approx(1000.0)
    assert log_loss(np.array([np.inf, -1.0]), np.array([0, 0])) == np.inf


def test_margins_take_fake_minus_real():
    np.testing.assert_array_equal(margins(np.array([[1.0, 3.0], [2.0, -1.0]])), [2.0, -3.0])
    with pytest.raises(DataError, match="real, fake"):
        margins(np.zeros((4, 3)))


def test_midranks_share_ties():
    np.testing.assert_array_equal(midranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])


@pytest.mark.parametrize("function", [auc, eer, tpr_at_fpr])
def test_ranking_scores_ignore_monotone_transforms_even_saturated(function):
    margin, labels = sample()
    for transformed in (margin**3, 100 * margin + 7, np.arctan(margin)):
        assert function(transformed, labels) == pytest.approx(function(margin, labels), abs=1e-12)
    assert function(-margin, labels) != pytest.approx(function(margin, labels), abs=0.05)


def test_swapping_the_classes_and_the_sign_changes_nothing():
    margin, labels = sample()
    for function in (auc, eer, accuracy, balanced_accuracy, log_loss, brier, ece):
        assert function(-margin, 1 - labels) == pytest.approx(function(margin, labels), abs=1e-6)
    assert auc(margin, 1 - labels) == pytest.approx(1 - auc(margin, labels))


def test_closed_forms():
    labels = np.array([0, 0, 1, 1])
    assert auc(np.zeros(4), labels) == 0.5
    assert eer(np.zeros(4), labels) == 0.5
    assert eer(np.array([-1.0, -2.0, 1.0, 2.0]), labels) == 0.0
    assert eer(np.array([1.0, 2.0, -1.0, -2.0]), labels) == 1.0
    assert auc(np.array([0.0, 2.0, 1.0, 3.0]), labels) == 0.75
    assert log_loss(np.zeros(4), labels) == pytest.approx(np.log(2))
    assert brier(np.zeros(4), labels) == 0.25


def test_normal_scores_meet_their_theory():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 100_000)
    margin = rng.normal(size=200_000) + 2.0 * labels
    assert auc(margin, labels) == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.003)
    assert eer(margin, labels) == pytest.approx(norm.cdf(-1), abs=0.003)
    assert tpr_at_fpr(margin, labels, 0.01) == pytest.approx(norm.cdf(2 - norm.ppf(0.99)), abs=0.01)


def test_tpr_at_fpr_is_the_largest_allowed_and_not_interpolated():
    labels = np.repeat([0, 1], [100, 4])
    margin = np.append(np.arange(100.0), [200.0, 99.5, 98.5, 50.5])
    assert tpr_at_fpr(margin, labels, 0.01) == 0.75, "one false alarm in 100 is exactly 1%"
    assert tpr_at_fpr(margin, labels, 0.0099) == 0.5, "less than 1 / n_real allows none"
    assert tpr_at_fpr(margin, labels, 0.001) == 0.5
    assert tpr_at_fpr(margin, labels, 1.0) == 1.0


def test_undefined_is_nan_and_never_a_half():
    margin = np.array([-1.0, 0.5, 2.0])
    for labels in (np.zeros(3, int), np.ones(3, int)):
        for function in BOTH_CLASSES:
            assert np.isnan(function(margin, labels)), function.__name__
        for function in ANY_IMAGES:
            assert np.isfinite(function(margin, labels)), function.__name__
    empty = np.array([]), np.array([], int)
    for function in (*BOTH_CLASSES, *ANY_IMAGES, precision, recall, f1, best_threshold):
        assert np.isnan(function(*empty)), function.__name__
    assert np.isnan(precision(-np.ones(2), np.array([0, 1])))
    assert f1(-np.ones(2), np.array([0, 1])) == 0.0
    assert np.isnan(recall(margin, np.zeros(3, int)))
    assert np.isnan(roc_curve(margin, np.zeros(3, int)).tpr).all()


@pytest.mark.parametrize(
    ("margin", "labels", "words"),
    [
        ([0.0, 1.0], [0], "one entry per image"),
        ([[0.0, 1.0]], [[0, 1]], "one entry per image"),
        ([0.0, np.nan], [0, 1], "1 of 2 margins are NaN"),
        ([0.0, 1.0], [0, -1], "unlabelled"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(margin, labels, words):
    with pytest.raises(DataError, match=words) as caught:
        auc(np.array(margin), np.array(labels))
    assert "\n" not in str(caught.value)


def test_best_threshold_beats_every_other_and_sits_midway():
    margin, labels = sample(60, seed=3)
    p = probability(margin)
    best = best_threshold(margin, labels)
    tried = [accuracy(margin, labels, t) for t in np.concatenate([[0.0, 1.0], p, p + 1e-12])]
    assert accuracy(margin, labels, best) == max(tried)
    below, above = p[p < best].max(), p[p >= best].min()
    assert best == pytest.approx((below + above) / 2)
    order = np.random.default_rng(0).permutation(60)
    assert best_threshold(margin[order], labels[order]) == best


def test_threshold_gap_tells_a_moved_threshold_from_a_lost_ranking():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 2000)
    margin = rng.normal(size=2000) + 4.0 * labels - 2.0
    moved, lost = margin + 4, rng.permutation(margin)
    assert threshold_gap(margin, labels) < 0.03
    assert threshold_gap(moved, labels) > 0.1
    assert threshold_gap(lost, labels) < 0.05
    assert accuracy(moved, labels) < accuracy(margin, labels) - 0.1
    assert threshold_gap(moved, labels, best_threshold(moved, labels)) == 0.0


def test_import_leaves_heavy_libraries_out():
    code = (
        "import sys;"
        "from robustbench_df.metrics import calibration, compare, intervals, resampling, scores, weights;"
        "print([n for n in ('torch', 'sklearn', 'scipy', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
