"""Each row finds its image by any usual form of its name, never by a guess; each reading undoes its own mistake."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_df.data.stores import natural_sort
from robustbench_df.errors import DataError
from robustbench_df.image_tables import Ids
from robustbench_df.matching import WAYS, WRONG_ORDERS, Matched, match, readings


def ids(*names: str, where: str = "p.csv", **columns: tuple[str, ...]) -> Ids:
    return Ids(where, columns or {"id": names})


@pytest.mark.parametrize(
    ("names", "way"),
    [
        (("test/3.png", "test/1.png"), "id"),
        (("elsewhere/3.png", "1.png"), "file name"),
        (("3", "1"), "file name without its ending"),
        (("3.jpg", "test/1.png"), "file name without its ending"),
        (("img_003.webp", "1.png"), "number"),
    ],
)
def test_names_are_matched_in_the_form_that_fits_the_most_images(names: tuple[str, ...], way: str) -> None:
    found = match(ids(*names, "nine", ""), ids("test/1.png", "test/2.png", "test/3.png"))
    assert found.way == way
    assert way in WAYS
    assert found.place.tolist() == [2, 0, -1, -1]
    assert found.found == 2


def test_names_that_would_collide_are_matched_by_their_folder_or_not_at_all() -> None:
    images = ids("real/1.png", "fake/1.png", "fake/2.png")
    assert match(ids("fake/1.png", "real/1.png"), images).place.tolist() == [1, 0]
    assert match(ids("1.png", "2.png"), images).found == 0
    assert match(ids("a/1.png", "b/1.png"), ids("1.png", "2.png")).found == 0


def test_the_first_answered_row_of_an_image_counts() -> None:
    found = match(ids("2.png", "1.png", "2.png", "2.png"), ids("1.png", "2.png", "3.png"))
    assert found.place.tolist() == [1, 0, 1, 1]
    assert found.rows(np.array([True, True, True, True])).tolist() == [1, 0, -1]
    assert found.rows(np.array([False, False, True, True])).tolist() == [-1, 2, -1]


def test_of_several_columns_the_one_that_names_images_counts() -> None:
    images = ids("1.png", "2.png")
    table = ids(filename=("2.png", "1.png"), name=("cat", "dog"), index=("2", "1"))
    assert match(table, images).place.tolist() == [1, 0]
    found = match(ids(filename=("x.png", "y.png"), index=("2", "1")), images)
    assert found.names == ("2", "1")
    assert found.place.tolist() == [1, 0]


def test_columns_that_name_different_images_are_refused() -> None:
    images = ids("1.png", "2.png", "3.png")
    table = ids(filename=("1.png", "3.png", "2.png"), path=("1.png", "2.png", "3.png"))
    with pytest.raises(DataError, match=r"'filename' and 'path' of 'p.csv' .*row 2: '3.png' and '2.png'.; leave only"):
        match(table, images)
    with pytest.raises(DataError, match=r"'filename' and 'path' of 'truth.csv'"):
        match(images, ids(where="truth.csv", **table.columns))
    with pytest.raises(DataError, match="name different images"):
        match(ids(filename=("2.png",), path=("1.png",)), images)  # one row is enough
    with pytest.raises(DataError, match="name different images"):  # exact names, but fewer than the numbers find
        match(ids(filename=("3.png", "2.png", "x.png"), index=("1", "2", "3")), images)


@pytest.mark.parametrize("counter", ["index", "id"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_row_counter_beside_file_names_is_ignored(counter: str, first: int) -> None:
    names = tuple(sorted(f"{k}.png" for k in range(first, 20)))
    counted = ids(filename=names, where="counted.csv", **{counter: tuple(map(str, range(first, 20)))})
    plain = ids(filename=tuple(natural_sort(names)))
    for one, other in ((counted, plain), (plain, counted)):
        found = match(one, other)
        assert (found.way, found.found) == ("id", len(names))
        assert [found.images[k] for k in found.place] == list(found.names)
    # Both sides count their own rows, in another order.
    found = match(counted, ids(filename=plain.columns["filename"], **{counter: counted.columns[counter]}))
    assert [found.images[k] for k in found.place] == list(names)


def test_numbers_that_may_mean_either_the_row_or_the_name_are_refused() -> None:
    """An answer to image 2 equals the truth's row number 2 exactly, yet that row is about image 3."""
    truth = ids(where="truth.csv", filename=("1.png", "3.png", "2.png"), index=("1", "2", "3"))
    with pytest.raises(DataError, match=r"'index' of 'truth.csv'|'filename' and 'index'"):
        match(ids("1", "2", "3"), truth)


