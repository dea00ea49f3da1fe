"""Read a submission, in any form that ``rdf predict`` writes, and find the image that each answer is about."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditFinding, Example, Figure, Severity
from robustbench_df.audit.statistics import Rows
from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.data.naming import parse_label
from robustbench_df.errors import DataError
from robustbench_df.inference import image_number

_NAMES = ("index", "image_id", "filename", "path", "id", "image", "name")
_WORDS = ("label", "prediction", "class")
_NUMBERS = ("probability", "prediction", "score")
_MEMBERS = ("predictions.csv", "probability.json", "confidence.json", "challenge.json")
"""Files of a ``submission.zip``, the one that says most first."""

_TITLES = {
    "ids": "The submission answers for every image, once",
    "values": "The submission's values are in range and consistent",
    "degenerate": "The submission tells images apart",
    "order": "Each answer stands under its own image",
    "polarity": "Fake means fake in the submission",
}

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Submission:
    """Answers as a file states them, N rows in its order.

    Attributes:
        where: the file.
        names: what each row calls its image, as text.
        probability: P(fake) as stated or as the confidence in a named class implies; nan where neither is.
        verdict: int8, 1 fake, 0 real, -1 where none is named.
        confidence: confidence in the class named, as stated; nan where not.
        unread: the first rows that cannot be read, as ``row 7: 'maybe'``; such a row has no answer.
    """

    where: str
    names: tuple[str, ...]
    probability: NDArray[np.float64]
    verdict: NDArray[np.int8]
    confidence: NDArray[np.float64]
    unread: tuple[str, ...] = ()

    @property
    def score(self) -> NDArray[np.float64]:
        """P(fake) where it is known, else the verdict as 0 or 1; nan where the row has no answer."""
        named = np.where(self.verdict == UNLABELLED, NAN, self.verdict)
        return np.where(np.isnan(self.probability), named, self.probability)


def read_submission(path: Path) -> tuple[Submission, ...]:
    """Read a ``.json``, ``.csv`` or ``.zip`` file; an archive gives one submission per file, the fullest first.

    A row names its image (``index``, ``image_id``, ``filename``, ``path`` …) and says ``fake`` or ``real``
    (``prediction``, ``label``), a probability (``prediction``, ``probability``), or a word with its ``confidence``.

    Raises:
        DataError: the file cannot be read as one of these.
    """
    try:
        if path.suffix.lower() != ".zip":
            return (_parse(path.read_bytes(), str(path)),)
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith((".json", ".csv"))]
            rank = {name: k for k, name in enumerate(_MEMBERS)}
            members.sort(key=lambda name: (rank.get(PurePosixPath(name).name, len(rank)), name))
            found = tuple(_parse(archive.read(name), f"{path}:{name}") for name in members)
    except (zipfile.BadZipFile, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the predictions '{path}': {reason}; give a JSON, CSV or zip file") from error
    if not found:
        raise DataError(f"'{path}' holds no JSON or CSV file; give a submission as rdf predict writes it")
    return found


def _parse(raw: bytes, where: str) -> Submission:
    rows = _csv_rows(raw, where) if where.lower().endswith(".csv") else _json_rows(raw, where)
    if not rows:
        raise DataError(f"'{where}' holds no predictions; write them with: rdf predict")
    columns = {str(key).strip().lower() for key in rows[0]}
    name = next((c for c in _NAMES if c in columns), None)
    if name is None:
        raise DataError(f"'{where}' names no images (columns {', '.join(sorted(columns))}); use {', '.join(_NAMES)}")
    if not columns & {*_WORDS, *_NUMBERS}:
        raise DataError(
            f"'{where}' says nothing of its images (columns {', '.join(sorted(columns))}); add a prediction"
        )
    n = len(rows)
    probability, confidence = np.full(n, NAN), np.full(n, NAN)
    verdict, unread = np.full(n, UNLABELLED, np.int8), []
    for k, row in enumerate(rows):
        cells = {str(key).strip().lower(): value for key, value in row.items()}
        try:
            verdict[k], probability[k], confidence[k] = _answer(cells)
        except (DataError, ValueError, TypeError):
            unread.append(f"row {k + 1}: {str({key: cells[key] for key in cells if key != name})[:60]}")
    names = tuple(str({str(key).strip().lower(): v for key, v in row.items()}.get(name, "")).strip() for row in rows)
    return Submission(where, names, probability, verdict, confidence, tuple(unread))


def _answer(cells: Mapping[str, Any]) -> tuple[int, float, float]:
    """Verdict, P(fake) and confidence of one row; -1 and nan where it does not say."""
    verdict, p = UNLABELLED, NAN
    for key in _WORDS:
        if isinstance(cells.get(key), str) and not _is_number(cells[key]):
            verdict = parse_label(cells[key], None, key)
    for key in _NUMBERS:
        if cells.get(key) is not None and _is_number(cells[key]):
            p = float(cells[key])
            break
    confidence = float(cells["confidence"]) if cells.get("confidence") not in (None, "") else NAN
    if verdict == UNLABELLED and p != p:
        # A label of 0 or 1 is a verdict; what else is written is no answer.
        verdict = parse_label(cells["label"], None, "label") if "label" in cells else UNLABELLED
        if verdict == UNLABELLED:
            raise DataError("no answer")
    if p != p and confidence == confidence:
        p = confidence if verdict == 1 else 1 - confidence
    return verdict, p, confidence


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def _json_rows(raw: bytes, where: str) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{where}' is no JSON: {error}; write it with: rdf predict") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"'{where}' must be a list of objects with an image and a prediction each")
    return rows


def _csv_rows(raw: bytes, where: str) -> list[Mapping[str, Any]]:
    try:
        return list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig", "surrogateescape"), newline="")))
    except csv.Error as error:
        raise DataError(f"'{where}' is no CSV: {error}; write it with: rdf predict") from error


def match(names: Sequence[str], images: ImageSet, rows: Rows) -> NDArray[np.intp]:
    """Return, for each name, the position among ``rows`` of the image it stands for; -1 where it stands for none.

    A name is an image's id, else its file name, its file name without ending, or the one number in it (leading zeros
    do not count), each only where no other image shares it.
    """
    ids = [str(i) for i in images.ids[rows]]
    known: dict[str, int] = {}
    for name_of in (_itself, _file_name, _stem, _number):
        keys = [name_of(i) for i in ids]
        count = Counter(keys)
        for position, key in enumerate(keys):
            if key and count[key] == 1:
                known.setdefault(key, position)
    found = [known.get(name, known.get(_number(name) if name.isdigit() else name, -1)) for name in names]
    return np.array(found, dtype=np.intp)


def _itself(name: str) -> str:
    return name


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _number(name: str) -> str:
    try:
        return str(image_number(name))
    except DataError:
        return ""


def expected(names: Sequence[str], images: ImageSet) -> tuple[Rows, NDArray[np.intp]]:
    """Find out which images a submission is about: the unlabelled ones, or all.

    Returns:
        their rows, and for each name its position among these (see `match`).
    """
    everything = np.arange(len(images))
    unlabelled = np.flatnonzero(images.labels == UNLABELLED)
    choices = [rows for rows in (unlabelled, everything) if len(rows)]
    matched = [match(names, images, rows) for rows in choices]
    # As `rdf predict` chooses: the unlabelled images where there are any; all only when more of the names fit.
    best = max(range(len(choices)), key=lambda k: (int((matched[k] >= 0).sum()), -k))
    return choices[best], matched[best]


def by_image(score: NDArray[np.float64], place: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Return P(fake) of each expected image ``[n]``; nan where it has no answer."""
    answers = np.full(n, np.nan)
    answers[place[place >= 0]] = score[place >= 0]
    return answers


def finding(
    name: str,
    severity: Severity,
    detail: str,
    figures: dict[str, Figure],
    remedy: str = "",
    images: Sequence[Example] = (),
) -> AuditFinding:
    """Build the finding ``predictions-<name>``; a remedy is kept only where something is to be done."""
    return AuditFinding(
        id=f"predictions-{name}",
        severity=severity,
        title=_TITLES[name],
        detail=detail,
        figures=figures,
        images=tuple(images),
        remedy=remedy if severity in ("warn", "fail") else "",
    )
