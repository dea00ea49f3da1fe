"""Check a submission before it is sent: the right images, sane values, in the right order, the right way round.

Order is the mistake that costs most and shows least (`robustbench_df.audit.order`): of five public submissions to one
challenge two scored 50.8 and 52.2% because they wrote an image's position in an alphabetical listing (``10.png`` after
``1.png``) where its number belonged.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Figure, Severity
from robustbench_df.audit.order import find_judge, order_and_polarity
from robustbench_df.audit.statistics import Rows
from robustbench_df.audit.submission import Submission, by_image, expected, finding, read_submission
from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, ImageSet

ONE_SIDED = 0.95
"""Share of the answers that name one class from which on the audit warns: tests are rarely that uneven."""

ROUNDED = 0.01
"""How far P(fake) of one image may differ between the files of an archive: somebody may have rounded it."""


def audit_predictions(
    path: Path | str, images: ImageSet, truth: Path | str | None = None, *, opinion: bool = True
) -> tuple[AuditFinding, ...]:
    """Check a submission file against the images it should be about.

    Args:
        path: in any form of ``rdf predict``: challenge, probability or confidence JSON, CSV, or a zip of these.
        images: the set; the submission is about its unlabelled images, or about all (whichever its ids fit).
        truth: a file of the true labels, in any of these forms; the set's own labels where None.
        opinion: without truth, hold the answers against the light classifier, if there are labelled images.

    Returns:
        ``predictions-ids``, ``-values``, ``-degenerate``, ``-order`` and ``-polarity``.

    Raises:
        DataError: a file that cannot be read.
    """
    submissions = read_submission(Path(path))
    main = submissions[0]
    rows, place = expected(main.names, images)
    answers = by_image(main.score, place, len(rows))
    judge = find_judge(images, rows, truth, opinion)
    order, polarity = order_and_polarity(images, rows, answers, judge)
    return _ids(main, images, rows, place), _values(submissions), _degenerate(main), order, polarity


def _ids(submission: Submission, images: ImageSet, rows: Rows, place: NDArray[np.intp]) -> AuditFinding:
    count = Counter(place[place >= 0].tolist())
    missing = [str(images.ids[rows[k]]) for k in range(len(rows)) if k not in count]
    twice = [str(images.ids[rows[k]]) for k, times in count.items() if times > 1]
    unknown = [name or "(no name)" for name, k in zip(submission.names, place, strict=True) if k < 0]
    figures: dict[str, Figure] = {
        "expected": len(rows),
        "rows": len(place),
        "missing": len(missing),
        "unknown": len(unknown),
        "twice": len(twice),
    }
    if not (missing or unknown or twice):
        return finding("ids", "pass", f"each of the {len(rows):,} images has one answer", figures)
    said = (
        f"{len(missing):,} of {len(rows):,} images have no answer{_first(missing)}, {len(unknown):,} rows name no "
        f"image{_first(unknown)}, {len(twice):,} images have more than one{_first(twice)}"
    )
    remedy = "write one row per image under its own name: rdf predict SOURCE"
    return finding("ids", "fail", said, figures, remedy, [*missing, *twice, *unknown])


def _first(names: list[str]) -> str:
    return f" (first: {' '.join(names[0].split())})" if names else ""


def _values(submissions: tuple[Submission, ...]) -> AuditFinding:
    """Everything that a value can be wrong in: unread, out of [0, 1], against its own verdict, unlike another file."""
    main = submissions[0]
    p, named = main.probability, main.verdict
    known = ~np.isnan(p)
    outside = known & ((p < 0) | (p > 1))
    crossed = _crossed(p, named)
    doubtful = int((main.confidence < 0.5).sum())
    differ = sum(_disagreements(main, other) for other in submissions[1:])
    figures: dict[str, Figure] = {
        "rows": len(p),
        "unread": len(main.unread),
        "out_of_range": int(outside.sum()),
        "verdict_against_probability": crossed,
        "confidence_below_half": doubtful,
        "files": len(submissions),
        "differ_between_files": differ,
    }
    wrong = {
        "rows without a readable answer": len(main.unread),
        "values outside [0, 1]": int(outside.sum()),
        "verdicts that their own probability contradicts": crossed,
        "answers that differ between the files of the archive": differ,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in wrong.items() if count)
    if not said:
        return finding("values", "pass", f"all {len(p):,} values are in range and agree", figures)
    severity: Severity = "fail" if len(main.unread) or outside.any() or differ else "warn"
    examples = [*main.unread, *(main.names[k] for k in np.flatnonzero(outside))]
    remedy = "P(fake) lies in [0, 1], a confidence belongs to the class named; write the file with rdf predict"
    return finding("values", severity, said + _first(examples), figures, remedy, examples)


def _crossed(p: NDArray[np.float64], verdict: NDArray[np.int8]) -> int:
    """Reals with a higher P(fake) than some fake: a calibrated threshold need not be .5, but one must explain all."""
    fakes, reals = (p[(verdict == label) & ~np.isnan(p)] for label in (FAKE, REAL))
    return int((reals > fakes.min()).sum()) if len(fakes) and len(reals) else 0


def _disagreements(main: Submission, other: Submission) -> int:
    """Images that the other file of an archive answers otherwise, or not; named by their file name or number.

    Verdicts are held against verdicts, else P(fake) against P(fake): what P(fake) alone calls, no file says.
    """
    own, theirs = ({_key(name): k for k, name in enumerate(file.names)} for file in (main, other))
    common = sorted(own.keys() & theirs.keys())
    a, b = ([where[key] for key in common] for where in (own, theirs))
    verdict, p = np.stack([main.verdict[a], other.verdict[b]]), np.stack([main.probability[a], other.probability[b]])
    named, valued = (verdict != UNLABELLED).all(0), ~np.isnan(p).any(0)
    unlike = np.where(named, verdict[0] != verdict[1], valued & (np.abs(p[0] - p[1]) > ROUNDED))
    left = ~(named | valued)  # a verdict here, P(fake) there
    mixed = _crossed(np.where(np.isnan(p[0]), p[1], p[0])[left], verdict.max(0)[left])
    return len(own.keys() ^ theirs.keys()) + int(unlike.sum()) + mixed


def _key(name: str) -> str:
    stem = PurePosixPath(name).stem
    return stem.lstrip("0") or "0" if stem.isdigit() else stem


def _verdicts(submission: Submission) -> list[int]:
    called = np.where(submission.verdict == UNLABELLED, submission.score >= 0.5, submission.verdict == FAKE)
    return [int(v) for v in called]


def _degenerate(submission: Submission) -> AuditFinding:
    score = submission.score[~np.isnan(submission.score)]
    called = np.array(_verdicts(submission))
    fakes = int(called.sum())
    share = max(fakes, len(called) - fakes) / len(called)
    distinct = len(np.unique(score))
    figures: dict[str, Figure] = {
        "rows": len(called),
        "fake": fakes,
        "real": len(called) - fakes,
        "distinct_values": distinct,
    }
    said = f"{fakes:,} fake and {len(called) - fakes:,} real in {len(called):,} answers, {distinct:,} distinct values"
    if distinct <= 1 or share == 1:
        what = "every answer is the same" if distinct <= 1 else "all answers name one class"
        remedy = "look for a threshold or a model that was not loaded; a constant answer carries nothing"
        return finding("degenerate", "fail", f"{what}: {said}", figures, remedy)
    if share >= ONE_SIDED:
        remedy = "make sure that the images are that uneven; else look at the threshold"
        return finding("degenerate", "warn", f"{share:.1%} of the answers name one class: {said}", figures, remedy)
    return finding("degenerate", "pass", said, figures)
