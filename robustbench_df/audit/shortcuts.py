"""Shortcuts: what separates real from fake without a look at the picture, and so what a detector must beat.

Each trivial statistic (`robustbench_df.audit.statistics`) is judged alone by its AUROC on one half of the images, after
its direction (which way is fake) was chosen on the other half; twins and groups never lie in both. All statistics
together are the input of cross-validated gradient-boosted trees: a detector that does no better has learnt nothing
more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import SEVERITIES, AuditCheck, AuditFinding, Figure, Severity
from robustbench_df.audit.light import folds_of, out_of_fold
from robustbench_df.audit.statistics import Columns, Rows, file_statistics, pixel_statistics
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.errors import DataError
from robustbench_df.metrics.intervals import Interval, auc_interval, wilson
from robustbench_df.metrics.scores import auc
from robustbench_df.wording import interval

MOST_IMAGES = 10_000
"""Most images used, evenly spaced within each class: on 5,000 held-out images, an AUROC is known to ± 0.016 at
worst."""
MOST_PIXELS = 1 << 28
"""Most pixels used, so that large images take no longer than small ones."""
LEAST_IMAGES = 20
"""Images of each class below which no statistic is judged."""

LIMITS = {"files": (0.55, 0.75), "pixels": (0.65, 0.95), "all": (0.7, 0.98)}
"""AUROCs above which a family of statistics warns and fails, compared with the lower end of the 95% interval.

*files*: the header says nothing of the picture, so anything above chance is an artefact of collection. For a yes-or-no
fact, the AUROC is 1/2 plus half the difference of its shares in the two classes: 0.55 is a fact that is 10 points more
frequent in one class, 0.75 one that gives half of a class away. *pixels*: generators do differ in colour and sharpness,
which a detector may use; above 0.95, a single average does as well as a published detector. *all*: likewise; good
detectors reach 0.98, so where the statistics reach it too, a detector with that score has shown nothing.
"""

_NOT_DECODED = {"exif", "metadata"}
"""Statistics that a detector of pixels never sees, even if they separate the classes: cameras write them, generators do
not. They show that the classes were collected in different ways, which is worth a warning. They are no failure:
stripping them would remove the finding and change no score."""

_FILES = ("format", "colour_mode", "dimensions", "jpeg_tables", "jpeg_quality", "jpeg_chroma", "exif", "metadata")
_MOST_WORDS = 200
"""Distinct words of a statistic that the trees tell apart (scikit-learn allows 255); rarer ones count as one."""
_PRIOR = 2.0
"""Number of images at the base rate that are added to each word's share of fakes: a word seen once says little."""
_EXAMPLES = 5
_CHECKS = {
    "files": AuditCheck("shortcuts-files", "Files alone do not tell the classes apart"),
    "pixels": AuditCheck("shortcuts-pixels", "No single pixel statistic tells the classes apart"),
    "classifier": AuditCheck("shortcuts-classifier", "Trivial statistics together leave something to learn"),
}
_SAID = {
    "files": ("nothing that the file says of itself", "what the file says of itself"),
    "pixels": ("no trivial number of the picture", "one trivial number of the picture"),
}
_REMEDY = {
    "files": "store both classes the same way (one codec, one quality, one size, no metadata), then audit again",
    "pixels": "match the classes in this statistic, or show that the detector keeps its score once it is equalised",
    "all": "report this beside every score: only what a detector has above it was learnt from the pictures",
}


class Judged(NamedTuple):
    """One statistic alone: its AUROC on held-out images, and the oriented values there (higher: more like fake)."""

    auc: Interval
    margin: NDArray[np.float64]


