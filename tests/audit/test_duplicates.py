from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.duplicates import against_finding, duplicate_findings, given_parts, twins_of_test
from robustbench_df.audit.finding import AuditFinding
from robustbench_df.data.demo import demo_set
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from tests.audit.photos import NEAR, changed, photos

N = 200


def _set(data: np.ndarray, **columns: object) -> ImageSet:
    images = image_set_from_arrays(data, np.arange(len(data)) % 2, origin="planted")
    return replace(images, **{name: np.array(values, dtype=object) for name, values in columns.items()})


def _found(images: ImageSet, **keywords: object) -> dict[str, AuditFinding]:
    findings = duplicate_findings(images, find_copies(images), **keywords)  # type: ignore[arg-type]
    return {finding.id: finding for finding in findings}


def _given(test_from: int, n: int) -> list[str]:
    return ["train"] * test_from + ["test"] * (n - test_from)


def test_a_clean_set_raises_nothing() -> None:
    images = _set(photos()[:N], given=_given(120, N), sources=["a", "b"] * (N // 2))
    found = _found(images)
    assert {finding.severity for finding in found.values()} == {"pass"}
    assert all(not finding.images and not finding.remedy for finding in found.values())


def test_the_demo_set_raises_nothing_for_its_near_copies_are_declared() -> None:
    found = _found(demo_set(count=600))
    assert found["duplicates-near"].severity == "pass"
    assert found["duplicates-near"].figures["declared"] > 0
    assert {finding.severity for finding in found.values()} == {"pass", "not run"}


def test_exact_copies_are_counted_with_the_worst_first() -> None:
    x = photos()[:60]
    images = _set(np.concatenate([x, x[[3, 5]], x[[3]]]))
    images = replace(images, labels=np.where(np.arange(63) == 5, 1 - images.labels[61], images.labels).astype(np.int8))
    finding = _found(images)["duplicates-exact"]
    assert finding.severity == "warn"
    assert (finding.figures["groups"], finding.figures["extra"]) == (2, 3)
    assert finding.figures["across_class"] >= 1
    assert set(finding.images[:2]) == {("3.png", "60.png"), ("5.png", "61.png")}  # of each picture a pair


def test_copies_under_both_labels_come_before_others() -> None:
    x = photos()[:60]
    images = _set(np.concatenate([x, x[:40]]))
    images = replace(images, labels=np.where(np.arange(100) == 70, 1 - images.labels, images.labels).astype(np.int8))
    assert _found(images)["duplicates-exact"].images[0] == ("10.png", "70.png")


@pytest.mark.parametrize("kind", ["mirror", "jpeg", "brightness", "resized_crop"])
def test_near_copies_across_a_split_fail_it(kind: str) -> None:
    x = photos()[:N]
    leaked = changed(x[:20], NEAR[kind])
    images = _set(np.concatenate([x, leaked]), given=_given(120, N + 20))
    finding = _found(images)["duplicates-across-splits"]
    assert finding.severity == "fail"
    assert 19 <= finding.figures["test_near"] <= 20
    assert finding.figures["test_exact"] == 0
    assert finding.figures["test_share"] == pytest.approx(finding.figures["test_near"] / 100)
    assert set(finding.images) <= {(f"{k}.png", f"{k + N}.png") for k in range(20)}
    assert finding.remedy


def test_a_single_leaked_image_is_a_warning() -> None:
    x = photos()[:N]
    images = _set(np.concatenate([x, x[:1]]), given=_given(100, N + 1))
    finding = _found(images)["duplicates-across-splits"]
    assert finding.severity == "warn"
    assert finding.figures["test_exact"] == 1
    assert finding.images == (("0.png", "200.png"),)


def test_the_later_part_is_the_one_that_is_leaked_into() -> None:
    x = photos()[:90]
    images = _set(np.concatenate([x[:30], x[:30], x[30:]]), given=["test"] * 30 + ["val"] * 30 + ["train"] * 60)
    figures = _found(images)["duplicates-across-splits"].figures
    assert (figures["val_exact"], figures["test_exact"]) == (0, 30)


def test_a_crowd_of_identical_images_is_counted_whole() -> None:
    x = photos()[:90]
    crowd = x[:1].repeat(80, axis=0)
    images = _set(np.concatenate([x, crowd]), given=["test"] * 90 + ["test"] * 40 + ["train"] * 40)
    assert _found(images)["duplicates-across-splits"].figures["test_exact"] == 41
    assert twins_of_test(images, find_copies(images)).tolist() == [0, *range(90, 130)]


def test_twins_of_test_are_near_and_exact_copies_outside_it() -> None:
    x = photos()[:90]
    images = _set(np.concatenate([x, x[50:55], changed(x[55:60], NEAR["jpeg"])]), given=_given(50, 90) + ["train"] * 10)
    assert twins_of_test(images, find_copies(images)).tolist() == list(range(50, 60))
    assert not len(twins_of_test(_set(x), find_copies(_set(x))))


def test_a_split_of_ones_own_can_be_judged() -> None:
    x = photos()[:90]
    images = _set(np.concatenate([x, x[:30]]))
    parts = np.array(_given(90, 120), dtype=object)
    assert _found(images)["duplicates-across-splits"].severity == "not run"
    assert _found(images, parts=parts)["duplicates-across-splits"].figures["test_exact"] == 30
    parts[:30] = ""  # in no part: cannot leak
    assert _found(images, parts=parts)["duplicates-across-splits"].severity == "pass"


def test_unlabelled_images_are_a_part_of_their_own() -> None:
    x = photos()[:90]
    images = _set(np.concatenate([x, x[:30]]))
    images = replace(images, labels=np.where(np.arange(120) < 90, images.labels, -1).astype(np.int8))
    assert set(given_parts(images)) == {"train", "unlabelled"}
    assert _found(images)["duplicates-across-splits"].figures["unlabelled_exact"] == 30


def test_copies_from_another_source_are_told() -> None:
    x = photos()[:60]
    images = _set(np.concatenate([x, x[:10], changed(x[20:30], NEAR["jpeg"])]), sources=["a"] * 60 + ["b"] * 20)
    finding = _found(images)["duplicates-across-sources"]
    assert finding.severity == "warn"
    assert finding.figures["exact_pairs"] == 10
    assert finding.figures["near_pairs"] >= 9


def test_near_copies_in_a_declared_group_are_not_held_against_the_set() -> None:
    x = photos()[:60]
    images = _set(np.concatenate([x, x[:, :, :, ::-1]]), groups=[f"tile {k}" for k in range(60)] * 2)
    finding = _found(images)["duplicates-near"]
    assert finding.severity == "pass"
    assert finding.figures["declared"] == 60
    assert finding.figures["pairs"] == 0


def test_plain_images_are_said_to_be_plain() -> None:
    x = np.concatenate([photos()[:30], np.full((2, 3, 32, 32), 200, np.uint8)])
    x[-1, 0, 0, 0] = 0
    finding = _found(_set(x))["duplicates-near"]
    assert finding.figures["plain"] == 2
    assert "2 images are too plain" in finding.detail


def test_another_set_is_compared_in_both_directions() -> None:
    x = photos()[:N]
    here, there = _set(x[:100]), _set(np.concatenate([x[100:], x[:5], changed(x[5:15], NEAR["mirror"])]))
    finding = against_finding(here, there, find_copies(here, there))
    assert finding.severity == "fail"
    figures = finding.figures
    assert (figures["here_images"], figures["here_exact"], figures["here_near"]) == (100, 5, 10)
    assert (figures["there_images"], figures["there_exact"], figures["there_near"]) == (115, 5, 10)
    assert finding.images[0] == ("0.png", "100.png")
    clean = _set(x[100:])
    assert against_finding(here, clean, find_copies(here, clean)).severity == "pass"
