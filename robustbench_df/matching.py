"""Which row of a table is about which image, and what the rows would say in another order.

`rdf score` and `rdf audit --predictions` match answers to images here, so that they always mean the same image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.naming import image_number
from robustbench_df.data.stores import natural_key, natural_sort
from robustbench_df.errors import DataError
from robustbench_df.tables import Ids

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Matched:
    """Which image each of N rows is about, among M images.

    Attributes:
        names: what each row calls its image, ``N``.
        images: what the images are called, ``M``.
        way: in which form the two were compared, one of `WAYS`.
        place: for each row the position of its image ``[N]``; -1 where it is about none.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    way: str
    place: Rows

    @property
    def found(self) -> int:
        """How many images some row is about."""
        return len(np.unique(self.place[self.place >= 0]))

    def rows(self, answered: NDArray[np.bool_]) -> Rows:
        """Return for each image ``[M]`` the first row about it that is ``answered`` (bool ``[N]``); -1: none."""
        first = np.full(len(self.images), -1, np.intp)
        known = np.flatnonzero(answered & (self.place >= 0))[::-1]  # backwards, so that the first one stays
        first[self.place[known]] = known
        return first


def _number(name: str) -> str | None:
    try:
        return str(image_number(name))
    except DataError:
        return None


WAYS: dict[str, Callable[[str], str | None]] = {
    "id": lambda name: name,
    "file name": lambda name: PurePosixPath(name).name,
    "file name without its ending": lambda name: PurePosixPath(name).stem,
    "number": _number,
}
"""The forms in which two names are compared; those that agree in one form agree in all later ones."""


def match(ids: Ids, images: Ids) -> Matched:
    """Find the image that each row is about: the pair of columns, and the way, that fit the most images.

    One way holds for all rows, and none is taken in which two names, or two images, become the same: it would be a
    guess which of them is meant. Of ways and columns that fit as many images the first of `WAYS` and of
    `robustbench_df.tables.IDS` counts, and so does the first of several images that are called the same.

    Raises:
        DataError: two columns both name images, but different ones.
    """
    tried = [
        (own, other, _match(names, others))
        for own, names in ids.columns.items()
        for other, others in images.columns.items()
    ]
    own, other, best = max(tried, key=lambda found: found[2].found)
    for column, counterpart, found in tried:
        differ = np.flatnonzero((found.place >= 0) & (best.place >= 0) & (found.place != best.place))
        if len(differ) and column != own:
            raise _ambiguous(ids, own, column, int(differ[0]))
        if len(differ):
            raise _ambiguous(images, other, counterpart, int(best.place[differ[0]]))
    return best


def _ambiguous(ids: Ids, column: str, other: str, row: int) -> DataError:
    return DataError(
        f"the columns '{column}' and '{other}' of '{ids.where}' name different images (row {row + 1}: "
        f"'{ids.columns[column][row]}' and '{ids.columns[other][row]}'); leave only the right one"
    )


def _match(names: tuple[str, ...], images: tuple[str, ...]) -> Matched:
    best = Matched(names, images, "id", np.full(len(names), -1, np.intp))
    for way, key in WAYS.items():
        own, theirs = _keyed(names, key), _keyed(images, key)
        if own is None or theirs is None:
            continue
        position: dict[str, int] = {}
        for k, image in enumerate(images):
            if image in theirs:
                position.setdefault(theirs[image], k)
        place = np.array([position.get(own.get(name, ""), -1) for name in names], np.intp)
        fit = Matched(names, images, way, place)
        if fit.found > best.found:
            best = fit
    return best


def _keyed(names: Sequence[str], key: Callable[[str], str | None]) -> dict[str, str] | None:
    """Return name -> its key, for the names that have one; None where two different names have the same."""
    keyed = {name: found for name in dict.fromkeys(names) if name and (found := key(name))}
    return keyed if len(set(keyed.values())) == len(keyed) else None


