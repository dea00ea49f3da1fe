"""Match the rows of a table to images, and reorder them to detect mistakes in their order.

`rdf score` and `rdf audit --predictions` both use this module, so that they always match the same image.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.naming import image_number
from robustbench_df.data.stores import natural_key, natural_sort
from robustbench_df.errors import DataError
from robustbench_df.image_tables import Ids

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Matched:
    """The match of N rows to M images.

    Attributes:
        names: the name that each row gives its image, ``N``.
        images: the names of the images, ``M``.
        way: the form in which the names were compared, one of `WAYS`.
        place: for each row the position of its image ``[N]``; -1 if it matches none.
    """

    names: tuple[str, ...]
    images: tuple[str, ...]
    way: str
    place: Rows

    @property
    def found(self) -> int:
        """Number of images that at least one row matches."""
        return len(np.unique(self.place[self.place >= 0]))

    def rows(self, answered: NDArray[np.bool_]) -> Rows:
        """Return for each image ``[M]`` the first matching row that is ``answered`` (bool ``[N]``); -1 if none."""
        first = np.full(len(self.images), -1, np.intp)
        known = np.flatnonzero(answered & (self.place >= 0))[::-1]  # reversed, so that the first row wins
        first[self.place[known]] = known
        return first


def _number(name: str) -> str | None:
    try:
        return str(image_number(name))
    except DataError:
        return None


WAYS: dict[str, Callable[[str], str | None]] = {
    "id": lambda name: name,
    "file name": posixpath.basename,
    "file name without its ending": lambda name: posixpath.splitext(posixpath.basename(name))[0],
    "number": _number,
}
"""The forms in which two names are compared; names that agree in one form agree in all later ones."""


def match(ids: Ids, images: Ids) -> Matched:
    """Match each row to its image, using the pair of columns and the form of names that match the most images.

    The same form is used for all rows. A form is rejected if it makes two different names, or the names of two images,
    equal, because the match would be ambiguous. Among forms and columns that match equally many images, the first in
    `WAYS` and then in `robustbench_df.image_tables.IDS` is used; columns of bare numbers come last, since they may
    count the rows. If several images have the same name, the first one is matched.

    Raises:
        DataError: two columns name different images, and neither is the stronger by its form.
    """
    tried = [
        (own, other, _match(names, others))
        for own, names in ids.columns.items()
        for other, others in images.columns.items()
    ]
    own, other, best = max(tried, key=lambda found: (found[2].found, -_rank(found[2])))
    weakest = _rank(best)
    for column, counterpart, found in tried:
        if _rank(found) > weakest:
            continue  # e.g. a row number beside exact file names: it contradicts nothing
        differ = np.flatnonzero((found.place >= 0) & (best.place >= 0) & (found.place != best.place))
        if len(differ) and column != own:
            raise _ambiguous(ids, own, column, int(differ[0]))
        if len(differ):
            raise _ambiguous(images, other, counterpart, int(best.place[differ[0]]))
    return best


def _rank(matched: Matched) -> int:
    """Return the position in `WAYS` of a match's form, lower for a stronger match; bare numbers count as the last."""
    bare = any(all(name.isdecimal() for name in names if name) for names in (matched.names, matched.images))
    return len(WAYS) - 1 if bare else list(WAYS).index(matched.way)


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
        if best.found == len(images) or (best.place >= 0).all():
            break  # a later form cannot match more
    return best


def _keyed(names: Sequence[str], key: Callable[[str], str | None]) -> dict[str, str] | None:
    """Return name -> key for the names that have a key; None if two different names have the same key."""
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
    """For each common ordering mistake, return the row of each image after undoing that mistake.

    The most common mistake is to write a position in an alphabetical listing (``1, 10, 2``) instead of the image's
    number, or the reverse. The listing contains the images with an answer, or all images if some name matches none.

    Args:
        matched: rows and images.
        answered: which rows have an answer ``[N]``; the others are ignored.

    Returns:
        reading -> row for each image ``[M]``, -1 for none. ``written``: as the file says. ``alphabetical-position``:
        image number k (in natural order) was given the answer of the k-th image in alphabetical order.
        ``alphabetical-from-0`` and ``-from-1``: the same, but positions are counted from 0 and images from 1, or the
        reverse. ``natural-position``: names in alphabetical order were paired with answers in natural order.
        ``one-late`` and ``one-early``: each answer is one image too late or too early. ``alphabetical-rank`` and
        ``natural-rank``: the k-th name, whatever its number, belongs to the k-th image; only if some names match no
        image and there are as many names as images. A reading is omitted if it agrees with an earlier one on all images
        for which both have a row.
    """
    written = matched.rows(answered)
    first: dict[str, int] = {}
    for row in np.flatnonzero(answered).tolist():
        first.setdefault(matched.names[row], row)
    complete = all(matched.place[row] >= 0 for row in first.values())
    listing = [k for k in range(len(written)) if written[k] >= 0 or not complete]
    # If the answers name no folders, they were listed without them, so class folders of the true labels are ignored.
    called = [name if matched.way == "id" else posixpath.basename(name) for name in matched.images]
    natural = np.array(sorted(listing, key=lambda k: natural_key(called[k])), np.intp)
    alphabetical = np.array(sorted(listing, key=lambda k: called[k]), np.intp)

    def dealt(rows: Rows, images: Rows) -> Rows:
        """Assign the answer of ``rows[k]`` to ``images[k]``."""
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
