"""Prediction files from `rdf predict` or other tools: verdicts, P(fake), or verdicts with a confidence.

A file is a CSV with a header, a Parquet table, a JSON list of objects, a JSON object ``{name: answer}``, or a zip of
CSV and JSON files. Column names may be in any case, and columns in any order. They are interpreted as follows:

1. *The image* is named by a column of `robustbench_df.image_tables.IDS`. If there are several, the one that matches
   the most images is used, and of equal ones the more exact; a less exact one, such as a row number beside file names,
   is ignored, and others that name different images are refused (`robustbench_df.matching.match`).
2. *The verdict* is the class given by ``prediction``, ``label`` or ``class``: a word, or 0 (real) and 1 (fake) in a
   column without other numbers. It takes precedence over P(fake), since a calibrated threshold need not be 0.5. If no
   class is given, the verdict is fake for P(fake) of at least 0.5.
3. *P(fake)* is ``probability`` or ``score``, or the number under ``prediction``, ``label`` or ``class`` in a column
   that also has numbers other than 0 and 1.
4. *A confidence* is the probability of the given class. P(fake) is derived from it if it is not stated.

Columns that contradict each other are refused: two of ``prediction``, ``label`` and ``class`` that differ (one of them
may be the true label); two different values of P(fake); a ``confidence`` together with a number under one of those
three columns that is neither P(fake) nor its complement. A verdict that contradicts ``probability`` or ``score`` is not
refused, since a threshold may explain it; `PredictionFile.crossed` counts verdicts that no threshold explains.

Two columns are ignored if they may mean something else: ``class`` beside any other prediction unless all its values can
be read, since it may be the class of the depicted object; and ``score`` where every row has a verdict and some score
lies outside [0, 1], since it may be a logit.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED
from robustbench_df.data.naming import parse_label
from robustbench_df.data.stores import is_junk
from robustbench_df.errors import DataError
from robustbench_df.image_tables import Ids, Table, parse_table, read_bytes
from robustbench_df.matching import match

VERDICTS, PROBABILITIES, CONFIDENCE = ("prediction", "label", "class"), ("probability", "score"), "confidence"
"""Names of columns with predictions."""

ROUNDED = 0.01
"""Accepted difference of P(fake) of one image between two columns or files, since values may be rounded."""

LARGEST = 256 * 10**6
"""Most bytes that the files of an archive may unpack to: some millions of rows."""

_DAMAGED = (zipfile.BadZipFile, OSError, RuntimeError, zlib.error, lzma.LZMAError, EOFError, ValueError)
"""What reading a damaged, encrypted (RuntimeError) or too large member of an archive raises."""

_MEMBERS = ("predictions.csv", "probability.json", "confidence.json", "challenge.json")
"""Files of a ``submission.zip``, the most informative first."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """The predictions in a file, N rows in the file's order.

    Attributes:
        ids: the names that the rows give their images.
        verdict: int8 ``[N]``, 1 fake, 0 real, -1 if no class is given.
        probability: P(fake) ``[N]``, as stated or derived from the confidence; it may lie outside [0, 1]. nan if
            neither is given.
        confidence: confidence in the given class ``[N]``, as stated; nan if not stated.
        faults: row -> its problem: it cannot be read, or it has a number outside [0, 1].
    """

    ids: Ids
    verdict: NDArray[np.int8]
    probability: Floats
    confidence: Floats
    faults: Mapping[int, str]

    @property
    def score(self) -> Floats:
        """P(fake) if known, else the verdict as 0 or 1; nan if the row has no prediction."""
        named = np.where(self.verdict == UNLABELLED, np.nan, self.verdict)
        return np.where(np.isnan(self.probability), named, self.probability)

    @property
    def called(self) -> NDArray[np.int8]:
        """The verdict ``[N]``; if no class is given, fake means P(fake) >= 0.5; -1 if the row has no prediction."""
        return _called(self.verdict, self.score)

    @property
    def has_probabilities(self) -> bool:
        """Whether every prediction has P(fake); if all values are 0 or 1, they count as verdicts instead."""
        p = self.probability[self.called != UNLABELLED]
        return not (np.isnan(p).any() or np.isin(p, (0, 1)).all())

    @property
    def crossed(self) -> int:
        """Number of verdicts that no threshold of P(fake) explains."""
        return _crossed(self.probability, self.verdict)


def read_predictions(path: Path) -> tuple[PredictionFile, ...]:
    """Read a prediction file; an archive gives one result for each of its files, the most informative first.

    A row that cannot be read, or has an impossible value, becomes one of `PredictionFile.faults`; an empty cell counts
    as a missing prediction.

    Raises:
        DataError: not a prediction file, or columns that contradict each other; the message is always one line.
    """
    if not (zipfile.is_zipfile(path) or (path.is_file() and path.suffix.lower() == ".zip")):
        return (_parse(read_bytes(path), str(path)),)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                name
                for name in archive.namelist()
                if name.lower().endswith((".json", ".csv")) and not any(map(is_junk, name.split("/")))
            ]
            rank = {name: k for k, name in enumerate(_MEMBERS)}
            members.sort(key=lambda name: (rank.get(PurePosixPath(name).name, len(rank)), name))
            contents: dict[str, bytes] = {}
            for name in members:
                contents[name] = _bounded(archive, name, LARGEST - sum(map(len, contents.values())))
    except _DAMAGED as error:
        raise DataError(f"cannot read '{path}': {error}; give a CSV, a JSON file, or a zip of these") from error
    if not contents:
        raise DataError(f"'{path}' holds no JSON or CSV file; give a prediction file as rdf predict writes it")
    return tuple(_parse(content, f"{path}:{name}") for name, content in contents.items())


def _bounded(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Read a member; raise `ValueError` if it has more than ``most`` bytes."""
    with archive.open(name) as file:
        content = file.read(most + 1)  # it may hold more than it declares
    if len(content) > most:
        raise ValueError(f"with {name} it unpacks to more than {LARGEST // 10**6} MB")
    return content


