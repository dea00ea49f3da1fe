"""Label noise by confident learning, on probabilities that no image's own label has had a part in.

Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70, 1373-1411),
for two classes. An image is counted as truly of class j when its probability of j is at least the mean that images
labelled j have (their equations 1 and 2); the counts of (label, true class) are scaled to the label counts (equation 3)
and give the share of wrong labels.

The estimate also counts what the classifier itself gets wrong with confidence: on CIFAKE, whose labels are right by
construction, 2.6% by the built-in one. What it is worth is therefore read from the surest answers: where labels are
wrong at a rate, even these are contradicted at that rate, however good the classifier (the anchor points of Liu & Tao
2016, IEEE TPAMI 38(3)), while its own errors are rare among them. An estimate well above that share is not believed;
the share takes its place, unless the estimate is so far above that both are mostly the classifier's own errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Figure, Severity
from robustbench_df.audit.light import folds_of, light_classifier, light_features, out_of_fold
from robustbench_df.audit.statistics import Rows, sample
from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.data.split import components
from robustbench_df.errors import DataError, RunError
from robustbench_df.metrics.intervals import NAN, Interval, auc_interval, bootstrap, wilson
from robustbench_df.metrics.scores import Floats, Ints, margins, probability

if TYPE_CHECKING:
    from robustbench_df.run import Run

MOST_IMAGES = 20_000
"""Images that the built-in classifier looks at, evenly spaced within each class."""
LEAST_IMAGES = 250
"""Images of each class below which nothing is estimated: the surest tenth would be a handful."""
LEAST_AUC = 0.85
"""AUROC out of fold, at its lower end, that a judge of labels must have. One that makes no error at all has 1 − the
share of wrong labels; one with less than this errs too often, even where it is surest."""
SUREST = 0.2
"""Share of each class's size taken as the surest answers."""
TRUSTED, OWN_ERRORS = 2.0, 3.0
"""How many times the share of contradicted surest answers the estimate may be, to be believed itself, and for that
share to be believed. Between normal classes whose AUROC is 0.85 to 0.95 it is 3.3 to 6.6 times (medians) without a
wrong label, 2.0 to 2.6 times with 3% and 1.3 to 1.8 times with 10% of them."""
WARN, FAIL = 0.01, 0.1
"""Share of wrong labels, at its lower end, from which on the finding warns and fails.

Good detectors differ by a point or two of accuracy, so one wrong label in a hundred already decides between them
(Northcutt, Athalye & Mueller 2021, NeurIPS, found 3.3% on average in ten test sets, enough to change rankings). At one
in ten no accuracy above 90% can be believed.
"""
RESAMPLES = 300


@dataclass(frozen=True, eq=False)
class Noise:
    """What confident learning says of N images.

    Attributes:
        joint: share of images by (label, true class), ``[2, 2]``, sums to 1.
        suspects: positions of the images whose label is probably wrong, worst first.
    """

    joint: NDArray[np.float64]
    suspects: NDArray[np.intp]

    @property
    def share(self) -> float:
        """Estimated share of wrong labels."""
        return float(self.joint[0, 1] + self.joint[1, 0])


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
    # Where both classes are above their threshold the likelier one is taken, where neither is the image is left out.
    truth = np.where(above.all(axis=1), of_class.argmax(axis=1), above.argmax(axis=1))
    sure = above.any(axis=1)
    joint = np.bincount(2 * labels[sure] + truth[sure], minlength=4).reshape(2, 2).astype(np.float64)
    for label in (0, 1):
        if not joint[label].any():
            joint[label, label] = 1.0  # not one confident image of this label speaks against it
    joint *= (counts / joint.sum(axis=1))[:, None] / counts.sum()
    return joint


def confident_learning(p: Floats, labels: Ints) -> Noise:
    """Estimate label noise from out-of-fold P(fake) ``[N]`` and the labels (0, 1), and rank the suspects.

    Of each label, as many images as the joint says are wrong are named, those first whose probability of the other
    class exceeds that of their own by most ("prune by noise rate", section 4 of the paper).
    """
    labels = np.asarray(labels)
    joint = confident_joint(p, labels)
    against = np.where(labels == 1, 1 - 2 * p, 2 * p - 1)
    order = np.argsort(-against, kind="stable")
    chosen = [order[labels[order] == k][: round(len(labels) * joint[k, 1 - k])] for k in (0, 1)]
    suspects = np.concatenate(chosen)
    suspects = suspects[against[suspects] > 0]
    return Noise(joint, suspects[np.argsort(-against[suspects], kind="stable")])


def surest_contradicted(p: Floats, labels: Ints) -> Interval:
    """Return the share of the surest answers that the label denies, with its 95% Wilson interval.

    Of P(fake) ``[N]`` the lowest are surely real and the highest surely fake, `SUREST` of each class's size.
    """
    order = np.argsort(p, kind="stable")
    n_fake = int((labels == 1).sum())
    low = order[: max(round(SUREST * (len(labels) - n_fake)), 1)]
    high = order[::-1][: max(round(SUREST * n_fake), 1)]
    return wilson(int((labels[low] == 1).sum() + (labels[high] == 0).sum()), len(low) + len(high))


