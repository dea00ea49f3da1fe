"""Is each answer of a submission assigned to its own image, and does fake mean fake?

The ids of a submission in the wrong order are complete; only its answers reveal the mistake. So the answers are
compared with the truth if it is known, otherwise with the light classifier, which learns from the labelled images. They
are compared as written, and as they would read if one of the usual mistakes had been made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Figure
from robustbench_df.audit.light import light_opinion
from robustbench_df.audit.statistics import Rows
from robustbench_df.audit.submission import finding, image_ids
from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.errors import DataError
from robustbench_df.matching import WRONG_ORDERS, Matched, match, readings
from robustbench_df.metrics.intervals import Interval, auc_interval
from robustbench_df.truth import read_truth

LEAST_ANSWERS = 20
"""Least number of images of each class on which order and polarity are judged."""
LEAST_AUC = 0.7
"""Least out-of-fold AUROC, at its lower end, of the light classifier: if it guesses, every submission looks like
chance."""
LEARN_FROM = 10_000
"""Most labelled images that the light classifier learns from."""


@dataclass(frozen=True, eq=False)
class Judge:
    """The labels (0, 1; -1 unknown) of the expected images that answers are compared with, and their origin."""

    labels: NDArray[np.int8]
    name: str
    is_truth: bool


def find_judge(
    images: ImageSet, rows: Rows, truth: Path | str | None, fake_is: int | None, opinion: bool
) -> Judge | str:
    """Find labels to compare the answers with, or say why there are none."""
    if truth is not None:
        told = read_truth(Path(truth), fake_is)
        row = match(told.ids, image_ids(images, rows)).rows(told.labels != UNLABELLED)
        labels = np.where(row >= 0, told.labels[row], UNLABELLED).astype(np.int8)
        return Judge(labels, "the truth given", True)
    if (images.labels[rows] != UNLABELLED).any():
        return Judge(images.labels[rows], "the labels", True)
    learn = thin(images.labelled(), LEARN_FROM, images.labels)
    if not opinion or len(np.unique(images.labels[learn])) < 2:
        return "no labels are known; give --truth, or a source that also has labelled images"
    try:
        p, worth = light_opinion(images, learn, rows)
    except DataError as error:
        return str(error)
    if worth.low < LEAST_AUC:
        return (
            f"the light classifier has AUROC {worth.value:.3f} [{worth.low:.3f}, {worth.high:.3f}] out of fold, too "
            f"little to judge by ({LEAST_AUC} is needed); give --truth"
        )
    # Only the more confident half of the classifier's opinions is used.
    sure = np.abs(p - 0.5) >= np.median(np.abs(p - 0.5))
    return Judge(np.where(sure, p >= 0.5, UNLABELLED).astype(np.int8), "the light classifier's surer half", False)


def order_and_polarity(
    matched: Matched, score: NDArray[np.float64], judge: Judge | str
) -> tuple[AuditFinding, AuditFinding]:
    """Compare the answers of a submission with a judge, under all `readings`.

    Args:
        matched: which image each row is about.
        score: P(fake) or the verdict of each row ``[N]``; nan where it has no answer.
        judge: labels of the images ``[M]``, or why there are none.

    Returns:
        ``predictions-order`` and ``predictions-polarity``; ``not run`` if there is no judge.
    """

    def neither(reason: str) -> tuple[AuditFinding, AuditFinding]:
        said = f"not looked at: {reason}"
        return finding("order", "not run", said, {}), finding("polarity", "not run", said, {})

    if isinstance(judge, str):
        return neither(judge)
    read = readings(matched, ~np.isnan(score))
    areas = {what: _area(_answers(score, rows), judge.labels) for what, rows in read.items()}
    answers = _answers(score, read["written"])
    usable = (judge.labels != UNLABELLED) & ~np.isnan(answers)
    least = min(int((judge.labels[usable] == label).sum()) for label in (REAL, FAKE))
    if least < LEAST_ANSWERS:
        return neither(f"{least} answers of a class can be judged; {LEAST_ANSWERS} are needed")
    if len(np.unique(answers[usable])) < 2:
        return neither("all answers are the same")
    figures: dict[str, Figure] = {"judge": judge.name, "n": areas["written"].n}
    for what, area in areas.items():
        figures |= {what: area.value, f"{what}_low": area.low, f"{what}_high": area.high}
    order, best = _order(matched, read, areas, judge, figures)
    return order, _polarity(areas[best], judge, figures)


def _answers(score: NDArray[np.float64], rows: Rows) -> NDArray[np.float64]:
    return np.where(rows >= 0, score[rows], np.nan)


def _area(answers: NDArray[np.float64], labels: NDArray[np.int8]) -> Interval:
    known = (labels != UNLABELLED) & ~np.isnan(answers)
    return auc_interval(answers[known], labels[known])


def _either_way(area: Interval) -> Interval:
    """Mirror an AUROC below 1/2: how informative the answers are, whether or not real and fake are swapped."""
    if area.value >= 0.5:
        return area
    return Interval(1 - area.value, 1 - area.high, 1 - area.low, area.n, area.method)


def _order(
    matched: Matched,
    read: dict[str, Rows],
    areas: dict[str, Interval],
    judge: Judge,
    figures: dict[str, Figure],
) -> tuple[AuditFinding, str]:
    """Find the reading under which the answers are most informative; return the finding and that reading's name."""
    written, told = areas["written"], {what: _either_way(area) for what, area in areas.items()}
    best = max(told, key=lambda what: told[what].value)
    said = f"against {judge.name} the answers reach AUROC {_text(written)} as written"
    if best != "written" and told[best].low > told["written"].high:
        said += f", but {_text(areas[best])} if they are read as {WRONG_ORDERS[best]}"
        remedy = "write each answer under its image's own number, not under a position in a listing: rdf predict"
        # The image that an answer is assigned to (or its id if it names no image), and the image that it fits.
        pairs = [
            (matched.images[matched.place[row]] if matched.place[row] >= 0 else matched.names[row], image)
            for image, row, own in zip(matched.images, read[best], read["written"], strict=True)
            if row >= 0 and row != own
        ]
        return finding("order", "fail", said, figures, remedy, pairs), best
    if written.low <= 0.5 <= written.high:
        said += ": no better than chance"
        remedy = "look whether answers and images were brought together by position somewhere"
        return finding("order", "fail" if judge.is_truth else "warn", said, figures, remedy), "written"
    return finding("order", "pass", said, figures), "written"


def _polarity(area: Interval, judge: Judge, figures: dict[str, Figure]) -> AuditFinding:
    said = f"against {judge.name} the answers, each under its own image, reach AUROC {_text(area)}"
    own: dict[str, Figure] = {key: figures[key] for key in ("judge", "n")}
    own |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    if area.high < 0.5:
        remedy = "fake is 1 and the probability is P(fake): turn the answers round, unless the labels are inverted"
        return finding("polarity", "fail", f"{said}: real and fake are swapped", own, remedy)
    if area.low > 0.5:
        return finding("polarity", "pass", said, own)
    return finding("polarity", "not run", f"{said}: cannot be told", own)


def _text(area: Interval) -> str:
    return f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
