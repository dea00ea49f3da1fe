from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.health import COARSE, _images_for, detectable_difference, health_findings
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.errors import UsageError


def _set(counts: Sequence[tuple[str, int, int]]) -> ImageSet:
    """Count as (part, real, fake)."""
    labels = [label for _, real, fake in counts for label, n in ((0, real), (1, fake)) for _ in range(n)]
    given = [part for part, real, fake in counts for _ in range(real + fake)]
    return image_set_from_arrays(np.zeros((len(labels), 3, 1, 1), np.uint8), labels, given=given)


def _found(images: ImageSet) -> dict[str, AuditFinding]:
    return {finding.id: finding for finding in health_findings(images)}


# --- what can be told -----------------------------------------------------------------------------


@pytest.mark.parametrize(("p1", "p2", "n"), [(0.9, 0.85, 686), (0.5, 0.4, 388), (0.95, 0.9, 435)])
def test_it_inverts_the_textbook_sample_size(p1: float, p2: float, n: int) -> None:
    """Fleiss, Levin & Paik 2003, equation 4.14, computed by hand with z = 1.95996 and .84162."""
    mean = (p1 + p2) / 2
    root = 1.95996 * math.sqrt(2 * mean * (1 - mean)) + 0.84162 * math.sqrt(p1 * (1 - p1) + p2 * (1 - p2))
    assert math.ceil((root / (p1 - p2)) ** 2) == pytest.approx(n, abs=1)
    assert detectable_difference(n, p1) == pytest.approx(p1 - p2, abs=2e-4)


def test_a_difference_of_that_size_is_seen_four_times_out_of_five() -> None:
    n, accuracy = 1000, 0.9
    delta = detectable_difference(n, accuracy)
    rng = np.random.default_rng(0)
    a, b = rng.binomial(n, accuracy, 40_000) / n, rng.binomial(n, accuracy - delta, 40_000) / n
    mean = (a + b) / 2
    z = np.abs(a - b) / np.sqrt(2 * mean * (1 - mean) / n)
    assert (z > 1.95996).mean() == pytest.approx(0.8, abs=0.012)


def test_more_images_tell_more_and_more_power_asks_for_more() -> None:
    by_n = [detectable_difference(n) for n in (50, 500, 5000, 50_000)]
    assert by_n == sorted(by_n, reverse=True)
    assert detectable_difference(500, power=0.95) > detectable_difference(500)
    assert detectable_difference(500, n_other=5000) < detectable_difference(500)
    assert detectable_difference(500, n_other=500) == detectable_difference(500)


def test_too_few_images_tell_nothing() -> None:
    assert math.isnan(detectable_difference(0))
    assert math.isnan(detectable_difference(2))


@pytest.mark.parametrize("keywords", [{"accuracy": 1.0}, {"accuracy": 0.0}, {"power": 0.5}, {"level": 1.0}])
def test_shares_out_of_range_are_refused(keywords: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must lie strictly between"):
        detectable_difference(100, **keywords)


def test_the_number_of_images_asked_for_is_the_fewest() -> None:
    n = _images_for(COARSE)
    assert detectable_difference(n) <= COARSE < detectable_difference(n - 1)


# --- the findings ---------------------------------------------------------------------------------


def test_a_large_balanced_split_passes() -> None:
    found = _found(_set([("train", 2000, 2000), ("val", 500, 500), ("test", 1000, 1000)]))
    assert {finding.severity for finding in found.values()} == {"pass"}
    figures = found["split-size"].figures
    assert figures["test_images"] == 2000
    assert figures["test_detectable"] == pytest.approx(detectable_difference(2000))


def test_a_small_test_part_cannot_tell_detectors_apart() -> None:
    finding = _found(_set([("train", 500, 500), ("test", 64, 64)]))["split-size"]
    assert finding.severity == "warn"
    assert "points" in finding.detail
    assert str(_images_for(COARSE)) in finding.remedy


def test_without_parts_the_whole_is_judged_and_without_a_judged_part_nothing_is() -> None:
    assert _found(_set([("", 1000, 1000)]))["split-size"].figures["all_images"] == 2000
    assert _found(_set([("train", 1000, 1000)]))["split-size"].severity == "not run"


def test_a_part_with_one_class_fails() -> None:
    finding = _found(_set([("train", 500, 500), ("test", 800, 0)]))["class-balance"]
    assert finding.severity == "fail"
    assert "test" in finding.remedy


@pytest.mark.parametrize("counts", [(900, 100), (50, 950)])
def test_a_skewed_part_is_a_warning(counts: tuple[int, int]) -> None:
    finding = _found(_set([("train", *counts), ("test", *counts)]))["class-balance"]
    assert finding.severity == "warn"
    assert "balanced accuracy" in finding.remedy


def test_parts_with_other_shares_are_a_warning() -> None:
    finding = _found(_set([("train", 500, 500), ("test", 300, 700)]))["class-balance"]
    assert finding.severity == "warn"
    assert "stratified" in finding.remedy


def test_unlabelled_images_have_no_balance() -> None:
    images = image_set_from_arrays(np.zeros((20, 3, 1, 1), np.uint8), [-1] * 20)
    found = _found(images)
    assert found["class-balance"].severity == "not run"
    assert found["split-size"].severity in ("not run", "warn")