def shortcuts(
    images: ImageSet, *, most: int = MOST_IMAGES, classifier: bool = True, seed: int = 0
) -> tuple[AuditFinding, ...]:
    """Judge every trivial statistic of a labelled set.

    Args:
        images: the set; files are read again from where it came from.
        most: largest number of images to use; also bounded by `MOST_PIXELS`.
        classifier: also cross-validate the trees over all statistics.
        seed: chooses halves and folds.

    Returns:
        ``shortcuts-files``, ``shortcuts-pixels`` and, if asked for, ``shortcuts-classifier``. Figures are the AUROC
        of each statistic with its 95% interval (``<name>``, ``<name>_low``, ``<name>_high``; DeLong, images taken as
        independent), the worst one's name and ``n``, the held-out images; the classifier's are ``auc``,
        ``accuracy`` (with ends), ``majority`` (accuracy of always naming the larger class) and ``n``.
    """
    height, width = images.size
    most = min(most, max(MOST_PIXELS // (height * width), 2 * LEAST_IMAGES))
    rows = thin(images.labelled(), most, images.labels)
    labels = images.labels[rows]
    names = ("files", "pixels", *(("classifier",) if classifier else ()))
    least = min(int((labels == label).sum()) for label in (0, 1))
    if least < LEAST_IMAGES:
        reason = f"{least} images of a class are too few; {LEAST_IMAGES} are needed"
        return tuple(_not_run(name, reason) for name in names)
    try:
        fold = folds_of(images, rows, 2, seed)
    except DataError as error:
        return tuple(_not_run(name, str(error)) for name in names)
    columns, why = _columns(images, rows)
    findings = []
    for family in ("files", "pixels"):
        own = {k: v for k, v in columns.items() if (k in _FILES) == (family == "files")}
        findings.append(_family(family, own, images, rows, fold == 0) if own else _not_run(family, why[family]))
    if classifier:
        findings.append(_together(columns, images, rows, seed))
    return tuple(findings)


def _columns(images: ImageSet, rows: Rows) -> tuple[Columns, dict[str, str]]:
    """Return all available statistics, and the reason for each family that is not available."""
    columns: Columns = {}
    why: dict[str, str] = {}
    try:
        files = file_statistics(images, rows)
        width, height = files.pop("width"), files.pop("height")
        files["dimensions"] = np.array([f"{w:.0f}x{h:.0f}" for w, h in zip(width, height, strict=True)], dtype=object)
        columns |= files
    except DataError as error:
        why["files"] = str(error)
    try:
        columns |= pixel_statistics(images, rows)
    except DataError as error:
        why["pixels"] = str(error)
    return columns, why


def judge_statistic(values: NDArray[Any], labels: NDArray[np.int8], fitted: NDArray[np.bool_]) -> Judged:
    """Judge one statistic ``[N]`` on the rows that are not ``fitted``; its direction comes from those that are.

    Numbers get the sign that is right on the fitted half; a word is replaced by its share of fakes there.
    """
    if values.dtype == object:
        _, code = np.unique(values.astype(str), return_inverse=True)
        fakes = np.bincount(code[fitted], weights=labels[fitted], minlength=code.max() + 1)
        counts = np.bincount(code[fitted], minlength=code.max() + 1)
        base = float(labels[fitted].mean())
        margin = ((fakes + _PRIOR * base) / (counts + _PRIOR))[code[~fitted]]
    else:
        sign = 1.0 if auc(values[fitted], labels[fitted]) >= 0.5 else -1.0
        margin = sign * values[~fitted].astype(np.float64)
    return Judged(auc_interval(margin, labels[~fitted]), margin)


def _family(family: str, columns: Columns, images: ImageSet, rows: Rows, fitted: NDArray[np.bool_]) -> AuditFinding:
    """Judge each statistic of a family; the finding is as severe as the worst of them."""
    labels = images.labels[rows]
    judged = {name: judge_statistic(values, labels, fitted) for name, values in columns.items()}

    def severe(name: str) -> Severity:
        found = _severity(judged[name].auc.low, *LIMITS[family])
        return "warn" if found == "fail" and name in _NOT_DECODED else found

    worst = max(judged, key=lambda name: (SEVERITIES.index(severe(name)), judged[name].auc.low))
    severity = severe(worst)
    figures: dict[str, Figure] = {"n": int((~fitted).sum()), "worst": worst}
    for name, found in judged.items():
        figures |= {name: found.auc.value, f"{name}_low": found.auc.low, f"{name}_high": found.auc.high}
    above = sorted(
        (name for name in judged if judged[name].auc.low > LIMITS[family][0]), key=lambda k: -judged[k].auc.value
    )
    shown = {name: judged[name].auc for name in above[:4] or [worst]}
    seen = ", ".join(f"{name} {interval(own.value, own.low, own.high, '.3f')}" for name, own in shown.items())
    return _CHECKS[family].found(
        severity,
        f"{_SAID[family][bool(above)]} tells the classes apart: AUROC (0.5 is chance, 1 is always right) of "
        f"{seen} on {figures['n']:,} held-out images",
        figures,
        _extremes(judged[worst].margin, images, rows[~fitted]) if severity != "pass" else (),
        _REMEDY[family],
    )


def _extremes(margin: NDArray[np.float64], images: ImageSet, rows: Rows) -> tuple[tuple[str, str], ...]:
    """Return pairs of a real and a fake image in which the statistic is most extreme."""
    order = np.argsort(margin, kind="stable")
    reals = rows[order[images.labels[rows[order]] == 0]][:_EXAMPLES]
    fakes = rows[order[images.labels[rows[order]] == 1]][::-1][:_EXAMPLES]
    return tuple((str(images.ids[a]), str(images.ids[b])) for a, b in zip(reals, fakes, strict=False))


def _together(columns: Columns, images: ImageSet, rows: Rows, seed: int) -> AuditFinding:
    """Cross-validate boosted trees over all statistics."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    if not columns:
        return _not_run("classifier", "no statistic could be taken")
    labels = images.labels[rows]
    words = [values.dtype == object for values in columns.values()]
    x = np.column_stack([_codes(v) if word else v for v, word in zip(columns.values(), words, strict=True)])

    def trees() -> Any:
        return HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=8, early_stopping=False, categorical_features=words, random_state=seed
        )

    try:
        p = out_of_fold(x.astype(np.float64), labels, folds_of(images, rows, seed=seed), trees)
    except DataError as error:
        return _not_run("classifier", str(error))
    area = auc_interval(p, labels)
    right = wilson(int(((p >= 0.5) == labels).sum()), len(labels))
    majority = max(float(labels.mean()), 1 - float(labels.mean()))
    return _CHECKS["classifier"].found(
        _severity(area.low, *LIMITS["all"]),
        f"{len(columns)} trivial statistics together: AUROC {interval(area.value, area.low, area.high, '.3f')}, "
        f"accuracy {interval(right.value, right.low, right.high, '.1%')} on {len(labels):,} images out of fold; "
        "a detector must beat that",
        {
            "auc": area.value,
            "auc_low": area.low,
            "auc_high": area.high,
            "accuracy": right.value,
            "accuracy_low": right.low,
            "accuracy_high": right.high,
            "majority": majority,
            "statistics": len(columns),
            "n": len(labels),
        },
        remedy=_REMEDY["all"],
    )


def _codes(values: NDArray[Any]) -> NDArray[np.float64]:
    """Number the words of a statistic, the most frequent first; all beyond `_MOST_WORDS` get the last number."""
    _, code, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.intp)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return np.minimum(rank[code], _MOST_WORDS).astype(np.float64)


def _severity(low: float, warn: float, fail: float) -> Severity:
    return "fail" if low > fail else "warn" if low > warn else "pass"


def _not_run(name: str, reason: str) -> AuditFinding:
    return _CHECKS[name].found("not run", f"not looked at: {reason}")
