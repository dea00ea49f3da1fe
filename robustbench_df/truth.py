"""True labels of images: from a table, a manifest, or the images' own folders."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED
from robustbench_df.data.naming import parse_label
from robustbench_df.errors import DataError
from robustbench_df.image_tables import Ids, Table, parse_table, read_bytes

LABELS = ("label", "truth", "target", "class")
"""Headers of the column with the true label, in any letter case. The first one present is used; the others must not
contradict it."""

READ_SIZE = 16
"""Side in pixels to which labelled images are scaled on reading: only their names and labels are needed."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Names of images and their labels, int8 ``[N]``: 1 fake, 0 real, -1 unlabelled."""

    ids: Ids
    labels: NDArray[np.int8]


def read_truth(path: Path, fake_is: int | None = None) -> Truth:
    """Read labels from a table in CSV, JSON or Parquet, or a folder or zip of images whose folders name the class.

    Args:
        path: the file or folder.
        fake_is: which of the numeric labels 0 and 1 means fake; 1 when None.

    Raises:
        DataError: the path cannot be read, has no label at all, or has two labels for one image.
    """
    if path.is_dir() or zipfile.is_zipfile(path):
        from robustbench_df.data.sources import load_images

        images = load_images(path, fake_is=fake_is, size=READ_SIZE, require_classes=False)
        truth = Truth(Ids(str(path), {"id": tuple(map(str, images.ids))}), images.labels)
    else:
        truth = _from_table(parse_table(read_bytes(path), str(path), value="label"), fake_is)
    if (truth.labels == UNLABELLED).all():
        raise DataError(f"no labels in '{path}'; give images below real/ and fake/, or a table of ids and labels")
    return truth


def _from_table(table: Table, fake_is: int | None) -> Truth:
    if not len(table):
        return Truth(Ids(table.where, {"id": ()}), np.zeros(0, np.int8))
    column = next((name for name in LABELS if name in table.columns), None)
    if column is None:
        raise DataError(f"'{table.where}' has no {' or '.join(LABELS)} (it has {table.listed})")
    ids = table.ids()
    named = next(iter(ids.columns))
    # File names may recur in other folders; a column that has the folders then tells more images apart.
    paths = [name for name, cells in ids.columns.items() if all(cells) and any("/" in cell for cell in cells)]
    named = max([named, *paths], key=lambda name: len(set(ids.columns[name])))
    _refuse_contradictions(table, column, fake_is)
    labels: dict[str, int] = {}
    rows = []
    for k, (name, cell) in enumerate(zip(ids.columns[named], table.columns[column], strict=True)):
        where = f"row {k + 1} of '{table.where}'"
        if not name:
            raise DataError(f"{where} has no {named}; name its image")
        label = parse_label(cell, fake_is, where)
        if name not in labels:
            rows.append(k)
        if labels.setdefault(name, label) != label:
            raise DataError(f"'{name}' is listed twice with different labels, again in {where}; keep one row")
    kept = {name: tuple(cells[k] for k in rows) for name, cells in ids.columns.items()}
    # Drop columns in which two images have the same name, since they do not identify the images.
    unique = {name: cells for name, cells in kept.items() if len(set(cells)) == len(cells)}
    return Truth(Ids(table.where, unique), np.array(list(labels.values()), np.int8))


def _refuse_contradictions(table: Table, column: str, fake_is: int | None) -> None:
    """Refuse a second label column that contradicts the first: one of them may hold a detector's predictions."""
    for other in LABELS:
        if other == column or other not in table.columns:
            continue
        cells = list(zip(table.columns[column], table.columns[other], strict=True))
        try:
            differ = [{parse_label(cell, fake_is, "") for cell in pair} >= {REAL, FAKE} for pair in cells]
        except DataError:
            continue  # not labels: a "class" may be that of the depicted object
        if any(differ):
            row = differ.index(True)
            raise DataError(
                f"'{table.where}' contradicts itself: row {row + 1} has the {column} '{cells[row][0]}' and the {other} "
                f"'{cells[row][1]}'; leave only the column that is true"
            )