def disagreements(one: PredictionFile, other: PredictionFile) -> int:
    """Count the images whose predictions differ between two files, or that only one of them names.

    Verdicts are compared with verdicts, otherwise P(fake) with P(fake). A verdict is never derived from P(fake) for
    this comparison, since the threshold is not known.
    """
    matched = match(other.ids, one.ids)
    theirs = matched.rows(np.ones(len(matched.names), bool))
    a = np.flatnonzero(theirs >= 0)
    b = theirs[a]
    verdict, p = np.stack([one.verdict[a], other.verdict[b]]), np.stack([one.probability[a], other.probability[b]])
    named, valued = (verdict != UNLABELLED).all(0), ~np.isnan(p).any(0)
    unlike = np.where(named, verdict[0] != verdict[1], valued & (np.abs(p[0] - p[1]) > ROUNDED))
    left = ~(named | valued)  # one file has a verdict, the other P(fake)
    mixed = _crossed(np.where(np.isnan(p[0]), p[1], p[0])[left], verdict.max(0)[left])
    alone = len(set(matched.images)) + len(set(matched.names)) - 2 * len(a)
    return alone + int(unlike.sum()) + mixed


def _called(named: NDArray[np.int8], figures: Floats) -> NDArray[np.int8]:
    by_figure = np.where(np.isnan(figures), UNLABELLED, figures >= 0.5)
    return np.where(named == UNLABELLED, by_figure, named).astype(np.int8)


def _crossed(p: Floats, verdict: NDArray[np.int8]) -> int:
    """Count reals with a higher P(fake) than some fake: any threshold is allowed, but one must explain all verdicts."""
    fakes, reals = (p[(verdict == label) & ~np.isnan(p)] for label in (FAKE, REAL))
    return int((reals > fakes.min()).sum()) if len(fakes) and len(reals) else 0


# --- one file -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Column:
    """The predictions in one column: classes, int8 ``[N]`` (-1: none), numbers ``[N]`` (nan: none), and faults."""

    name: str
    named: NDArray[np.int8]
    figures: Floats
    faults: Mapping[int, str]

    @property
    def called(self) -> NDArray[np.int8]:
        return _called(self.named, self.figures)

    @property
    def outside(self) -> bool:
        """Whether some number lies outside [0, 1]."""
        return bool(((self.figures < 0) | (self.figures > 1)).any())


