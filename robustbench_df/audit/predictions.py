"""Check a submission before it is sent: the right images, sane values, in the right order, the right way round.

Order is the mistake that costs most and shows least: of five public submissions to one challenge two scored 50.8 and
52.2% because they wrote an image's position in an alphabetical listing (``10.png`` after ``1.png``) where its number
belonged. The ids are complete then; only what the answers say of the images gives it away. So the answers are held
against the truth where it is known, else against the light classifier, which learns from the labelled images: as
written, and as they would read had one of the usual mistakes been made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Severity
from robustbench_df.audit.light import light_opinion
from robustbench_df.audit.statistics import Rows, sample
from robustbench_df.audit.submission import Submission, expected, match, read_submission
from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, ImageSet
from robustbench_df.data.stores import natural_key
from robustbench_df.errors import DataError
from robustbench_df.metrics.intervals import Interval, auc_interval

ONE_SIDED = 0.95
"""Share of the answers that name one class from which on the audit warns: tests are rarely that uneven."""
LEAST_ANSWERS = 20
"""Images of each class that the order and polarity are judged on, at least."""
LEARN_FROM = 10_000
"""Labelled images that the light classifier learns from, at most."""

_TITLES = {
    "ids": "The submission answers for every image, once",
    "values": "The submission's values are in range and consistent",
    "degenerate": "The submission tells images apart",
    "order": "Each answer stands under its own image",
    "polarity": "Fake means fake in the submission",
}


@dataclass(frozen=True, eq=False)
class Judge:
    """Whom the answers are held against: labels (0, 1; -1 unknown) of the expected images, and what they are."""

    labels: NDArray[np.int8]
    name: str
    is_truth: bool


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
    answers = _by_image(main.score, place, len(rows))
    judge = _judge(images, rows, truth, opinion)
    order, polarity = _order_and_polarity(images, rows, answers, judge)
    return _ids(main, images, rows, place), _values(submissions), _degenerate(main), order, polarity


def _by_image(score: NDArray[np.float64], place: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """P(fake) of each expected image ``[n]``; nan where it has no answer."""
    answers = np.full(n, np.nan)
    answers[place[place >= 0]] = score[place >= 0]
    return answers


def _finding(
    name: str,
    severity: Severity,
    detail: str,
    figures: dict[str, float | int | str],
    remedy: str = "",
    images: Sequence[str] | Sequence[tuple[str, str]] = (),
) -> AuditFinding:
    return AuditFinding(
        id=f"predictions-{name}",
        severity=severity,
        title=_TITLES[name],
        detail=detail,
        figures=figures,
        images=tuple(images),
        remedy=remedy if severity in ("warn", "fail") else "",
    )


def _ids(submission: Submission, images: ImageSet, rows: Rows, place: NDArray[np.intp]) -> AuditFinding:
    count = Counter(place[place >= 0].tolist())
    missing = [str(images.ids[rows[k]]) for k in range(len(rows)) if k not in count]
    twice = [str(images.ids[rows[k]]) for k, times in count.items() if times > 1]
    unknown = [name or "(no name)" for name, k in zip(submission.names, place, strict=True) if k < 0]
    figures: dict[str, float | int | str] = {
        "expected": len(rows),
        "rows": len(place),
        "missing": len(missing),
        "unknown": len(unknown),
        "twice": len(twice),
    }
    if not (missing or unknown or twice):
        return _finding("ids", "pass", f"each of the {len(rows):,} images has one answer", figures)
    said = (
        f"{len(missing):,} of {len(rows):,} images have no answer{_first(missing)}, {len(unknown):,} rows name no "
        f"image{_first(unknown)}, {len(twice):,} images have more than one{_first(twice)}"
    )
    remedy = "write one row per image under its own name: rdf predict SOURCE"
    return _finding("ids", "fail", said, figures, remedy, [*missing, *twice, *unknown])


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def _values(submissions: tuple[Submission, ...]) -> AuditFinding:
    """Everything that a value can be wrong in: unread, out of [0, 1], against its own verdict, unlike another file."""
    main = submissions[0]
    p, named = main.probability, main.verdict
    known = ~np.isnan(p)
    outside = known & ((p < 0) | (p > 1))
    # A calibrated threshold need not be .5, but no real may have a higher P(fake) than a fake.
    both = known & (named != UNLABELLED)
    fakes, reals = p[both & (named == FAKE)], p[both & (named == REAL)]
    crossed = int((reals > fakes.min()).sum()) if len(fakes) and len(reals) else 0
    doubtful = int((main.confidence < 0.5).sum())
    differ = sum(_disagreements(main, other) for other in submissions[1:])
    figures: dict[str, float | int | str] = {
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
        "confidences below 0.5 in the class named": doubtful,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in wrong.items() if count)
    if not said:
        return _finding("values", "pass", f"all {len(p):,} values are in range and agree", figures)
    severity: Severity = "fail" if len(main.unread) or outside.any() or differ else "warn"
    examples = [*main.unread, *(main.names[k] for k in np.flatnonzero(outside))]
    remedy = "P(fake) lies in [0, 1], a confidence belongs to the class named; write the file with rdf predict"
    return _finding("values", severity, said + _first(examples), figures, remedy, examples)


def _disagreements(main: Submission, other: Submission) -> int:
    """Images that the other file of an archive gives another verdict, or none; named by their file name or number."""
    own = {_key(name): v for name, v in zip(main.names, _verdicts(main), strict=True)}
    theirs = {_key(name): v for name, v in zip(other.names, _verdicts(other), strict=True)}
    return sum(own.get(key) != theirs.get(key) for key in own.keys() | theirs.keys())


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
    figures: dict[str, float | int | str] = {
        "rows": len(called),
        "fake": fakes,
        "real": len(called) - fakes,
        "distinct_values": distinct,
    }
    said = f"{fakes:,} fake and {len(called) - fakes:,} real in {len(called):,} answers, {distinct:,} distinct values"
    if distinct <= 1 or share == 1:
        what = "every answer is the same" if distinct <= 1 else "all answers name one class"
        remedy = "look for a threshold or a model that was not loaded; a constant answer carries nothing"
        return _finding("degenerate", "fail", f"{what}: {said}", figures, remedy)
    if share >= ONE_SIDED:
        remedy = "make sure that the images are that uneven; else look at the threshold"
        return _finding("degenerate", "warn", f"{share:.1%} of the answers name one class: {said}", figures, remedy)
    return _finding("degenerate", "pass", said, figures)


# --- order and polarity ---------------------------------------------------------------------------


def _judge(images: ImageSet, rows: Rows, truth: Path | str | None, opinion: bool) -> Judge | str:
    """Find labels to hold the answers against, or say why there are none."""
    if truth is not None:
        told = read_submission(Path(truth))[0]
        score = _by_image(told.score, match(told.names, images, rows), len(rows))
        labels = np.where(np.isnan(score), UNLABELLED, score >= 0.5).astype(np.int8)
        return Judge(labels, "the truth given", True)
    if (images.labels[rows] != UNLABELLED).any():
        return Judge(images.labels[rows], "the labels", True)
    learn = sample(images, LEARN_FROM)
    if not opinion or len(np.unique(images.labels[learn])) < 2:
        return "no labels are known; give --truth, or a source that also has labelled images"
    try:
        p = light_opinion(images, learn, rows)
    except DataError as error:
        return str(error)
    # Of an opinion, the surer half is taken.
    sure = np.abs(p - 0.5) >= np.median(np.abs(p - 0.5))
    return Judge(np.where(sure, p >= 0.5, UNLABELLED).astype(np.int8), "the light classifier's surer half", False)


def readings(names: Sequence[str], answers: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the answers as they would stand, had one of the usual mistakes in order been made and were undone.

    Args:
        names: the images' ids ``[N]``.
        answers: what stands under each of them ``[N]``.

    Returns:
        ``written`` (as they stand); ``alphabetical-position``: image number k (in natural order) was given the answer
        of the k-th image in alphabetical order; ``alphabetical-from-0`` and ``-from-1``: the same, but positions are
        counted from 0 and images from 1, or the reverse; ``natural-position``: names in alphabetical order beside
        answers in natural order; ``one-late`` and ``one-early``: each answer stands one image too late or too early.
    """
    natural = np.array(sorted(range(len(names)), key=lambda k: natural_key(names[k])), dtype=np.intp)
    alphabetical = np.array(sorted(range(len(names)), key=lambda k: names[k]), dtype=np.intp)

    def moved(written: NDArray[np.intp], meant: NDArray[np.intp]) -> NDArray[np.float64]:
        """The answer under image ``written[k]`` goes to image ``meant[k]``."""
        out = np.full(len(answers), np.nan)
        out[meant] = answers[written]
        return out

    return {
        "written": answers,
        "alphabetical-position": moved(natural, alphabetical),
        "alphabetical-from-0": moved(natural, np.roll(alphabetical, -1)),
        "alphabetical-from-1": moved(natural, np.roll(alphabetical, 1)),
        "natural-position": moved(alphabetical, natural),
        "one-late": moved(natural, np.roll(natural, 1)),
        "one-early": moved(natural, np.roll(natural, -1)),
    }


