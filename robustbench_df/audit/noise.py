"""Label noise, estimated from out-of-fold probabilities: how many labels are wrong, and which.

If real pictures are labelled fake at a rate ρ₀ and fakes real at ρ₁, the labels at a score s obey P(label = fake | s) =
ρ₀ + (1 − ρ₀ − ρ₁) P(fake | s) (Natarajan et al. 2013, NeurIPS, "Learning with Noisy Labels"). Where the classifier is
most confident, labels still contradict it at those rates, while its own errors vanish. With P(fake | s) as a logistic
curve in its margin (Platt 1999), the two asymptotes are fitted by maximum likelihood. On CIFAKE, whose labels are right
by construction, with the built-in classifier at an AUROC of .80 to .97 and 0 to 10% of the labels flipped, the 95%
interval contained the true rate in nine of ten cases.

Confident learning (Northcutt, Jiang & Chuang 2021, JAIR 70, 1373-1411) counts the confident disagreements instead. It
ranks suspects well and is computed too. But as an estimate it also counts the confident errors of the classifier
itself: 2.7 to 7% on CIFAKE without a single wrong label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditCheck, AuditFinding, Figure, Severity
from robustbench_df.audit.light import folds_of, light_classifier, light_features, out_of_fold
from robustbench_df.audit.statistics import Rows
from robustbench_df.data.components import components
from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.errors import DataError, RunError
from robustbench_df.metrics.intervals import Interval, auc_interval, bootstrap, wilson
from robustbench_df.metrics.scores import Floats, Ints, margins, probability
from robustbench_df.wording import interval

if TYPE_CHECKING:
    from robustbench_df.run import Run

MOST_IMAGES = 20_000
"""Most images that the built-in classifier uses, evenly spaced within each class."""
LEAST_IMAGES = 250
"""Images of each class below which nothing is estimated: the interval would hold anything from 0 to 5%."""
LEAST_AUC = 0.8
"""Least out-of-fold AUROC, at its lower end, of a classifier that judges labels; with less, the asymptotes cannot be
seen."""
WARN, FAIL = 0.01, 0.1
"""Share of wrong labels, at its lower end, from which the finding warns and from which it fails.