def _parse(raw: bytes, where: str) -> PredictionFile:
    table = parse_table(raw, where, value="prediction")
    if not len(table):
        raise DataError(f"no answers in '{where}'; give a file that rdf predict wrote, or a CSV of ids and labels")
    columns = {name: _column(name, table) for name in (*VERDICTS, *PROBABILITIES, CONFIDENCE) if name in table.columns}
    if "class" in columns and columns["class"].faults and columns.keys() - {"class", CONFIDENCE}:
        del columns["class"]
    if not columns.keys() - {CONFIDENCE}:
        raise DataError(f"'{where}' has no {' or '.join((*VERDICTS, *PROBABILITIES))} (it has {table.listed})")
    ids, n = table.ids(), len(table)
    verdict, p, confidence = np.full(n, UNLABELLED, np.int8), np.full(n, np.nan), np.full(n, np.nan)
    for name in VERDICTS:
        if name in columns:
            verdict = np.where(verdict == UNLABELLED, columns[name].named, verdict)
    if "score" in columns and (verdict != UNLABELLED).all() and columns["score"].outside:
        del columns["score"]
    _refuse_contradictions(columns, table)
    for name in (*PROBABILITIES, *VERDICTS):
        if name in columns:
            p = np.where(np.isnan(p), columns[name].figures, p)
    stated = ~np.isnan(p)
    if CONFIDENCE in columns:
        confidence = columns[CONFIDENCE].figures
        implied = np.where(verdict == FAKE, confidence, 1 - confidence)
        p = np.where(stated | (verdict == UNLABELLED), p, implied)
    faults: dict[int, str] = {}
    for column in columns.values():
        used = {k: fault for k, fault in column.faults.items() if column.name != CONFIDENCE or not stated[k]}
        faults = {**used, **faults}
    return PredictionFile(ids, verdict, p, confidence, dict(sorted(faults.items())))


def _column(name: str, table: Table) -> _Column:
    n = len(table)
    named, figures = np.full(n, UNLABELLED, np.int8), np.full(n, np.nan)
    faults: dict[int, str] = {}
    wanted = "real, fake or a number between 0 and 1" if name in VERDICTS else "a number between 0 and 1"
    for k, cell in enumerate(table.columns[name]):
        label, figures[k] = _read(cell)
        if label is None or figures[k] < 0 or figures[k] > 1 or (label != UNLABELLED and name not in VERDICTS):
            faults[k] = f"the {name} {str(cell)[:40]!r} must be {wanted}"
        elif name in VERDICTS:
            named[k] = label
    if name in VERDICTS and np.isin(figures[~np.isnan(figures)], (0, 1)).all():
        named = np.where(np.isnan(figures), named, figures == 1).astype(np.int8)
        figures = np.full(n, np.nan)
    return _Column(name, named, figures, faults)


def _read(cell: Any) -> tuple[int | None, float]:
    """Read a cell as a label (None if it is not one) and as a number (nan if it is not one)."""
    try:
        if not isinstance(cell, bool):  # true may mean fake, or correct
            return UNLABELLED, float(cell)
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return parse_label(cell, None, ""), np.nan
    except DataError:
        return None, np.nan


def _refuse_contradictions(columns: Mapping[str, _Column], table: Table) -> None:
    for a, b in combinations(columns.values(), 2):  # a confidence comes last
        if b.name == CONFIDENCE:
            # It need not agree with a probability column. A number in a verdict column must be P(fake) or 1 - P(fake).
            off = np.minimum(np.abs(a.figures - b.figures), np.abs(1 - a.figures - b.figures)) > ROUNDED
            differ = off & (a.name in VERDICTS)
        else:
            differ = np.abs(a.figures - b.figures) > ROUNDED
            if b.name in VERDICTS:  # and so is a
                differ |= (a.called != b.called) & (a.called != UNLABELLED) & (b.called != UNLABELLED)
        if differ.any():
            row = int(differ.argmax())
            said = " and ".join(f"the {c.name} '{table.columns[c.name][row]}'" for c in (a, b))
            raise DataError(
                f"'{table.where}' contradicts itself: row {row + 1} has {said}; leave only the one that is the answer"
            )
