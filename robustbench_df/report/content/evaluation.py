"""Figures of the detectors on clean images: ROC, confusion, scores, reliability, classes and sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from robustbench_df.metrics.calibration_error import reliability
from robustbench_df.metrics.intervals import wilson
from robustbench_df.metrics.scores import Floats, probability, roc_curve
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import Subject, about
from robustbench_df.report.content.pieces import Tab
from robustbench_df.report.content.reading import PHASES
from robustbench_df.report.content.words import LABELS, PHASE, estimate, label_of, said
from robustbench_df.report.document import Block, Cell, Column, Confusion, Curves, Histogram, Series, Table, Text

POINTS = 200
"""Most points of a curve; more could not be distinguished on a page."""

BINS = 20
"""Number of bins in a histogram of P(fake)."""

RELIABILITY_BINS = 10

SOURCES = 30
"""Most sources that are listed separately, the largest first."""

Exports = dict[str, list[str]]


def evaluation(facts: Facts) -> tuple[list[Tab], Exports]:
    """Return the tabs of the figures, and which of them make up the recipe's composed figures."""
    roc: list[Block] = [figure for phase in PHASES for figure in _roc_of_phase(phase, _of_phase(facts, phase))]
    each: list[Block] = []
    exports: Exports = {}
    for model in dict.fromkeys(model for model, _ in facts.subjects):
        own = {phase: facts.subjects[model, phase] for phase in PHASES if (model, phase) in facts.subjects}
        key = facts.keys[model]
        both = {label_of(model, phase): subject for phase, subject in own.items()}
        # Before and after side by side: the verdicts in the row of the ROC, the scores below them.
        each += [Text(model, head=True), roc_of(f"roc-{key}", f"ROC of {model}", both)]
        each += [_confusion(f"confusion-{key}-{phase}", subject) for phase, subject in own.items()]
        each += [_histogram(f"scores-{key}-{phase}", subject) for phase, subject in own.items()]
        for phase in own:
            exports[f"{key}_{phase}_evaluation"] = [f"confusion-{key}-{phase}", f"roc-{key}", f"scores-{key}-{phase}"]
    calibrated: list[Block] = [
        _reliability(phase, _of_phase(facts, phase)) for phase in PHASES if _of_phase(facts, phase)
    ]
    tables: list[Block] = [_classes(facts), *_sources(facts)]
    tabs = [
        Tab("ROC", roc),
        Tab("Each detector", each),
        Tab("Reliability", calibrated),
        Tab("Classes and sources", tables),
    ]
    return tabs, exports


def _of_phase(facts: Facts, phase: str) -> dict[str, Subject]:
    return {model: subject for (model, own), subject in facts.subjects.items() if own == phase}


# --- ROC ------------------------------------------------------------------------------------------


def _roc_of_phase(phase: str, subjects: Mapping[str, Subject]) -> list[Curves]:
    if not subjects:
        return []
    linear = roc_of(f"roc-{phase}", f"ROC {PHASE[phase]}", subjects)
    lowest = 1 / max(sum(int((s.labels == 0).sum()) for s in list(subjects.values())[:1]), 1)
    log = Curves(
        id=f"roc-{phase}-log",
        title=f"The same at few false alarms, {phase}",
        alt=f"{linear.alt} The axis of false alarms is logarithmic.",
        x_label="false positive rate (reals called fake)",
        y_label="true positive rate",
        series=[_from_first_alarm(series, lowest) for series in linear.series],
        x_scale="log",
        diagonal=True,
        percent=True,
        note=f"Begins at one real image in {round(1 / lowest):,}.",
    )
    return [linear, log]


def roc_of(id: str, title: str, subjects: Mapping[str, Subject]) -> Curves:
    """Draw the ROC curves of some detectors by name."""
    series, words = [], []
    for name, subject in subjects.items():
        curve = roc_curve(subject.judged.margin, subject.labels)
        x, y = thinned(curve.fpr, curve.tpr)
        series.append(Series(name, x, y))
        words.append(f"{name}: AUC {said(subject.numbers['auc'], 'number')}")
    return Curves(
        id=id,
        title=title,
        alt=f"True positive rate over false positive rate. {'; '.join(words)}.",
        x_label="false positive rate (reals called fake)",
        y_label="true positive rate",
        series=series,
        diagonal=True,
        percent=True,
    )