Good detectors differ by a point or two of accuracy, so one wrong label in a hundred already decides between them
(Northcutt, Athalye & Mueller 2021, NeurIPS, found 3.3% on average in ten test sets, enough to change rankings). At one
in ten no accuracy above 90% can be believed.
"""
RESAMPLES = 100
_BINS = 256
"""Quantile bins of the margin in which labels are counted; more bins do not change the third digit."""
_STEEPEST = 5.0
"""Log of the steepest slope allowed, per standard deviation of the margin: practically a step."""

_NOISE = AuditCheck("label-noise", "Labels are right")


def confident_joint(p: Floats, labels: Ints) -> NDArray[np.float64]:
    """Estimate the joint distribution of label and true class from out-of-fold P(fake) ``[N]``: ``[2, 2]``, sums to 1.

    Raises:
        DataError: a class is missing.
    """
    of_class = np.stack([1 - p, p], axis=1)
    counts = np.bincount(labels, minlength=2)
    if len(counts) > 2 or not counts.all():
        raise DataError(f"label noise needs real and fake images, not {counts.tolist()}")
    threshold = np.array([of_class[labels == j, j].mean() for j in (0, 1)])
    above = of_class >= threshold
    # If both classes are above their thresholds, the likelier one is taken; if neither is, the image is left out.
    truth = np.where(above.all(axis=1), of_class.argmax(axis=1), above.argmax(axis=1))
    sure = above.any(axis=1)
    joint = np.bincount(2 * labels[sure] + truth[sure], minlength=4).reshape(2, 2).astype(np.float64)
    for label in (0, 1):
        if not joint[label].any():
            joint[label, label] = 1.0  # no confident image contradicts this label
    joint *= (counts / joint.sum(axis=1))[:, None] / counts.sum()
    return joint


def flip_joint(p: Floats, labels: Ints) -> NDArray[np.float64]:
    """Estimate the joint distribution of label and true class from out-of-fold P(fake) ``[N]``: ``[2, 2]``, sums to 1.

    The label frequencies along the margin are fitted by a logistic curve between two asymptotes, the rates at which
    each class is labelled as the other.

    Raises:
        DataError: a class is missing.
    """
    labels = np.asarray(labels)
    if set(np.unique(labels)) != {0, 1}:
        raise DataError(f"label noise needs real and fake images, not the labels {np.unique(labels).tolist()}")
    inner = np.clip(np.asarray(p, np.float64), 1e-9, 1 - 1e-9)
    margin = np.log(inner / (1 - inner))
    margin = margin / (margin.std() or 1.0)
    edges = np.quantile(margin, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(edges, margin)
    weights = np.stack([np.ones(len(place)), margin, labels])
    counted = np.stack([np.bincount(place, column, _BINS).astype(np.float64) for column in weights])
    total, at, fakes = counted[:, counted[0] > 0]
    (called_fake, called_real), curve = _bounded_logistic(at / total, fakes, total - fakes)
    truly_fake = float(curve @ total) / len(labels)
    return np.array(
        [
            [(1 - called_fake) * (1 - truly_fake), called_real * truly_fake],
            [called_fake * (1 - truly_fake), (1 - called_real) * truly_fake],
        ]
    )


def _bounded_logistic(
    at: NDArray[np.float64], fakes: NDArray[np.float64], reals: NDArray[np.float64]
) -> tuple[tuple[float, float], NDArray[np.float64]]:
    """Fit P(label = fake) = ρ₀ + (1 − ρ₀ − ρ₁) σ(a + b·at), each rate below a half and b > 0, to counts of labels.

    Returns the rates, and σ(a + b·at): the probability of truly being fake.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    def parts(t: NDArray[np.float64]) -> tuple[Any, Any, Any, Any]:
        return expit(t[0]) / 2, expit(t[1]) / 2, np.exp(t[3]), expit(t[2] + np.exp(t[3]) * at)

    def loss(t: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        low, high, slope, curve = parts(t)
        p = np.clip(low + (1 - low - high) * curve, 1e-12, 1 - 1e-12)
        by_p = reals / (1 - p) - fakes / p
        by_curve = by_p * (1 - low - high) * curve * (1 - curve)
        gradient = [
            (by_p @ (1 - curve)) * low * (1 - 2 * low),
            -(by_p @ curve) * high * (1 - 2 * high),
            by_curve.sum(),
            (by_curve @ at) * slope,
        ]
        return float(-(fakes @ np.log(p) + reals @ np.log1p(-p))), np.array(gradient)

    start = np.array([-4.0, -4.0, 0.0, 1.0])  # rates of 1%, a curve as steep as a fair classifier's
    bounds = [(-12.0, 6.0), (-12.0, 6.0), (-50.0, 50.0), (-_STEEPEST, _STEEPEST)]
    low, high, _, curve = parts(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)
    return (float(low), float(high)), np.asarray(curve)


def suspects(p: Floats, labels: Ints, joint: NDArray[np.float64], scale: float = 1.0) -> NDArray[np.intp]:
    """Rank the labels that are probably wrong, the likeliest first; returns their positions.

    For each label, the joint distribution of label and true class gives the number of wrong labels; ``scale`` times as
    many images are named. These are the images whose probability of the other class exceeds that of their own by most
    ("prune by noise rate", Northcutt et al. 2021, section 4).
    """
    against = np.where(np.asarray(labels) == 1, 1 - 2 * p, 2 * p - 1)
    order = np.argsort(-against, kind="stable")
    chosen = [order[labels[order] == k][: round(scale * len(labels) * joint[k, 1 - k])] for k in (0, 1)]
    found = np.concatenate(chosen)
    found = found[against[found] > 0]
    return np.asarray(found[np.argsort(-against[found], kind="stable")])


def wrong_share(joint: NDArray[np.float64]) -> float:
    """Return the share of images whose label is not their true class."""
    return float(joint[0, 1] + joint[1, 0])


def estimate(p: Floats, labels: Ints, groups: NDArray[np.intp]) -> Interval:
    """Return the share of wrong labels with a 95% bootstrap interval; images of one group are drawn together."""
    labels = np.asarray(labels)
    inner = np.clip(np.asarray(p, np.float64), 1e-9, 1 - 1e-9)
    names = None if len(np.unique(groups)) == len(groups) else groups.astype(str)
    found = bootstrap(
        lambda margin, own: wrong_share(flip_joint(probability(margin), own)),
        np.log(inner / (1 - inner)),
        labels,
        groups=names,
        resamples=RESAMPLES,
    )
    # If replicates have no or hardly any wrong labels, resampling gives no reliable upper end; Wilson's interval does.
    least = wilson(round(found.value * len(labels)), len(labels))
    if found.low != found.low:
        return least
    return Interval(found.value, found.low, max(found.high, least.high), found.n, found.method)


def label_noise(images: ImageSet, run: Run | None = None, *, most: int = MOST_IMAGES, seed: int = 0) -> AuditFinding:
    """Look for wrong labels with a run's cross-validated predictions, or with the built-in light classifier.

    Returns:
        ``label-noise``: ``share`` and ``count`` of wrong labels with their ends, the rates ``real_called_fake`` and
        ``fake_called_real``, ``confident_learning`` (the share by that method, which is rather an upper bound), the
        classifier's ``auc`` out of fold with its ends, and ``n``. The images are the suspects, the likeliest first.
    """
    try:
        rows, p, source = _of_run(run, images) if run is not None else _of_light(images, most, seed)
        labels = images.labels[rows]
        area = auc_interval(p, labels)
        if area.low < LEAST_AUC:
            raise DataError(
                f"{source} has AUROC {interval(area.value, area.low, area.high, '.3f')} out of fold, too little "
                f"to judge labels by ({LEAST_AUC} is needed); give a trained run with --run"
            )
    except (DataError, RunError) as error:
        return _NOISE.found("not run", f"not looked at: {error}")
    share, joint = estimate(p, labels, components(images, rows)), flip_joint(p, labels)
    severity, n = _severity(share), len(rows)
    figures: dict[str, Figure] = {"share": share.value, "share_low": share.low, "share_high": share.high}
    figures |= {name.replace("share", "count"): round(float(value) * n) for name, value in figures.items()}
    figures |= {
        "real_called_fake": joint[1, 0] / joint[:, 0].sum(),
        "fake_called_real": joint[0, 1] / joint[:, 1].sum(),
    }
    figures |= {"confident_learning": wrong_share(confident_joint(p, labels))}
    figures |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high, "n": n, "source": source}
    # As many as the upper end allows: a list that is too short hides some, and the last ones are doubtful anyway.
    named = images.ids[rows[suspects(p, labels, joint, share.high / share.value)]] if severity != "pass" else ()
    return _NOISE.found(
        severity,
        _detail(share, severity, n, f"{source}, AUROC {area.value:.3f} out of fold"),
        figures,
        [str(name) for name in named],
        "look at the images named, mend or drop those that are wrong",
    )