def _order_and_polarity(
    images: ImageSet, rows: Rows, answers: NDArray[np.float64], judge: Judge | str
) -> tuple[AuditFinding, AuditFinding]:
    def neither(reason: str) -> tuple[AuditFinding, AuditFinding]:
        said = f"not looked at: {reason}"
        return _finding("order", "not run", said, {}), _finding("polarity", "not run", said, {})

    if isinstance(judge, str):
        return neither(judge)
    names = [str(i) for i in images.ids[rows]]
    areas = {what: _area(read, judge.labels) for what, read in readings(names, answers).items()}
    usable = (judge.labels != UNLABELLED) & ~np.isnan(answers)
    least = min(int((judge.labels[usable] == label).sum()) for label in (REAL, FAKE))
    if least < LEAST_ANSWERS:
        return neither(f"{least} answers of a class can be judged; {LEAST_ANSWERS} are needed")
    if len(np.unique(answers[usable])) < 2:
        return neither("all answers are the same")
    figures: dict[str, float | int | str] = {"judge": judge.name, "n": areas["written"].n}
    for what, area in areas.items():
        figures |= {what: area.value, f"{what}_low": area.low, f"{what}_high": area.high}
    order, read = _order(names, areas, judge, figures)
    return order, _polarity(areas[read], judge, figures)


