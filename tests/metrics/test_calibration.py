from __future__ import annotations

import json

import numpy as np
import pytest

from robustbench_df import metrics as m
from robustbench_df.errors import DataError, RunError, UsageError


def sample(n: int, seed: int = 0, scale: float = 1.0):
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=n) * 2
    return margin * scale, (rng.random(n) < m.probability(margin)).astype(int)


@pytest.mark.parametrize("planted", [0.3, 1.0, 4.0])
def test_temperature_recovers_what_was_planted(planted):
    margin, labels = sample(20_000, scale=planted)
    fitted = m.fit_temperature(margin, labels)
    assert fitted == pytest.approx(planted, rel=0.05)
    for other in (fitted * 0.9, fitted * 1.1):
        assert m.log_loss(margin / fitted, labels) < m.log_loss(margin / other, labels)


def test_temperature_at_its_edges():
    labels = np.array([0, 0, 1, 1])
    assert m.fit_temperature(labels * 4.0 - 2, labels) == 1.0, "no error: nothing tells how sure to be"
    assert m.fit_temperature(2 - labels * 4.0, labels) == pytest.approx(100.0, rel=1e-3)
    assert m.fit_temperature(np.array([-2.0, -2.0, 0.0, 2.0]), labels) == 1.0, "a tie is called fake, and rightly"
    for one_class in (np.zeros(4, int), np.array([], int)):
        with pytest.raises(DataError, match="needs both"):
            m.fit_temperature(np.zeros(len(one_class)), one_class)


def logit(p):
    p = np.asarray(p)
    return np.log(p / (1 - p))


def test_thresholds_sit_midway_and_follow_their_rule():
    margin = logit([0.1, 0.2, 0.3, 0.6, 0.7, 0.8])
    labels = np.array([0, 0, 0, 1, 0, 1])
    # Best accuracy 5/6 at .45 and at .75: the nearer to .5 is taken.
    assert m.fit_threshold(margin, labels, "accuracy") == pytest.approx(0.45)
    assert m.fit_threshold(-margin, 1 - labels, "accuracy") == pytest.approx(0.55)
    assert m.fit_threshold(margin, labels, "target_fpr", 0.0) == pytest.approx(0.75)
    assert m.fit_threshold(margin, labels, "target_fpr", 0.25) == pytest.approx(0.45)
    # Of cuts that find as many fakes, the one with fewer false alarms, though another lies nearer to .5.
    needless = m.fit_threshold(logit([0.1, 0.8, 0.9]), np.array([0, 0, 1]), "target_fpr", 0.5)
    assert needless == pytest.approx(0.85)
    many_reals = np.repeat([0, 0, 1], [90, 10, 4])
    margin = np.concatenate([np.full(90, -2.0), np.full(10, 1.0), [2.0, 1.5, 0.5, 0.5]])
    accurate = m.fit_threshold(margin, many_reals, "accuracy")
    fair = m.fit_threshold(margin, many_reals, "youden")
    assert accurate == pytest.approx(m.probability(np.array([1.0, 1.5])).mean())
    assert fair == pytest.approx(m.probability(np.array([-2.0, 0.5])).mean())


@pytest.mark.parametrize("rule", ["accuracy", "youden", "target_fpr"])
def test_a_fitted_threshold_is_optimal_and_ignores_order(rule):
    margin, labels = sample(300, seed=3)
    fitted = m.fit_threshold(margin, labels, rule, 0.1)
    order = np.random.default_rng(0).permutation(300)
    assert m.fit_threshold(margin[order], labels[order], rule, 0.1) == fitted

    def worth(threshold):
        c = m.confusion(margin, labels, threshold)
        fpr = c.fp / (c.fp + c.tn)
        if rule == "target_fpr":
            return c.recall if fpr <= 0.1 else -1.0
        return c.accuracy if rule == "accuracy" else c.recall - fpr

    assert worth(fitted) == pytest.approx(max(worth(t) for t in np.linspace(0, 1, 2001)))


def test_a_saturated_detector_can_still_be_silenced():
    margin, labels = np.array([60.0, 80.0, -3.0]), np.array([0, 1, 0])
    threshold = m.fit_threshold(margin, labels, "target_fpr", 0.0)
    assert m.confusion(margin, labels, threshold).fp == 0
    # Probabilities next to each other among the floats have no midpoint and are parted all the same.
    neighbours, labels = np.array([36.04, 36.04, 40.0]), np.array([0, 0, 1])
    threshold = m.fit_threshold(neighbours, labels)
    assert m.accuracy(neighbours, labels, threshold) == 1.0


def test_threshold_rules_are_checked():
    margin, labels = sample(20)
    with pytest.raises(UsageError, match="did you mean 'youden'"):
        m.fit_threshold(margin, labels, "yuden")
    with pytest.raises(UsageError, match="needs a target"):
        m.fit_threshold(margin, labels, "target_fpr")
    with pytest.raises(DataError, match="20 real and 0 fake"):
        m.fit_threshold(margin, np.zeros(20, int))


def test_decision_changes_nothing_by_default_and_survives_json():
    margin, labels = sample(500)
    p, called = m.Decision().apply(margin)
    np.testing.assert_array_equal(p, m.probability(margin))
    np.testing.assert_array_equal(called, (margin >= 0).astype(int))
    fitted = m.fit_decision(margin * 3 + 1, labels, rule="accuracy")
    assert (fitted.fitted_on, fitted.n) == ("cal", 500)
    assert fitted.temperature > 1.5
    assert m.Decision.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    p, called = fitted.apply(margin * 3 + 1)
    tempered = (margin * 3 + 1) / fitted.temperature
    assert np.mean(called == labels) == m.accuracy(tempered, labels, m.best_threshold(tempered, labels))


