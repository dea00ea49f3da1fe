from __future__ import annotations

import json

import numpy as np
import pytest

from robustbench_df.errors import DataError, RunError, UsageError
from robustbench_df.metrics.calibration import fit_temperature
from robustbench_df.metrics.scores import log_loss, margins
from robustbench_df.metrics.weights import WEIGHTINGS, EnsembleWeights, cross_fitted, fit_weights

KINDS = ["uniform", "accuracy", "logodds", "stacked"]


def members(n: int = 600, skills=(2.0, 1.0, 0.0), seed: int = 0):
    """Logits ``[M, N, 2]`` of independent members of given skill, with an offset that must not matter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    margin = np.stack([s * (2 * labels - 1) + rng.normal(size=n) * 1.5 for s in skills])
    offset = rng.normal(size=margin.shape)
    return np.stack([offset - margin / 2, offset + margin / 2], axis=-1), labels


def nll(logits, labels):
    return log_loss(margins(logits), labels)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_shares_and_combine_into_log_probabilities(kind):
    logits, labels = members()
    fitted = fit_weights(kind, logits, labels)
    assert fitted.kind == kind
    assert sum(fitted.weights) == pytest.approx(1.0)
    assert min(fitted.weights) >= 0
    combined = fitted.combine(logits)
    assert combined.shape == (600, 2)
    np.testing.assert_allclose(np.exp(combined).sum(axis=1), 1.0)
    assert EnsembleWeights.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    if kind != "uniform":
        assert fitted.weights[0] > fitted.weights[1] > fitted.weights[2], "the abler member weighs more"


def test_weights_by_hand():
    labels = np.array([0] * 5 + [1] * 5)
    sign = 2 * labels - 1
    wrong = np.ones((3, 10))
    wrong[1, :2] = -1  # 80% right
    wrong[2, ::2] = -1  # 50% right
    margin = wrong * sign
    logits = np.stack([-margin / 2, margin / 2], axis=-1)
    assert fit_weights("accuracy", logits, labels).weights == pytest.approx(np.array([1, 0.8, 0.5]) / 2.3)
    odds = np.log([10.5 / 0.5, 8.5 / 2.5, 1.0])
    assert fit_weights("logodds", logits, labels).weights == pytest.approx(odds / odds.sum())
    hopeless = fit_weights("logodds", -logits, labels)
    assert hopeless.weights == pytest.approx((1 / 3,) * 3), "nobody above chance: all alike"


def test_mixture_is_the_mean_of_probabilities_and_survives_saturation():
    logits, _ = members(50)
    weights = EnsembleWeights("given", (0.5, 0.2, 0.3))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.exp(weights.combine(logits)), np.einsum("m,mnk->nk", weights.weights, p))
    extreme = np.array([[[0.0, 2000.0]], [[0.0, -2000.0]]])
    np.testing.assert_allclose(EnsembleWeights("given", (0.25, 0.75)).combine(extreme), np.log([[0.75, 0.25]]))
    only = EnsembleWeights("given", (1.0, 0.0)).combine(extreme)
    np.testing.assert_allclose(only, [[-2000.0, 0.0]])


@pytest.mark.parametrize("seed", range(3))
def test_stacked_is_no_worse_than_the_best_member_and_calibrates(seed):
    logits, labels = members(seed=seed)
    combined = fit_weights("stacked", logits, labels).combine(logits)
    assert nll(combined, labels) < min(nll(member, labels) for member in logits)
    assert fit_temperature(margins(combined), labels) == pytest.approx(1.0, abs=0.05)


def test_stacked_is_sklearns_penalised_regression_where_no_bound_binds():
    from sklearn.linear_model import LogisticRegression

    logits, labels = members(skills=(2.0, 1.0, 0.5))
    margin = margins(logits)
    scale = np.sqrt(np.mean(margin**2, axis=1))
    theirs = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000).fit((margin / scale[:, None]).T, labels)
    ours = fit_weights("stacked", logits, labels)
    np.testing.assert_allclose(ours.coefficients, theirs.coef_[0] / scale, rtol=1e-3)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_stacked_never_subtracts_a_member_and_bears_separable_data():
    logits, labels = members()
    contrary = np.concatenate([logits, logits[:1, :, ::-1]])
    assert min(fit_weights("stacked", contrary, labels).coefficients) >= 0
    sure = np.stack([np.zeros(20), np.repeat([-50.0, 50.0], 10)], axis=-1)[None]
    fitted = fit_weights("stacked", sure, np.repeat([0, 1], 10))
    assert np.isfinite(fitted.coefficients).all()
    silent = fit_weights("stacked", np.zeros((2, 20, 2)), np.repeat([0, 1], 10))
    assert silent.coefficients == pytest.approx((0, 0), abs=1e-9)
    assert np.isfinite(silent.combine(np.zeros((2, 5, 2)))).all()


def test_cross_fitting_takes_the_optimism_out():
    rng = np.random.default_rng(7)
    labels = np.arange(60) % 2
    noise = rng.normal(size=(25, 60, 2)) * 2  # members that know nothing
    seen = fit_weights("stacked", noise, labels).combine(noise)
    judged = cross_fitted("stacked", noise, labels)
    assert nll(seen, labels) < np.log(2) - 0.02, "fitted on what it is judged by, noise looks useful"
    assert nll(judged, labels) > np.log(2)


def test_cross_fitting_never_uses_the_judged_image_and_obeys_its_seed():
    logits, labels = members(60)
    before = cross_fitted("stacked", logits, labels, seed=3)
    np.testing.assert_array_equal(before, cross_fitted("stacked", logits, labels, seed=3))
    assert not np.allclose(before, cross_fitted("stacked", logits, labels, seed=4))
    # Uniform weights are fitted to nothing: cross-fitting must put every image back in its own place.
    together = fit_weights("uniform", logits, labels).combine(logits)
    np.testing.assert_allclose(cross_fitted("uniform", logits, labels), together)


def test_cross_fitting_keeps_groups_whole_and_classes_in_every_fit(monkeypatch):
    logits, labels = members(40)
    groups = np.array([f"g{k // 4}" for k in range(40)])
    fits = []
    honest = WEIGHTINGS["uniform"]

    def spy(margin, seen):
        fits.append(margin[0])
        return honest(margin, seen)

    monkeypatch.setitem(WEIGHTINGS._entries, "uniform", spy)
    cross_fitted("uniform", logits, labels, groups=groups)
    margin = margins(logits[0])
    for seen in fits:
        inside = np.isin(margin, seen)
        assert all(len(set(inside[groups == g])) == 1 for g in np.unique(groups))
    assert sum(len(seen) for seen in fits) == 4 * 40, "each image is in four of the five fits"
    # Two images of one class still leave one in every fit.
    rare = np.append(np.zeros(38, int), [1, 1])
    assert np.isfinite(cross_fitted("stacked", logits, rare)).all()


def test_wrong_input_is_named():
    logits, labels = members(20)
    with pytest.raises(UsageError, match="did you mean 'stacked'"):
        fit_weights("stakced", logits, labels)
    with pytest.raises(DataError, match="give \\[M, N, 2\\]"):
        fit_weights("uniform", logits[0], labels)
    with pytest.raises(DataError, match="no images"):
        fit_weights("uniform", logits[:, :0], labels[:0])
    with pytest.raises(DataError, match="20 real and 0 fake"):
        fit_weights("stacked", logits, np.zeros(20, int))
    with pytest.raises(DataError, match="1 of 20 margins are infinite"):
        fit_weights("stacked", np.where(logits == logits[0, 0, 0], np.inf, logits), labels)
    with pytest.raises(DataError, match="2 members met 3 weights"):
        fit_weights("uniform", logits, labels).combine(logits[:2])
    with pytest.raises(DataError, match="30 folds"):
        cross_fitted("uniform", logits, labels, folds=30)
    with pytest.raises(RunError, match="fit them again"):
        EnsembleWeights.from_dict({"kind": "uniform"})
