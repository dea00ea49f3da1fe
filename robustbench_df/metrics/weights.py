"""The weights of an ensemble's members.

``uniform``, ``accuracy`` and ``logodds`` mix the members' probabilities; ``stacked`` is a logistic regression
on their margins. Weights are fitted on validation logits; `cross_fitted` evaluates a weighting on the same images, each
with weights that were fitted without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robustbench_df.errors import DataError, RunError
from robustbench_df.metrics.intervals import Groups, units
from robustbench_df.metrics.scores import Floats, Ints, accuracy, checked, fittable, margins
from robustbench_df.registry import Registry


@dataclass(frozen=True)
class EnsembleWeights:
    """Weights of M members, at least 0 and summing to 1.

    Without ``coefficients`` the ensemble's probability is the weighted mean of the members'. With them
    (``stacked``) its margin is ``intercept + Σ coefficient_m · margin_m``, and ``weights`` are the coefficients as
    shares, for display.
    """

    kind: str
    weights: tuple[float, ...]
    coefficients: tuple[float, ...] = ()
    intercept: float = 0.0

    def combine(self, logits: Floats) -> Floats:
        """Return the ensemble's log-probabilities ``[N, 2]`` from its members' logits ``[M, N, 2]``."""
        logits = _members(logits)
        if len(logits) != len(self.weights):
            raise DataError(f"logits of {len(logits)} members met {len(self.weights)} weights; give one per member")
        if self.coefficients:
            return _log_probabilities(self.intercept + np.tensordot(self.coefficients, margins(logits), 1))
        weights = np.asarray(self.weights)
        heard = weights > 0
        log_weights = np.log(weights[heard])[:, None, None]
        mixed: Floats = np.logaddexp.reduce(_log_probabilities(margins(logits[heard])) + log_weights, axis=0)
        return mixed

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EnsembleWeights:
        """Read the output of `to_dict`; raise `RunError` for a missing key or a value of another type."""
        try:
            return cls(
                kind=str(fields["kind"]),
                weights=tuple(float(w) for w in fields["weights"]),
                coefficients=tuple(float(c) for c in fields["coefficients"]),
                intercept=float(fields["intercept"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"ensemble weights {dict(fields)} cannot be read ({error!r}); fit them again") from error


def _members(logits: Floats) -> Floats:
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 3 or logits.shape[2] != 2 or not len(logits):
        raise DataError(f"member logits have shape {logits.shape}; give [M, N, 2] with at least one member")
    return logits


def _log_probabilities(margin: Floats) -> Floats:
    return -np.stack([np.logaddexp(0.0, margin), np.logaddexp(0.0, -margin)], axis=-1)


Weigher = Callable[[Floats, Ints], EnsembleWeights]
WEIGHTINGS: Registry[Weigher] = Registry("ensemble weighting")
"""Weighting methods, each a function of member margins ``[M, N]`` and labels ``[N]``."""


def _shares(kind: str, raw: Floats) -> EnsembleWeights:
    """Scale to a sum of 1; uniform if no entry is above 0."""
    total = float(raw.sum())
    shares = raw / total if total > 0 else np.full(len(raw), 1 / len(raw))
    return EnsembleWeights(kind, tuple(shares.tolist()))


def _accuracies(margin: Floats, labels: Ints) -> Floats:
    return np.array([accuracy(row, labels) for row in margin])


@WEIGHTINGS.register("uniform")
def uniform(margin: Floats, _labels: Ints) -> EnsembleWeights:
    """Weigh all members equally."""
    return _shares("uniform", np.ones(len(margin)))


@WEIGHTINGS.register("accuracy")
def accuracy_weights(margin: Floats, labels: Ints) -> EnsembleWeights:
    """Weigh by accuracy at .5. Accuracies lie close together, so this differs little from uniform."""
    return _shares("accuracy", _accuracies(margin, labels))


@WEIGHTINGS.register("logodds")
def logodds(margin: Floats, labels: Ints) -> EnsembleWeights:
    """Weigh by ``log(acc / (1 - acc))``, at least 0: optimal for independent voters (Nitzan & Paroush 1982).

    The accuracy of k correct out of n is taken as ``(k + .5) / (n + 1)``, so a perfect member does not silence the
    others.
    """
    n = len(labels)
    p = (_accuracies(margin, labels) * n + 0.5) / (n + 1)
    return _shares("logodds", np.maximum(np.log(p / (1 - p)), 0.0))


_PENALTY = 0.1
"""Strength of stacking's L2 penalty, in images: enough for a finite optimum, too little to flatten the
probabilities."""


@WEIGHTINGS.register("stacked")
def stacked(margin: Floats, labels: Ints) -> EnsembleWeights:
    """Regress the label on the members' margins: logistic, non-negative coefficients, an intercept, slight L2.

    Stacking is due to Wolpert (1992). Coefficients are non-negative, following Breiman 1996: a member with a negative
    coefficient overfits and gives an attacker a lever. The penalty, ``_PENALTY |c|² / 2n`` on margins scaled to unit
    mean square, makes the optimum finite on separable data and matters little elsewhere. The scale is fitted too, so
    stacking also calibrates.
    """
    from scipy.optimize import minimize

    for row in margin:
        fittable(row, labels, "stacking")
    scale = np.sqrt(np.mean(margin**2, axis=1))
    scale[scale == 0] = 1.0  # a member whose margins are all 0 gets the coefficient 0 from the penalty
    design = np.vstack([margin / scale[:, None], np.ones(len(labels))])
    sign = 2.0 * labels - 1.0
    ridge = np.append(np.full(len(margin), _PENALTY / len(labels)), 0.0)

    def loss(theta: Floats) -> tuple[float, Floats]:
        signed = sign * (theta @ design)
        wrong = np.exp(-np.logaddexp(0.0, signed))  # probability of the other label
        value = np.logaddexp(0.0, -signed).mean() + 0.5 * (ridge * theta**2).sum()
        return float(value), ridge * theta - design @ (sign * wrong) / len(labels)

    start = np.append(np.full(len(margin), 1 / len(margin)), 0.0)
    bounds = [(0.0, None)] * len(margin) + [(None, None)]
    options = {"ftol": 1e-12, "gtol": 1e-8, "maxiter": 1000}
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    coefficients = found[:-1] / scale
    shares = _shares("stacked", coefficients).weights
    return EnsembleWeights("stacked", shares, tuple(coefficients.tolist()), float(found[-1]))


def fit_weights(kind: str, logits: Floats, labels: Ints) -> EnsembleWeights:
    """Fit the weights of M members from their logits ``[M, N, 2]`` and the labels ``[N]``.

    Raises:
        UsageError: for an unknown kind (`WEIGHTINGS` lists them).
        DataError: for no images, NaN logits, labels other than 0 and 1, or one class where both are needed.
    """
    weigh = WEIGHTINGS[kind]
    margin, labels = margins(_members(logits)), np.asarray(labels)
    if not len(labels):
        raise DataError(f"'{kind}' weights cannot be fitted on no images; give the validation split's logits")
    for row in margin:
        _, checked_labels = checked(row, labels)
    return weigh(margin, checked_labels)


def cross_fitted(
    kind: str,
    logits: Floats,
    labels: Ints,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Groups | None = None,
) -> Floats:
    """Return the ensemble's log-probabilities ``[N, 2]``, each image's from weights fitted without its fold.

    Folds have similar shares of both classes and never divide a group. Score the result for a fair comparison of
    weightings; ship the weights that `fit_weights` fits on all images.
    """
    logits, labels = _members(logits), np.asarray(labels)
    fold = _folds(labels, folds, seed, groups)
    combined = np.empty(logits.shape[1:])
    for k in range(folds):
        held = fold == k
        combined[held] = fit_weights(kind, logits[:, ~held], labels[~held]).combine(logits[:, held])
    return combined


def _folds(labels: Ints, folds: int, seed: int, groups: Groups | None) -> Ints:
    """Deal shuffled units to the folds in turn, stratum after stratum; return each image's fold."""
    parts = units(labels, groups)
    rng = np.random.default_rng(seed)
    # Units with reals are adjacent in this order, and so are units with fakes: two such neighbours get different folds.
    dealt = np.concatenate([rng.permutation(stratum) for stratum in parts.strata])
    if not 2 <= folds <= len(dealt):
        raise DataError(f"{folds} folds cannot be made of {len(dealt)} images or groups; give 2 to {len(dealt)}")
    fold = np.empty(len(labels), np.intp)
    for k in range(folds):
        fold[parts.images(dealt[k::folds])] = k
    return fold
