"""`rdf score`: anyone's prediction file against labels, and a look at whether its ids are in order.

Ids are matched as they are, by file name, or by the number in them, whichever fits the most images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from robustbench_df.answers import Answer, Answers, read_answers, read_truth
from robustbench_df.data.imageset import UNLABELLED
from robustbench_df.data.stores import natural_sort
from robustbench_df.errors import DataError
from robustbench_df.inference import image_number
from robustbench_df.metrics.compare import mcnemar
from robustbench_df.metrics.intervals import Interval, auc_interval, bootstrap, wilson
from robustbench_df.metrics.scores import Confusion, balanced_accuracy, confusion, f1

NAMED = 3
"""Ids that a warning spells out."""

DISORDER_GAIN, DISORDER_P = 0.05, 1e-3
"""Another order is only suspected when it is better by this much and the exact McNemar test finds chance unlikely: a
detector no better than a coin gains nothing worth a warning in any order."""


@dataclass(frozen=True)
class Order:
    """Accuracy when answers are dealt to the images in another order, with the exact McNemar p against the file's."""

    name: str
    accuracy: float
    p_value: float
    n: int
    suspected: bool


@dataclass(frozen=True)
class Scored:
    """What came of it; intervals are 95%, shares are of the ``n`` images that have a label and an answer."""

    n: int
    matched_by: str
    accuracy: Interval
    balanced_accuracy: Interval
    f1: Interval
    auc: Interval | None
    """None: the file gives no probabilities."""
    confusion: Confusion
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    duplicates: tuple[str, ...]
    unlabelled: int
    orders: tuple[Order, ...]

    def warnings(self) -> list[str]:
        """One line for each thing that is not as it should be."""
        lines = []
        if self.missing:
            wrong = self.accuracy.value * self.n / (self.n + len(self.missing))
            lines.append(
                f"missing: {_listed(self.missing)} without an answer, left out; accuracy is {wrong:.1%} if they count "
                "as wrong"
            )
        if self.duplicates:
            lines.append(f"duplicate: {_listed(self.duplicates)} answered more than once; the first answer counts")
        if self.unknown:
            lines.append(f"unknown: {_listed(self.unknown)} with an answer but without a label; ignored")
        for order in self.orders:
            if order.suspected:
                lines.append(
                    f"the ids look mis-ordered: accuracy is {self.accuracy.value:.1%} under the file's ids, but "
                    f"{order.accuracy:.1%} when {order.name}; check how they were written"
                )
        return lines


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{len(names)} {'image' if len(names) == 1 else 'images'} ({shown})"


def score_file(predictions: Path, truth: Path, fake_is: int | None = None) -> Scored:
    """Score a prediction file against labels.

    Args:
        predictions: any form that `rdf predict` writes, or a CSV or JSON of ids with labels or P(fake).
        truth: CSV, JSON or manifest of ids and labels, or a folder or zip of labelled images.
        fake_is: which of the numeric labels 0 and 1 means fake in ``truth``; 1 when None.

    Raises:
        DataError: a file that cannot be read, or nothing in it that belongs to the other; always one line.
    """
    answers = read_answers(predictions)
    labels = read_truth(truth, fake_is)
    matched_by, found = match(answers.by_id, labels)
    if not found:
        mine, theirs = next(iter(answers.by_id)), next(iter(labels))
        raise DataError(
            f"no answer in '{predictions}' belongs to a label in '{truth}': ids look like '{mine}' and '{theirs}'; "
            "they must agree in path, file name or number"
        )
    return _score(answers, labels, matched_by, found)


def _score(answers: Answers, labels: Mapping[str, int], matched_by: str, found: Mapping[str, str]) -> Scored:
    by_image = {image: answers.by_id[own] for image, own in found.items()}
    judged = [image for image in labels if image in by_image and labels[image] != UNLABELLED]
    if not judged:
        raise DataError("none of the images with an answer has a label; give labels for the images predicted")
    truth = np.array([labels[image] for image in judged], np.int8)
    # A margin of ±1 stands for a verdict, so that every score has its one definition.
    margin = np.array([2.0 * by_image[image].verdict - 1 for image in judged])
    counts = confusion(margin, truth)
    probability = np.array([by_image[image].probability for image in judged])
    return Scored(
        n=len(judged),
        matched_by=matched_by,
        accuracy=wilson(counts.tn + counts.tp, counts.n),
        balanced_accuracy=bootstrap(balanced_accuracy, margin, truth),
        f1=bootstrap(f1, margin, truth),
        auc=auc_interval(probability, truth) if answers.has_probabilities else None,
        confusion=counts,
        missing=tuple(image for image in labels if image not in by_image and labels[image] != UNLABELLED),
        unknown=tuple(natural_sort(answers.by_id.keys() - set(found.values()))),
        duplicates=answers.duplicates,
        unlabelled=sum(label == UNLABELLED for label in labels.values()),
        orders=other_orders(answers, labels, found),
    )


