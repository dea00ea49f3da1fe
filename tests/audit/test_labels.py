from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.labels import black_box_finding, conflict_finding, polarity_finding
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.sources import load_images
from tests.audit.photos import NEAR, changed, photos


def _set(data: np.ndarray, labels: np.ndarray, **columns: object) -> ImageSet:
    return image_set_from_arrays(data, labels, origin="planted", **columns)  # type: ignore[arg-type]


def _half(n: int) -> np.ndarray:
    return np.arange(n) % 2


# --- within a set ---------------------------------------------------------------------------------


def test_a_set_without_contradiction_passes() -> None:
    x = photos()[:100]
    images = _set(np.concatenate([x, x[:10], changed(x[10:20], NEAR["jpeg"])]), np.append(_half(100), _half(20)))
    assert conflict_finding(images, find_copies(images)).severity == "pass"


def test_the_same_pixels_under_both_labels_fail() -> None:
    x = photos()[:100]
    images = _set(np.concatenate([x, x[:3]]), np.append(_half(100), 1 - _half(3)))
    finding = conflict_finding(images, find_copies(images))
    assert finding.severity == "fail"
    assert (finding.figures["exact_pairs"], finding.figures["images"]) == (3, 6)
    assert set(finding.images) == {(f"{k}.png", f"{k + 100}.png") for k in range(3)}


def test_one_wrong_label_in_a_small_test_part_fails_and_in_a_large_set_warns() -> None:
    data, labels = np.concatenate([photos()[:300], photos()[:1]]), np.append(_half(300), 1)
    alone = _set(data, labels)
    assert conflict_finding(alone, find_copies(alone)).severity == "warn"
    judged = _set(data, labels, given=["train"] * 291 + ["test"] * 10)
    assert conflict_finding(judged, find_copies(judged)).severity == "fail"


def test_near_copies_under_both_labels_warn_unless_they_are_one_group() -> None:
    x = photos()[:100]
    data = np.concatenate([x, x[:20, :, :, ::-1]])
    labels = np.append(_half(100), 1 - _half(20))
    images = _set(data, labels)
    finding = conflict_finding(images, find_copies(images))
    assert finding.severity == "warn"
    assert (finding.figures["exact_pairs"], finding.figures["near_pairs"]) == (0, 20)
    images = _set(data, labels, groups=[f"{k}" for k in range(100)] + [f"{k}" for k in range(20)])
    finding = conflict_finding(images, find_copies(images))
    assert finding.severity == "pass"
    assert finding.figures["declared"] == 20


def test_without_labels_there_is_nothing_to_contradict() -> None:
    images = _set(photos()[:10], np.full(10, -1))
    assert conflict_finding(images, find_copies(images)).severity == "not run"


# --- between two sets -----------------------------------------------------------------------------


def _polarity(agree: int, disagree: int) -> AuditFinding:
    """Two sets that share pictures: half of them near copies."""
    n = agree + disagree
    x = photos()[: n + 40]
    shared = np.concatenate([x[: n // 2], x[n // 2 : n, :, :, ::-1]])
    labels = _half(n + 40)
    other = np.where(np.arange(n) < agree, labels[:n], 1 - labels[:n])
    first, second = (
        _set(x, labels),
        _set(np.concatenate([shared, photos()[n + 40 : n + 60]]), np.append(other, _half(20))),
    )
    return polarity_finding(first, second, find_copies(first, second))


@pytest.mark.parametrize(
    ("agree", "disagree", "verdict", "severity"),
    [
        (60, 0, "agree", "pass"),
        (58, 2, "agree", "pass"),
        (0, 60, "inverted", "fail"),
        (2, 58, "inverted", "fail"),
        (45, 15, "disagree", "warn"),
        (15, 45, "disagree", "warn"),
        (30, 30, "undecided", "warn"),
        (2, 0, "undecided", "warn"),
    ],
)
def test_polarity(agree: int, disagree: int, verdict: str, severity: str) -> None:
    finding = _polarity(agree, disagree)
    assert (finding.figures["verdict"], finding.severity) == (verdict, severity)
    assert (finding.figures["agree"], finding.figures["disagree"]) == (agree, disagree)
    assert finding.figures["low"] <= finding.figures["share"] <= finding.figures["high"]
    assert len(finding.images) == min(disagree, 50)


def test_sets_that_share_nothing_cannot_be_compared() -> None:
    first, second = _set(photos()[:50], _half(50)), _set(photos()[50:100], _half(50))
    finding = polarity_finding(first, second, find_copies(first, second))
    assert finding.severity == "not run"
    assert finding.figures["shared"] == 0


def test_a_picture_with_many_copies_counts_once() -> None:
    x = photos()[:30]
    first, second = _set(x, _half(30)), _set(np.concatenate([x, x, x[:, :, :, ::-1]]), np.tile(_half(30), 3))
    assert polarity_finding(first, second, find_copies(first, second)).figures["shared"] == 30


# --- a black box ----------------------------------------------------------------------------------


def _black_box(folder: np.ndarray, said: np.ndarray) -> AuditFinding:
    return black_box_finding(_set(np.zeros((len(folder), 3, 2, 2), np.uint8), folder, predictions=said))


def test_a_black_box_that_repeats_the_folder_leaves_nothing_to_clone() -> None:
    folder = _half(400)
    said = np.where(np.arange(400) < 4, 1 - folder, folder)
    finding = _black_box(folder, said)
    assert finding.severity == "warn"
    assert (finding.figures["agree"], finding.figures["disagree"]) == (396, 4)
    assert finding.figures["fidelity_for_nothing"] == 0.99
    assert finding.images == ("0.png", "1.png", "2.png", "3.png")


def test_a_black_box_with_a_mind_of_its_own_passes() -> None:
    folder = _half(400)
    said = np.where(np.arange(400) % 5 == 0, 1 - folder, folder)
    finding = _black_box(folder, said)
    assert finding.severity == "pass"
    assert finding.figures["fidelity_for_nothing"] == 0.8
    assert len(finding.images) == 50


def test_the_better_of_two_idle_clones_counts() -> None:
    folder = _half(100)
    said = np.where(np.arange(100) < 90, 1, 0)
    finding = _black_box(folder, said)
    assert finding.figures["share"] == 0.5
    assert finding.figures["fidelity_for_nothing"] == 0.9


def test_an_inverted_black_box_fails_and_a_constant_one_warns() -> None:
    folder = _half(200)
    assert _black_box(folder, 1 - folder).severity == "fail"
    constant = _black_box(folder, np.ones(200, int))
    assert constant.severity == "warn"
    assert "one verdict only" in constant.remedy


def test_without_predictions_there_is_nothing_to_compare() -> None:
    folder = _half(20)
    assert _black_box(folder, np.full(20, -1)).severity == "not run"
    images = _set(np.zeros((20, 3, 2, 2), np.uint8), np.full(20, -1), predictions=folder)
    assert black_box_finding(images).severity == "not run"


# --- real sets ------------------------------------------------------------------------------------


def test_synergy25_has_the_labels_of_cifake_inverted(real_data: Path) -> None:
    synergy, cifake = (load_images(real_data / f"{name}.zip") for name in ("synergy25", "cifake-12k"))
    finding = polarity_finding(synergy, cifake, find_copies(synergy, cifake))
    assert finding.figures["verdict"] == "inverted"
    assert finding.figures["agree"] == 0
    assert finding.figures["shared"] >= 200
    turned = replace(cifake, labels=(1 - cifake.labels).astype(np.int8))
    assert polarity_finding(synergy, turned, find_copies(synergy, turned)).figures["verdict"] == "agree"