def test_later_forms_are_tried_only_while_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setitem(WAYS, "number", lambda name: tried.append(name))
    match(ids("2.png", "1.png", "x.png"), ids("1.png", "2.png"))  # all images are found
    match(ids("2.png", "2.png"), ids("1.png", "2.png"))  # all rows have an image
    assert not tried
    match(ids("2.png", "x.png"), ids("1.png", "2.png"))
    assert tried


# --- in which order -------------------------------------------------------------------------------

NAMES = tuple(f"test/{k}.png" for k in range(1, 31))


def reading(names: tuple[str, ...], what: str, images: tuple[str, ...] = NAMES) -> list[str | None]:
    """The name under which the answer stands that each image has in a reading."""
    matched = match(ids(*names), ids(*images))
    rows = readings(matched, np.ones(len(names), bool))[what]
    return [names[row] if row >= 0 else None for row in rows]


def test_each_reading_undoes_its_own_mistake() -> None:
    ranked, listed = natural_sort(NAMES), sorted(NAMES)
    numbers = tuple(str(k) for k in range(1, 31))
    assert reading(numbers, "written") == list(numbers)
    # number k was given the answer of the k-th name in the listing
    slipped = {image: str(k) for k, image in enumerate(listed, start=1)}
    assert reading(numbers, "alphabetical-position") == [slipped[name] for name in NAMES]
    names_beside = dict(zip(ranked, listed, strict=True))
    assert reading(NAMES, "natural-position") == [names_beside[name] for name in NAMES]
    late = dict(zip(ranked, [*ranked[1:], ranked[0]], strict=True))
    assert reading(NAMES, "one-late") == [late[name] for name in NAMES]
    early = dict(zip(ranked, [ranked[-1], *ranked[:-1]], strict=True))
    assert reading(NAMES, "one-early") == [early[name] for name in NAMES]


def test_class_folders_of_the_truth_take_no_part_in_the_listing() -> None:
    classes = tuple(f"{'real' if k % 3 else 'fake'}/{k}.png" for k in range(1, 31))
    flat = tuple(f"{k}.png" for k in range(1, 31))
    assert reading(flat, "alphabetical-position", classes) == reading(flat, "alphabetical-position", flat)
    by_path = dict(zip(sorted(classes), classes, strict=True))
    assert reading(classes, "alphabetical-position", classes) != reading(flat, "alphabetical-position", classes)
    assert set(reading(classes, "alphabetical-position", classes)) == set(by_path)


@pytest.mark.parametrize(
    ("first", "what", "order"),
    [
        (0, "one-early", natural_sort(NAMES)),
        (2, "one-late", natural_sort(NAMES)),
        (0, "alphabetical-from-0", sorted(NAMES)),
        (2, "alphabetical-from-1", sorted(NAMES)),
        (8, "natural-rank", natural_sort(NAMES)),
        (8, "alphabetical-rank", sorted(NAMES)),
    ],
)
def test_numbers_that_begin_elsewhere_than_the_images(first: int, what: str, order: list[str]) -> None:
    meant = {image: str(k) for k, image in enumerate(order, start=first)}
    found = reading(tuple(map(str, range(first, first + 30))), what)
    wrong = [(image, name) for image, name in zip(NAMES, found, strict=True) if name not in (meant[image], None)]
    assert not wrong
    assert found.count(None) <= 1


def test_readings_that_say_the_same_are_told_once() -> None:
    padded = tuple(f"{k:04}.png" for k in range(1, 31))
    assert set(readings(match(ids(*padded), ids(*padded)), np.ones(30, bool))) == {"written", "one-late", "one-early"}
    from_zero = match(ids(*map(str, range(30))), ids(*NAMES))
    found = readings(from_zero, np.ones(30, bool))
    assert "natural-rank" not in found  # that is one-early
    assert found.keys() - {"written"} <= WRONG_ORDERS.keys()


def test_the_listing_is_that_of_the_images_answered() -> None:
    """Answers for every third image: positions among those, not among all."""
    some = NAMES[::3]
    matched = match(ids(*some), ids(*NAMES))
    rows = readings(matched, np.ones(len(some), bool))["alphabetical-position"]
    slipped = dict(zip(sorted(some), some, strict=True))
    assert {NAMES[k]: some[row] for k, row in enumerate(rows) if row >= 0} == slipped


def test_an_answer_that_is_not_there_takes_no_part() -> None:
    matched = match(ids(*NAMES), ids(*NAMES))
    assert isinstance(matched, Matched)
    answered = np.arange(30) != 4
    for rows in readings(matched, answered).values():
        assert 4 not in rows
        assert (rows >= 0).sum() == 29