def _severity(share: Interval) -> Severity:
    return "fail" if share.low >= FAIL else "warn" if share.low >= WARN else "pass"


def _detail(share: Interval, severity: Severity, n: int, judge: str) -> str:
    if severity == "pass":
        about = f"{interval(share.value, share.low, share.high, '.1%')} of {n:,} labels are wrong by estimate"
        return f"{about}, not shown to be more than {WARN:.0%} ({judge})"
    count = interval(share.value * n, share.low * n, share.high * n, ",.0f")
    about = f"about {count} of {n:,} labels are wrong"
    return f"{about} ({share.value:.1%}; {judge})"


def _of_light(images: ImageSet, most: int, seed: int) -> tuple[Rows, NDArray[np.float64], str]:
    rows = thin(images.labelled(), most, images.labels)
    _require(images.labels[rows])
    fold = folds_of(images, rows, seed=seed)
    p = out_of_fold(light_features(images, rows), images.labels[rows], fold, light_classifier)
    return rows, p, "the built-in light classifier"


def _of_run(run: Run, images: ImageSet) -> tuple[Rows, NDArray[np.float64], str]:
    """Return the mean P(fake) of a run's detectors for the images that none of them was trained on.

    It is the plain mean, because the run's own weights were fitted to the labels.

    Raises:
        RunError: the run has no clean predictions, or they are about other images.
    """
    where = {str(name): row for row, name in enumerate(images.ids)}
    # Predictions after clean training, before the adversarial phase: these are best on clean images.
    tables = [run.predictions(name, "base") for name in run.models]
    p = np.mean([probability(margins(table.logits)) for table in tables], axis=0)
    parts = np.asarray(tables[0].table["part"], dtype=str)
    names = tables[0].table["image_id"].astype(str).to_numpy()
    for table in tables[1:]:
        if not np.array_equal(table.table["image_id"].astype(str).to_numpy(), names):
            raise RunError(f"the predictions of run '{run.name}' are not about the same images in the same order")
    # Out-of-fold rows cover everything; without folds, only the parts kept out of training are available.
    wanted = parts == "oof" if (parts == "oof").any() else np.ones(len(parts), bool)
    unknown = [name for name in names[wanted] if name not in where]
    if unknown:
        raise RunError(f"run '{run.name}' has predictions of '{unknown[0]}', which is not among the images")
    rows = np.array([where[name] for name in names[wanted]], dtype=np.intp)
    known = images.labels[rows] != UNLABELLED
    _require(images.labels[rows[known]])
    return rows[known], p[wanted][known], f"run '{run.name}'"


def _require(labels: Ints) -> None:
    least = min(int((labels == label).sum()) for label in (0, 1))
    if least < LEAST_IMAGES:
        raise DataError(f"{least} images of a class are too few; {LEAST_IMAGES} are needed")