@pytest.mark.parametrize("fields", [{}, {"temperature": "warm", "threshold": 0.5, "fitted_on": "cal", "n": 3}])
def test_a_damaged_decision_is_refused(fields):
    with pytest.raises(RunError, match="fit it again"):
        m.Decision.from_dict(fields)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": np.inf}, {"threshold": 1.5}])
def test_an_impossible_decision_is_refused(wrong):
    with pytest.raises(UsageError, match="must"):
        m.Decision(**wrong)


def classes(rng: np.random.Generator, n_real: int, n_fake: int):
    labels = np.repeat([0, 1], [n_real, n_fake])
    return rng.normal(size=len(labels)) * 1.2 + 2.0 * labels - 1.0, labels


def test_band_keeps_its_promise_in_each_class_whatever_their_shares():
    rng = np.random.default_rng(0)
    real, fake = [], []
    for _ in range(200):
        band = m.fit_band(*classes(rng, 99, 49), alpha=0.1)
        margin, labels = classes(rng, 50, 200)
        parts = m.breakdown(lambda x, y, band=band: m.score_band(band, x, y).coverage, margin, labels)
        real.append(parts["real"].value)
        fake.append(parts["fake"].value)
    # Exactly rank / (n + 1) on average: 90 / 100 and 45 / 50.
    assert np.mean(real) == pytest.approx(0.9, abs=0.012)
    assert np.mean(fake) == pytest.approx(0.9, abs=0.012)


def test_band_scores_by_hand():
    band = m.Band(low=-1.0, high=1.0, alpha=0.1, n=10)
    margin, labels = np.array([-2.0, 0.0, 3.0, 4.0]), np.array([0, 1, 1, 0])
    np.testing.assert_array_equal(band.sets(margin), [[1, 0], [1, 1], [0, 1], [0, 1]])
    scores = m.score_band(band, margin, labels)
    assert scores == m.BandScores(coverage=0.75, size=1.25, abstained=0.25, error=pytest.approx(1 / 3), n=4)
    empty_between = m.score_band(m.Band(low=1.0, high=-1.0, alpha=0.5, n=10), margin, labels)
    assert (empty_between.size, empty_between.abstained) == (0.75, 0.25)
    nothing = m.score_band(band, margin[:0], labels[:0])
    assert np.isnan(nothing.coverage)


def test_band_abstains_more_for_a_smaller_target_and_always_for_too_few_images():
    rng = np.random.default_rng(1)
    margin, labels = classes(rng, 500, 500)
    shares = [m.score_band(m.fit_band(margin, labels, a), margin, labels) for a in (0.2, 0.05, 0.01)]
    assert shares[0].abstained < shares[1].abstained < shares[2].abstained
    few = m.fit_band(np.array([-1.0, -2.0, 1.0]), np.array([0, 0, 1]), alpha=0.05)
    assert few.sets(margin).all()
    exact = m.fit_band(np.append(np.arange(19.0), np.arange(19.0)), np.repeat([0, 1], 19), alpha=0.05)
    assert (exact.high, exact.low) == (18.0, 0.0), "19 images are just enough for 5%"
    with pytest.raises(UsageError, match="alpha 5"):
        m.fit_band(margin, labels, alpha=5)


def test_a_band_is_kept_as_json_infinite_ends_too():
    for band in (m.Band(-1.5, 2.0, 0.1, 40, "oof"), m.Band(-np.inf, np.inf, 0.05, 3)):
        text = json.dumps(band.to_dict(), allow_nan=False)
        assert m.Band.from_dict(json.loads(text)) == band
    with pytest.raises(RunError, match="fit it again"):
        m.Band.from_dict({"low": 1.0})


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.83, 0.0, 1.0])
def test_a_deployed_band_says_the_same_of_deployed_margins(threshold):
    rng = np.random.default_rng(2)
    margin, labels = classes(rng, 200, 200)
    decision, band = m.Decision(1.7, threshold), m.fit_band(margin, labels, 0.1)
    deployed = margin / 1.7 - decision.offset
    np.testing.assert_array_equal(band.deployed(decision).sets(deployed), band.sets(margin))
    np.testing.assert_array_equal(deployed >= 0, decision.apply(margin)[1] == 1)


def test_cross_fitted_bands_keep_their_promise_and_have_not_seen_the_fold():
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        margin, labels = classes(rng, 99, 99)
        fold = rng.permutation(len(labels)) % 3
        found.append(m.score_cross_fitted(margin, labels, fold, margin, labels, fold, 0.1))
    assert np.mean([scores.coverage for scores in found]) == pytest.approx(0.9, abs=0.012)
    assert all(scores.n == 198 for scores in found)
    # By hand: fold 0 is judged by fold 1 alone.
    margin, labels, fold = np.array([5.0, -5.0, -1.0, 1.0]), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    own = m.score_band(m.fit_band(margin[2:], labels[2:], 0.5), margin[:2], labels[:2])
    other = m.score_band(m.fit_band(margin[:2], labels[:2], 0.5), margin[2:], labels[2:])
    both = m.score_cross_fitted(margin, labels, fold, margin, labels, fold, 0.5)
    assert both.coverage == (own.coverage + other.coverage) / 2 == 0.5