def _area(answers: NDArray[np.float64], labels: NDArray[np.int8]) -> Interval:
    known = (labels != UNLABELLED) & ~np.isnan(answers)
    return auc_interval(answers[known], labels[known])


def _either_way(area: Interval) -> Interval:
    """Turn an AUROC below 1/2 round: how much the answers tell, real and fake swapped or not."""
    if area.value >= 0.5:
        return area
    return Interval(1 - area.value, 1 - area.high, 1 - area.low, area.n, area.method)


def _order(
    names: list[str], areas: dict[str, Interval], judge: Judge, figures: dict[str, float | int | str]
) -> tuple[AuditFinding, str]:
    """Find the reading under which the answers tell most; returns the finding and that reading's name."""
    written, told = areas["written"], {what: _either_way(area) for what, area in areas.items()}
    best = max(told, key=lambda what: told[what].value)
    said = f"against {judge.name} the answers reach AUROC {_text(written)} as written"
    if best != "written" and told[best].low > told["written"].high:
        said += f", but {_text(areas[best])} if they are read as {_READ[best]}"
        remedy = "write each answer under its image's own number, not under a position in a listing: rdf predict"
        moved = readings(names, np.arange(len(names), dtype=np.float64))[best]
        # The image under which an answer stands, and the image it fits.
        pairs = [(names[int(k)], name) for k, name in zip(moved, names, strict=True) if name != names[int(k)]]
        return _finding("order", "fail", said, figures, remedy, pairs), best
    if written.low <= 0.5 <= written.high:
        said += ": no better than chance"
        remedy = "look whether answers and images were brought together by position somewhere"
        return _finding("order", "fail" if judge.is_truth else "warn", said, figures, remedy), "written"
    return _finding("order", "pass", said, figures), "written"


_READ = {
    "alphabetical-position": "positions in an alphabetical listing (10.png before 2.png)",
    "alphabetical-from-0": "positions from 0 in an alphabetical listing of images from 1",
    "alphabetical-from-1": "positions from 1 in an alphabetical listing of images from 0",
    "natural-position": "names from an alphabetical listing beside answers in order of number",
    "one-late": "standing one image too late (numbers from 1 for images from 0)",
    "one-early": "standing one image too early (numbers from 0 for images from 1)",
}


def _polarity(area: Interval, judge: Judge, figures: dict[str, float | int | str]) -> AuditFinding:
    said = f"against {judge.name} the answers, each under its own image, reach AUROC {_text(area)}"
    own: dict[str, float | int | str] = {key: figures[key] for key in ("judge", "n")}
    own |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    if area.high < 0.5:
        remedy = "fake is 1 and the probability is P(fake); turn the answers round, or read the labels with --fake-is"
        return _finding("polarity", "fail", f"{said}: real and fake are swapped", own, remedy)
    if area.low > 0.5:
        return _finding("polarity", "pass", said, own)
    return _finding("polarity", "not run", f"{said}: cannot be told", own)


def _text(area: Interval) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