def thinned(x: Floats, y: Floats, most: int = POINTS) -> tuple[list[float], list[float | None]]:
    """Drop points inside straight runs of a step curve, then thin evenly by rank to ``most`` points; keep the ends.

    A curve with non-finite values (one class is missing) becomes empty.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return [], []
    flat = ((x[1:-1] == x[:-2]) & (x[1:-1] == x[2:])) | ((y[1:-1] == y[:-2]) & (y[1:-1] == y[2:]))
    kept = np.concatenate([[True], ~flat, [True]]) if len(x) > 2 else np.ones(len(x), bool)
    rows = np.flatnonzero(kept)
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.intp)]
    return [round(float(v), 6) for v in x[rows]], [round(float(v), 6) for v in y[rows]]


def _from_first_alarm(series: Series, lowest: float) -> Series:
    """Start a ROC at the smallest possible false-alarm rate, for a log axis; its first y is that at zero alarms."""
    reached = [y for x, y in zip(series.x, series.y, strict=True) if x == 0]
    later = [(x, y) for x, y in zip(series.x, series.y, strict=True) if x > 0]
    first = round(lowest, 6)  # as the points are
    points = [(first, reached[-1] if reached else 0.0), *(p for p in later if p[0] >= first)]
    return Series(series.name, [x for x, _ in points], [y for _, y in points]) if series.x else series


# --- one detector ---------------------------------------------------------------------------------


def _confusion(id: str, subject: Subject) -> Confusion:
    verdict, labels = subject.judged.verdict, subject.labels
    counts = [[int(((labels == a) & (verdict == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    name = label_of(subject.model, subject.phase)
    (tn, fp), (fn, tp) = counts
    alt = f"{name}: of {tn + fp} reals {fp} called fake; of {fn + tp} fakes {fn} called real."
    return Confusion(id, f"Verdicts of {name}", alt, counts)


def _histogram(id: str, subject: Subject) -> Histogram:
    p, labels = probability(subject.judged.margin), subject.labels
    edges = np.linspace(0, 1, BINS + 1)
    counts = {LABELS[label]: np.histogram(p[labels == label], edges)[0].tolist() for label in (0, 1)}
    name = label_of(subject.model, subject.phase)
    marker = subject.decision.threshold if subject.decision else 0.5
    crossed = "Each fold has a threshold of its own; marked is the shipped one." if subject.part == "oof" else ""
    return Histogram(
        id=id,
        title=f"Scores of {name}",
        alt=f"Histogram of P(fake) of {name} for reals and fakes; threshold {marker:.3g}.",
        x_label="P(fake), calibrated" if subject.fitted else "P(fake)",
        edges=[round(float(edge), 6) for edge in edges],
        counts=counts,
        marker=marker,
        note=crossed,
    )


def _reliability(phase: str, subjects: Mapping[str, Subject]) -> Curves:
    series = []
    for name, subject in subjects.items():
        bins = reliability(subject.judged.margin, subject.labels, RELIABILITY_BINS)
        shares = [wilson(round(a * n), int(n)) for a, n in zip(bins.accuracy, bins.n, strict=True)]
        y = [round(float(a), 6) for a in bins.accuracy]
        low, high = ([round(float(getattr(s, end)), 6) for s in shares] for end in ("low", "high"))
        only = len(subjects) == 1
        x = [round(float(c), 6) for c in bins.confidence]
        series.append(Series(name, x, y, low if only else (), high if only else ()))
    calibrated = all(subject.fitted for subject in subjects.values())
    return Curves(
        id=f"reliability-{phase}",
        title=f"Can the stated confidence be believed? ({phase})",
        alt="Accuracy over stated confidence in bins of equal size; on the diagonal the confidence is right.",
        x_label="stated confidence" + (", calibrated" if calibrated else ""),
        y_label="accuracy",
        series=series,
        diagonal=True,
        percent=True,
        note="Below the diagonal a detector is too sure of itself.",
    )


# --- classes and sources --------------------------------------------------------------------------


def _classes(facts: Facts) -> Table:
    rows: list[Mapping[str, Cell]] = []
    for (model, phase), subject in facts.subjects.items():
        cells = {}
        for label, name in enumerate(LABELS):
            own = subject.right[subject.labels == label]
            cells[name] = estimate(wilson(int(own.sum()), len(own)))
        rows.append({"detector": model, "phase": phase, **cells})
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase"),
        Column("real", "Reals called real", "percent", "Wilson interval.", "higher"),
        Column("fake", "Fakes called fake", "percent", "Wilson interval.", "higher"),
    ]
    return Table("classes-table", "Accuracy by class", columns, rows, group="phase")


def _sources(facts: Facts) -> list[Block]:
    """Accuracy by the images' source as the data set gives it; per class, because a source may have only one class."""
    source_of = about(facts.material, "source")
    if not any(source_of.values()):
        text = "Accuracy by source: the data set names none."
        if facts.material.images is None:
            text = "Accuracy by source: not run. This run was made before sources were recorded; train it again."
        return [Text(text)]
    subjects = [s for s in facts.subjects.values() if s.phase == facts.phase]
    ids, labels = subjects[0].ids, subjects[0].labels
    right = {subject.model: dict(zip(subject.ids, subject.right.tolist(), strict=True)) for subject in subjects}
    members: dict[tuple[str, int], list[str]] = {}
    for name, label in zip(ids, labels.tolist(), strict=True):
        members.setdefault((source_of.get(name, ""), label), []).append(name)
    sizes = Counter(source_of.get(name, "") for name in ids)
    order = sorted(sizes, key=lambda source: (-sizes[source], source))
    rows: list[Mapping[str, Cell]] = []
    for source, label in sorted(members, key=lambda key: (order.index(key[0]), key[1])):
        if source in order[:SOURCES]:
            own = members[source, label]
            cells: dict[str, Cell] = {"source": source or "(none)", "class": LABELS[label], "n": len(own)}
            for subject in subjects:
                called = [right[subject.model].get(name, False) for name in own]
                cells[facts.keys[subject.model]] = estimate(wilson(sum(called), len(called)))
            rows.append(cells)
    columns = [
        Column("source", "Source"),
        Column("class", "Class"),
        Column("n", "Images", "count"),
        *(Column(facts.keys[s.model], s.model, "percent", better="higher") for s in subjects),
    ]
    left = len(order) - SOURCES
    note = f"{left} smaller sources are left out." if left > 0 else ""
    return [Table("sources-table", f"Accuracy by source, {subjects[0].phase}", columns, rows, note, "class")]
