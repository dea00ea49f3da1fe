"""`rdf score`: score any prediction file against labels, and check whether its ids are in the right order.

`robustbench_df.prediction_files` defines which of several columns is used; `robustbench_df.matching` matches
predictions to images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import UNLABELLED
from robustbench_df.data.stores import natural_sort
from robustbench_df.errors import DataError
from robustbench_df.matching import WRONG_ORDERS, Matched, match, readings
from robustbench_df.metrics.compare import mcnemar
from robustbench_df.metrics.intervals import Interval, auc_interval, bootstrap, wilson
from robustbench_df.metrics.scores import Confusion, balanced_accuracy, confusion, f1
from robustbench_df.prediction_files import PredictionFile, disagreements, read_predictions
from robustbench_df.truth import Truth, read_truth

NAMED = 3
"""Number of ids that a warning lists."""

DISORDER_GAIN, DISORDER_P = 0.05, 1e-4
"""A wrong order is only suspected if another order is more accurate by at least the first value, and if the p-value of
the exact McNemar test is below the second. That limit is strict because up to eight orders are tried, so a detector at
chance level should not cause a warning."""


@dataclass(frozen=True)
class Order:
    """Accuracy if the predictions are assigned to the images in another order.

    ``p_value`` is that of the exact McNemar test against the file's order. ``name`` says how the ids are then read.
    """

    name: str
    accuracy: float
    p_value: float
    n: int
    suspected: bool


@dataclass(frozen=True)
class Scored:
    """The scores; intervals are 95%, shares refer to the ``n`` images that have a label and a prediction."""

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
    crossed: int
    """Number of verdicts that no threshold of the file's P(fake) explains."""
    differing: int
    """Number of differing or missing predictions in the other files of the archive."""

    def warnings(self) -> list[str]:
        """Return one line for each problem."""
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
        if self.crossed:
            lines.append(
                f"contradiction: {self.crossed} {'image is' if self.crossed == 1 else 'images are'} called real with a "
                "higher P(fake) than one called fake, which no threshold explains; AUC is that of P(fake), all else of "
                "the verdicts; see that no column is the truth"
            )
        if self.differing:
            lines.append(
                f"differing: the files of the archive do not agree on {self.differing} of the answers; the one that "
                "says most counts"
            )
        suspected = [order for order in self.orders if order.suspected]
        if suspected:  # one mistake may make several similar orders fit
            order = max(suspected, key=lambda order: order.accuracy)
            lines.append(
                f"the ids look mis-ordered: accuracy is {self.accuracy.value:.1%} under the file's ids, but "
                f"{order.accuracy:.1%} when they are read as {order.name}; check how they were written"
            )
        return lines


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
    return f"{len(names)} {'image' if len(names) == 1 else 'images'} ({shown})"


def score_file(predictions: Path, truth: Path, fake_is: int | None = None) -> Scored:
    """Score a prediction file against labels.

    Args:
        predictions: a prediction file in any form of `robustbench_df.prediction_files`; in an archive, the most
            informative file is scored.
        truth: CSV, JSON or manifest of ids and labels, or a folder or zip of labelled images.
        fake_is: which of the numeric labels 0 and 1 means fake in ``truth``; 1 when None.

    Raises:
        DataError: a file cannot be read, or no prediction matches a label; the message is always one line.
    """
    files = read_predictions(predictions)
    file = files[0]
    if file.faults:
        row, fault = next(iter(file.faults.items()))
        raise DataError(f"row {row + 1} of '{file.ids.where}': {fault}")
    if (file.called == UNLABELLED).all():
        raise DataError(f"no answers in '{predictions}'; give a file that rdf predict wrote, or ids and labels")
    told = read_truth(truth, fake_is)
    matched = match(file.ids, told.ids)
    if not matched.found:
        raise DataError(
            f"no answer in '{predictions}' belongs to a label in '{truth}': ids look like '{matched.names[0]}' and "
            f"'{matched.images[0]}'; they must agree in path, file name or number"
        )
    if "" in matched.names:
        raise DataError(f"row {matched.names.index('') + 1} of '{file.ids.where}' has no id; name its image")
    return _score(files, told, matched)


def _score(files: Sequence[PredictionFile], truth: Truth, matched: Matched) -> Scored:
    file, labels = files[0], truth.labels
    answered = file.called != UNLABELLED
    row = matched.rows(answered)
    judged = np.flatnonzero((row >= 0) & (labels != UNLABELLED))
    if not len(judged):
        raise DataError("none of the images with an answer has a label; give labels for the images predicted")
    true = labels[judged]
    # Verdicts are passed as margins of ±1, so that every score has a single definition.
    margin = 2.0 * file.called[row[judged]] - 1
    counts = confusion(margin, true)
    times = Counter(matched.names[k] for k in np.flatnonzero(answered))
    unknown = {matched.names[k] for k in np.flatnonzero(answered & (matched.place < 0))}
    return Scored(
        n=len(judged),
        matched_by=matched.way,
        accuracy=wilson(counts.tn + counts.tp, counts.n),
        balanced_accuracy=bootstrap(balanced_accuracy, margin, true),
        f1=bootstrap(f1, margin, true),
        auc=auc_interval(file.probability[row[judged]], true) if file.has_probabilities else None,
        confusion=counts,
        missing=tuple(matched.images[k] for k in np.flatnonzero((row < 0) & (labels != UNLABELLED))),
        unknown=tuple(natural_sort(unknown)),
        duplicates=tuple(name for name, count in times.items() if count > 1),
        unlabelled=int((labels == UNLABELLED).sum()),
        orders=other_orders(matched, file.called, labels),
        crossed=file.crossed,
        differing=sum(disagreements(file, other) for other in files[1:]),
    )


def other_orders(matched: Matched, called: NDArray[np.int8], labels: NDArray[np.int8]) -> tuple[Order, ...]:
    """Score all `readings` of a file except the written one.

    Args:
        matched: rows and images.
        called: the verdict of each row ``[N]``; -1 for none.
        labels: of each image ``[M]``; -1 for none.
    """
    rows = readings(matched, called != UNLABELLED)
    written = rows.pop("written")
    orders = []
    for what, other in rows.items():
        both = (written >= 0) & (other >= 0) & (labels != UNLABELLED)
        own, new = (called[row[both]] == labels[both] for row in (written, other))
        test = mcnemar(new, own)
        suspected = bool(test.difference >= DISORDER_GAIN and test.p_value < DISORDER_P)
        accuracy = float(new.mean()) if len(new) else float("nan")
        orders.append(Order(WRONG_ORDERS[what], accuracy, test.p_value, len(new), suspected))
    return tuple(orders)
