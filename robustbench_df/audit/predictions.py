"""Check a submission before it is sent: the right images, sane values, the right order, the right polarity.

A wrong order is the mistake that costs most and is least visible (`robustbench_df.audit.order`): of five public
submissions to one challenge, two scored 50.8 and 52.2% because they wrote an image's position in an alphabetical
listing (``10.png`` after ``1.png``) instead of its number.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from robustbench_df.audit.finding import AuditFinding, Figure, Severity
from robustbench_df.audit.order import find_judge, order_and_polarity
from robustbench_df.audit.submission import expected, finding
from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.matching import Matched
from robustbench_df.prediction_files import PredictionFile, disagreements, read_predictions

ONE_SIDED = 0.95
"""Share of the answers that name one class from which the audit warns: test sets are rarely that unbalanced."""


def audit_predictions(
    path: Path | str,
    images: ImageSet,
    truth: Path | str | None = None,
    *,
    fake_is: int | None = None,
    opinion: bool = True,
) -> tuple[AuditFinding, ...]:
    """Check a submission file against the images it should be about.

    Args:
        path: in any form of `robustbench_df.prediction_files`; of an archive, its fullest file is checked, and whether
            the others agree with it.
        images: the set; the submission is about its unlabelled images, or about all (whichever its ids fit).
        truth: the true labels (`robustbench_df.truth.read_truth`); the set's own labels when None.
        fake_is: which of the numeric labels 0 and 1 in ``truth`` means fake; 1 when None.
        opinion: without truth, compare the answers with the light classifier, if there are labelled images.

    Returns:
        ``predictions-ids``, ``-values``, ``-degenerate``, ``-order`` and ``-polarity``.

    Raises:
        DataError: the file cannot be read, or contradicts itself.
    """
    files = read_predictions(Path(path))
    main = files[0]
    rows, matched = expected(main.ids, images)
    judge = find_judge(images, rows, truth, fake_is, opinion)
    order, polarity = order_and_polarity(matched, main.score, judge)
    return _ids(matched), _values(files, matched.names), _degenerate(main), order, polarity


def _ids(matched: Matched) -> AuditFinding:
    count = Counter(matched.place[matched.place >= 0].tolist())
    missing = [image for k, image in enumerate(matched.images) if k not in count]
    twice = [matched.images[k] for k, times in count.items() if times > 1]
    unknown = [name or "(no name)" for name, k in zip(matched.names, matched.place, strict=True) if k < 0]
    figures: dict[str, Figure] = {
        "expected": len(matched.images),
        "rows": len(matched.names),
        "missing": len(missing),
        "unknown": len(unknown),
        "twice": len(twice),
        "matched_by": matched.way,
    }
    if not (missing or unknown or twice):
        return finding("ids", "pass", f"each of the {len(matched.images):,} images has one answer", figures)
    said = (
        f"{len(missing):,} of {len(matched.images):,} images have no answer{_first(missing)}, "
        f"{len(unknown):,} rows name no image{_first(unknown)}, "
        f"{len(twice):,} images have more than one{_first(twice)}"
    )
    remedy = "write one row per image under its own name: rdf predict SOURCE"
    return finding("ids", "fail", said, figures, remedy, [*missing, *twice, *unknown])


def _first(names: list[str]) -> str:
    return f" (first: {' '.join(names[0].split())})" if names else ""


def _values(files: tuple[PredictionFile, ...], names: tuple[str, ...]) -> AuditFinding:
    """Check the values: unreadable, outside [0, 1], contradicting their own verdict, differing between files."""
    main = files[0]
    p, crossed = main.probability, main.crossed
    outside = (p < 0) | (p > 1)
    faulty = np.isnan(main.score)
    faulty[list(main.faults)] = True
    unread = [f"row {k + 1}: {main.faults.get(k, 'no answer')}" for k in np.flatnonzero(faulty & ~outside).tolist()]
    doubtful = int((main.confidence < 0.5).sum())
    differ = sum(disagreements(main, other) for other in files[1:])
    figures: dict[str, Figure] = {
        "rows": len(p),
        "unread": len(unread),
        "out_of_range": int(outside.sum()),
        "verdict_against_probability": crossed,
        "confidence_below_half": doubtful,
        "files": len(files),
        "differ_between_files": differ,
    }
    wrong = {
        "rows without a readable answer": len(unread),
        "values outside [0, 1]": int(outside.sum()),
        "verdicts that their own probability contradicts": crossed,
        "answers that differ between the files of the archive": differ,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in wrong.items() if count)
    if not said:
        return finding("values", "pass", f"all {len(p):,} values are in range and agree", figures)
    severity: Severity = "fail" if unread or outside.any() or differ else "warn"
    examples = [*unread, *(names[k] for k in np.flatnonzero(outside))]
    remedy = "P(fake) lies in [0, 1], a confidence belongs to the class named; write the file with rdf predict"
    return finding("values", severity, said + _first(examples), figures, remedy, examples)


def _degenerate(file: PredictionFile) -> AuditFinding:
    score = file.score[~np.isnan(file.score)]
    called = file.called[file.called != UNLABELLED]
    fakes = int(called.sum())
    share = max(fakes, len(called) - fakes) / max(len(called), 1)
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