def estimate(p: Floats, labels: Ints, groups: NDArray[np.intp]) -> Interval:
    """Return the share of wrong labels with a 95% bootstrap interval; images of one group are drawn together."""

    def share(margin: Floats, own: Ints) -> float:
        joint = confident_joint(probability(margin), own)
        return float(joint[0, 1] + joint[1, 0])

    labels = np.asarray(labels)
    inner = np.clip(np.asarray(p, np.float64), 1e-9, 1 - 1e-9)
    names = None if len(np.unique(groups)) == len(groups) else groups.astype(str)
    found = bootstrap(share, np.log(inner / (1 - inner)), labels, groups=names, resamples=RESAMPLES)
    if found.low != found.low:  # all replicates agree, as where not one label is contradicted
        return wilson(round(found.value * len(labels)), len(labels))
    return found


def label_noise(images: ImageSet, run: Run | None = None, *, most: int = MOST_IMAGES, seed: int = 0) -> AuditFinding:
    """Look for wrong labels with a run's cross-validated predictions, or with the built-in light classifier.

    Returns:
        ``label-noise``: ``share`` and ``count`` of wrong labels (with their ends; undefined where they cannot be told
        from the classifier's own errors), ``method`` (``confident learning``, ``surest answers`` or ``none``), the two
        shares it is chosen from, the classifier's ``auc`` out of fold, and ``n``. The images are the suspects, the
        likeliest first.
    """
    title = "Labels are right (confident learning)"
    try:
        rows, p, source = _of_run(run, images) if run is not None else _of_light(images, most, seed)
        labels = images.labels[rows]
        area = auc_interval(p, labels)
        if area.low < LEAST_AUC:
            raise DataError(
                f"{source} has AUROC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}] out of fold, too little to "
                f"judge labels by ({LEAST_AUC} is needed); give a trained run with --run"
            )
    except (DataError, RunError) as error:
        return AuditFinding(id="label-noise", severity="not run", title=title, detail=f"not looked at: {error}")
    learnt, surest = estimate(p, labels, components(images, rows)), surest_contradicted(p, labels)
    method, share = _believed(learnt, surest)
    severity = _severity(share)
    n, figures = len(rows), dict[str, Figure]()
    intervals = {"share": share, "confident_learning": learnt, "surest_contradicted": surest, "auc": area}
    for name, found in intervals.items():
        figures |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    if share.value == share.value:
        figures |= {"count": round(share.value * n), "count_low": round(share.low * n)}
        figures["count_high"] = round(share.high * n)
    figures |= {"method": method, "n": n, "source": source}
    suspects = images.ids[rows[confident_learning(p, labels).suspects]] if severity != "pass" else ()
    return AuditFinding(
        id="label-noise",
        severity=severity,
        title=title,
        detail=_detail(share, surest, method, n, f"{source}, AUROC {area.value:.3f} out of fold"),
        figures=figures,
        images=tuple(str(name) for name in suspects),
        remedy="look at the images named, mend or drop those that are wrong" if severity in ("warn", "fail") else "",
    )


def _believed(learnt: Interval, surest: Interval) -> tuple[str, Interval]:
    """Choose the estimate: confident learning's where the surest answers bear it out, else theirs, else none."""
    if learnt.value <= min(surest.high, TRUSTED * surest.value):
        return "confident learning", learnt
    if surest.low < WARN or learnt.value <= OWN_ERRORS * surest.value:
        return "surest answers", surest
    return "none", Interval(NAN, NAN, NAN, surest.n, "none")


def _severity(share: Interval) -> Severity:
    if share.value != share.value:
        return "not run"
    return "fail" if share.low >= FAIL else "warn" if share.low >= WARN else "pass"


def _detail(share: Interval, surest: Interval, method: str, n: int, judge: str) -> str:
    sure = (
        f"{surest.value:.1%} [{surest.low:.1%}, {surest.high:.1%}] of {surest.n:,} surest answers contradict the label"
    )
    if method == "none":
        return f"{sure}, which cannot be told from the classifier's own errors ({judge})"
    about = f"about {share.value * n:,.0f} [{share.low * n:,.0f}, {share.high * n:,.0f}] of {n:,} labels are wrong"
    return f"{about} ({share.value:.1%}, by {method}; {judge}); {sure}"


def _of_light(images: ImageSet, most: int, seed: int) -> tuple[Rows, NDArray[np.float64], str]:
    rows = sample(images, most)
    _require(images.labels[rows])
    fold = folds_of(images, rows, seed=seed)
    p = out_of_fold(light_features(images, rows), images.labels[rows], fold, light_classifier)
    return rows, p, "the built-in light classifier"


def _of_run(run: Run, images: ImageSet) -> tuple[Rows, NDArray[np.float64], str]:
    """Mean P(fake) of a run's detectors, where none of them was trained on the image.

    The plain mean, since the run's own weights have seen the labels.

    Raises:
        RunError: the run has no clean predictions, or they are about other images.
    """
    where = {str(name): row for row, name in enumerate(images.ids)}
    # After clean training, before the adversarial phase: there they are at their best on clean images.
    tables = [run.predictions(name, "base") for name in run.models]
    p = np.mean([probability(margins(table.logits)) for table in tables], axis=0)
    parts = np.asarray(tables[0].table["part"], dtype=str)
    names = tables[0].table["image_id"].astype(str).to_numpy()
    for table in tables[1:]:
        if not np.array_equal(table.table["image_id"].astype(str).to_numpy(), names):
            raise RunError(f"the predictions of run '{run.name}' are not about the same images in the same order")
    # Out-of-fold rows cover everything; without folds the parts kept from training are all there is.
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
