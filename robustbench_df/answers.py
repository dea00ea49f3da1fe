"""Prediction files and labels, as anyone may have written them: one answer, or one label, per id."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_df.data.imageset import UNLABELLED
from robustbench_df.data.manifest import manifest
from robustbench_df.data.naming import parse_label
from robustbench_df.data.stores import FolderStore
from robustbench_df.errors import DataError, nearest

IDS = ("image_id", "filename", "path", "file", "index", "id", "name")
"""Names under which an image is identified, in any case; the first that is there counts."""

VERDICTS, LABELS = ("prediction", "label"), ("label", "truth", "target", "class")
"""Names of a predicted and of a true label."""

READ_SIZE = 16
"""Side in pixels to which labelled images are read: only their names and labels are wanted, whatever their sizes."""


@dataclass(frozen=True)
class Answer:
    """What a file says of one image: the verdict (1 = fake) and P(fake), NaN where the file gives none."""

    verdict: int
    probability: float = float("nan")


@dataclass(frozen=True)
class Answers:
    """A prediction file: one answer per id, the first where an id is there twice."""

    by_id: Mapping[str, Answer]
    duplicates: tuple[str, ...]

    @property
    def has_probabilities(self) -> bool:
        """Whether every answer has a probability; nothing but 0 and 1 are verdicts in figures."""
        found = {answer.probability for answer in self.by_id.values()}
        return not found <= {0.0, 1.0} and all(p == p for p in found)


def read_answers(path: Path) -> Answers:
    """Read a prediction file: verdicts in words or 0 and 1, P(fake), or a verdict with its confidence.

    Raises:
        DataError: no file of answers; a row without an id, or with an answer that is none.
    """
    by_id: dict[str, Answer] = {}
    twice: list[str] = []
    for where, row in _rows(path):
        answer = _answer(row, where)
        name = _id(row, where)
        if name in by_id:
            twice.append(name)
        elif answer is not None:  # an empty answer is a missing one
            by_id[name] = answer
    if not by_id:
        raise DataError(f"no answers in '{path}'; give a file that rdf predict wrote, or a CSV of ids and labels")
    return Answers(by_id, tuple(dict.fromkeys(twice)))


def _answer(row: Mapping[str, Any], where: str) -> Answer | None:
    key = next((key for key in VERDICTS if key in row), None)
    if key is None and "probability" not in row:
        raise DataError(f"{where} has no {' or '.join(VERDICTS)} (it has {', '.join(row)})")
    said = row[key] if key is not None else None
    figure = _figure(said)
    verdict = parse_label(said, None, where) if figure is None else int(_share(figure, str(key), where) >= 0.5)
    if "probability" in row:
        p = _share(row["probability"], "probability", where)
        return Answer(int(p >= 0.5) if verdict == UNLABELLED else verdict, p)
    if verdict == UNLABELLED:
        return None
    if "confidence" in row:
        confidence = _share(row["confidence"], "confidence", where)
        return Answer(verdict, confidence if verdict else 1 - confidence)
    return Answer(verdict) if figure is None else Answer(verdict, figure)


def _figure(value: Any) -> float | None:
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return None
    return figure if figure == figure else None


def _share(value: Any, what: str, where: str) -> float:
    figure = _figure(value)
    if figure is None or not 0 <= figure <= 1:
        raise DataError(f"{where} has the {what} {value!r}; it must be a number between 0 and 1")
    return figure


def read_truth(path: Path, fake_is: int | None = None) -> dict[str, int]:
    """Read labels (1 = fake, -1 = none) by id: from CSV, JSON, a manifest, or the images' own folders.

    Raises:
        DataError: nothing that can be read, no label at all, or two labels for one image.
    """
    labels: dict[str, int] = {}
    if path.is_dir() or zipfile.is_zipfile(path):
        from robustbench_df.data.sources import load_images

        images = load_images(path, fake_is=fake_is, size=READ_SIZE, require_classes=False)
        labels = {str(name): int(label) for name, label in zip(images.ids, images.labels, strict=True)}
    elif path.suffix.lower() == ".parquet":
        plan = manifest(FolderStore(path.parent, str(path), []), path.name, fake_is)
        labels = {entry.name: entry.label for entry in plan.entries}
    else:
        for where, row in _rows(path):
            key = next((key for key in LABELS if key in row), None)
            if key is None:
                raise DataError(f"{where} has no {' or '.join(LABELS)} (it has {', '.join(row)})")
            name, label = _id(row, where), parse_label(row[key], fake_is, where)
            if labels.setdefault(name, label) != label:
                raise DataError(f"'{name}' is listed twice with different labels, again in {where}; keep one row")
    if all(label == UNLABELLED for label in labels.values()):
        raise DataError(f"no labels in '{path}'; give images below real/ and fake/, or a table of ids and labels")
    return labels


def _id(row: Mapping[str, Any], where: str) -> str:
    value = next((row[key] for key in IDS if key in row), None)
    if value is None or not str(value).strip():
        raise DataError(f"{where} has no id; name its image under {', '.join(IDS)}")
    return posixpath.normpath(str(value).strip().replace("\\", "/"))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where it is, lower-case name -> value) for the rows of a CSV or JSON file."""
    if path.is_dir() or zipfile.is_zipfile(path):
        raise DataError(f"'{path}' is a folder or an archive; give one of the prediction files in it")
    if not path.is_file():
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise DataError(f"no such file: '{path}'{near}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw: Any = json.loads(text) if text.lstrip()[:1] in ("[", "{") else list(csv.DictReader(io.StringIO(text)))
    except (ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"cannot read '{path}': {error}; it must be CSV or JSON") from error
    if isinstance(raw, dict):
        raw = [{"id": name, "prediction": value, "label": value} for name, value in raw.items()]
    for k, row in enumerate(raw, start=1):
        where = f"row {k} of '{path}'"
        if not isinstance(row, dict):
            raise DataError(f"{where} is {str(row)[:60]!r}; it must hold an id and an answer")
        yield where, {str(key).strip().lower(): value for key, value in row.items() if key is not None}