# --- in which order -------------------------------------------------------------------------------

WRONG_ORDERS = {
    "one-late": "standing one image too late (numbers from 1 for images from 0)",
    "one-early": "standing one image too early (numbers from 0 for images from 1)",
    "alphabetical-position": "positions in an alphabetical listing (10.png before 2.png)",
    "alphabetical-from-0": "positions from 0 in an alphabetical listing of images from 1",
    "alphabetical-from-1": "positions from 1 in an alphabetical listing of images from 0",
    "natural-position": "names from an alphabetical listing beside answers in order of number",
    "alphabetical-rank": "positions in an alphabetical listing, counted from another number than the images'",
    "natural-rank": "positions in order of number, counted from another number than the images'",
}
"""The usual mistakes in order, as the end of the sentence "the answers fit better if they are read as …"."""


def readings(matched: Matched, answered: NDArray[np.bool_]) -> dict[str, Rows]:
    """Return which row would be about each image, had one of the usual mistakes been made and were undone.

    The usual slip is a position in an alphabetical listing (``1, 10, 2``) written where the image's number belongs, or
    the other way about. The listing is that of the images with an answer; of all images where some name fits none.

    Args:
        matched: rows and images.
        answered: which rows have an answer ``[N]``; the others are as if they were not there.

    Returns:
        reading -> row for each image ``[M]``, -1 for none. ``written``: as they stand. ``alphabetical-position``:
        image number k (in natural order) was given the answer of the k-th image in alphabetical order;
        ``alphabetical-from-0`` and ``-from-1``: the same, but positions are counted from 0 and images from 1, or the
        reverse; ``natural-position``: names in alphabetical order beside answers in natural order; ``one-late`` and
        ``one-early``: each answer stands one image too late or too early. Where some names fit no image, but there are
        as many as images, ``alphabetical-rank`` and ``natural-rank``: the k-th name, whatever its number, is about the
        k-th image. A reading is left out that differs from an earlier one in no image for which both have a row.
    """
    written = matched.rows(answered)
    first: dict[str, int] = {}
    for row in np.flatnonzero(answered).tolist():
        first.setdefault(matched.names[row], row)
    complete = all(matched.place[row] >= 0 for row in first.values())
    listing = [k for k in range(len(written)) if written[k] >= 0 or not complete]
    # Answers that know no folders were listed without them, whatever class folders the truth lies in.
    called = [name if matched.way == "id" else PurePosixPath(name).name for name in matched.images]
    natural = np.array(sorted(listing, key=lambda k: natural_key(called[k])), np.intp)
    alphabetical = np.array(sorted(listing, key=lambda k: called[k]), np.intp)

    def dealt(rows: Rows, images: Rows) -> Rows:
        """The answer of ``rows[k]`` goes to ``images[k]``."""
        out = np.full(len(written), -1, np.intp)
        out[images] = rows
        return out

    by_number = written[natural]
    found = {
        "written": written,
        "one-late": dealt(by_number, np.roll(natural, 1)),
        "one-early": dealt(by_number, np.roll(natural, -1)),
        "alphabetical-position": dealt(by_number, alphabetical),
        "alphabetical-from-0": dealt(by_number, np.roll(alphabetical, -1)),
        "alphabetical-from-1": dealt(by_number, np.roll(alphabetical, 1)),
        "natural-position": dealt(written[alphabetical], natural),
    }
    if not complete and len(first) == len(written):
        ranked = np.array([first[name] for name in natural_sort(first)], np.intp)
        found |= {"alphabetical-rank": dealt(ranked, alphabetical), "natural-rank": dealt(ranked, natural)}
    kept: dict[str, Rows] = {}
    for what, rows in found.items():
        if not any(_same(rows, other) for other in kept.values()):
            kept[what] = rows
    return kept


def _same(one: Rows, other: Rows) -> bool:
    both = (one >= 0) & (other >= 0)
    return bool(both.any() and (one[both] == other[both]).all())