# --- in which order -------------------------------------------------------------------------------


def other_orders(answers: Answers, labels: Mapping[str, int], found: Mapping[str, str]) -> tuple[Order, ...]:
    """Try the orders that are easily mistaken for each other; none where they are the same.

    The usual slip is a position in an alphabetical listing (``1, 10, 2``) written where the image's number belongs, or
    the other way about. The listing is that of the images with an answer; of all images where some id fits none.
    """
    complete = len(found) == len(answers.by_id)
    natural, alphabetical = (order(found if complete else labels) for order in (natural_sort, sorted))
    by_rank = not complete and len(answers.by_id) == len(natural)  # numbers that begin elsewhere than the images'
    if by_rank:
        placed: list[Answer | None] = [answers.by_id[own] for own in natural_sort(answers.by_id)]
    else:
        placed = [answers.by_id[found[image]] if image in found else None for image in natural]
    dealt: dict[str, dict[str, Answer | None]] = {}
    if natural != alphabetical:
        position = {image: k for k, image in enumerate(natural)}
        dealt["its numbers are taken as positions in an alphabetical listing (10.png before 2.png)"] = dict(
            zip(alphabetical, placed, strict=True)
        )
        dealt["its answers, sorted alphabetically by id, are dealt out in numeric order (2.png before 10.png)"] = {
            image: placed[position[other]] for image, other in zip(natural, alphabetical, strict=True)
        }
    if by_rank:
        dealt["its numbers are taken as positions in numeric order"] = dict(zip(natural, placed, strict=True))
    return tuple(_order(name, order, answers, labels, found) for name, order in dealt.items())


def _order(
    name: str,
    dealt: Mapping[str, Answer | None],
    answers: Answers,
    labels: Mapping[str, int],
    found: Mapping[str, str],
) -> Order:
    pairs = [
        (answers.by_id[found[image]].verdict == labels[image], other.verdict == labels[image])
        for image, other in dealt.items()
        if other is not None and image in found and labels[image] != UNLABELLED
    ]
    own, new = np.array(pairs, bool).reshape(-1, 2).T
    test = mcnemar(new, own)
    suspected = bool(test.difference >= DISORDER_GAIN and test.p_value < DISORDER_P)
    return Order(name, float(new.mean()) if len(new) else float("nan"), test.p_value, len(pairs), suspected)


# --- which answer belongs to which image ----------------------------------------------------------


def _number(name: str) -> str | None:
    try:
        return str(image_number(name))
    except DataError:
        return None


MATCHES: dict[str, Callable[[str], str | None]] = {
    "id": lambda name: name,
    "file name": lambda name: PurePosixPath(name).name,
    "file name without its ending": lambda name: PurePosixPath(name).stem,
    "number": _number,
}
"""How an id is looked at: two ids belong together when these agree and no other image of either side has the same."""


def match(own: Mapping[str, Any], labels: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return how ids were matched and, per labelled image, the id of its answer: the way that fits the most images.

    A way in which two ids of one side become the same is not taken.
    """
    best: tuple[str, dict[str, str]] = ("id", {})
    for name, key in MATCHES.items():
        mine, theirs = _keyed(own, key), _keyed(labels, key)
        if mine is None or theirs is None:
            continue
        found = {image: mine[k] for k, image in theirs.items() if k in mine}
        if len(found) > len(best[1]):
            best = name, found
    return best


def _keyed(names: Mapping[str, Any], key: Callable[[str], str | None]) -> dict[str, str] | None:
    keyed = {k: name for name in names if (k := key(name)) is not None}
    known = sum(key(name) is not None for name in names)
    return keyed if len(keyed) == known else None
