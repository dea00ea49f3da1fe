"""What stops training, what a run's own split cures, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.finding import Audit
from robustbench_df.audit.front import audit_images
from robustbench_df.audit.gate import audit_before_training, keep_audit, kept_audit, record_audit
from robustbench_df.config import RunConfig, load_config
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.errors import DataError
from robustbench_df.run import Run
from tests.audit.photos import NEAR, changed, photos
from tests.audit.runs import write_run

N = 200


def clean(**columns: object) -> ImageSet:
    return image_set_from_arrays(photos()[:N], np.arange(N) % 2, **columns)  # type: ignore[arg-type]


def before(images: ImageSet, *overrides: str) -> Audit:
    return audit_before_training(images, find_copies(images), settings(*overrides))


def settings(*overrides: str) -> RunConfig:
    return load_config("quick", overrides=overrides)


def darkened() -> ImageSet:
    """The fakes are darker than any real picture."""
    images = clean()
    data = images.data.copy()
    data[images.labels == 1] //= 8
    return image_set_from_arrays(data, images.labels, origin="planted")


def test_a_clean_set_goes_on() -> None:
    found = before(clean())
    assert found.of("fail") == ()
    assert (found.allowed, found.cured) == ((), ())
    assert {"duplicates-near", "label-conflicts", "shortcuts-pixels", "split-size"} <= {f.id for f in found.findings}


def test_a_shortcut_stops_and_the_line_says_how_to_go_on() -> None:
    with pytest.raises(DataError, match=r"'planted' fails shortcuts-pixels.*--allow-findings") as stopped:
        before(darkened())
    assert len(str(stopped.value).splitlines()) == 1
    assert before(darkened(), "allow_findings=true").allowed == ("shortcuts-pixels",)


def test_pictures_that_are_both_real_and_fake_stop_once_they_are_many() -> None:
    x = photos()
    one = image_set_from_arrays(np.concatenate([x[:N], x[:1]]), [*(np.arange(N) % 2), 1])
    assert before(one)["label-conflicts"].severity == "warn"
    many = image_set_from_arrays(np.concatenate([x[:N], x[:20]]), [*(np.arange(N) % 2), *(1 - np.arange(20) % 2)])
    with pytest.raises(DataError, match="label-conflicts"):
        before(many)


def test_copies_that_a_given_split_divides_are_cured_by_ours_unless_it_lets_near_ones_apart() -> None:
    x = photos()[:N]
    data = np.concatenate([x, changed(x[:20], NEAR["mirror"])])
    images = image_set_from_arrays(data, np.arange(N + 20) % 2, given=["train"] * 120 + ["test"] * 100)
    assert before(images).cured == ("duplicates-across-splits",)
    with pytest.raises(DataError, match="duplicates-across-splits"):
        before(images, "split.near_copies=false")


def test_an_inverted_black_box_stops_only_who_would_learn_from_it() -> None:
    images = clean()
    images = replace(images, predictions=(1 - images.labels).astype(np.int8))
    assert before(images).cured == ("black-box-labels",)
    with pytest.raises(DataError, match="black-box-labels"):
        before(images, "data.labels=predictions")


def test_a_later_audit_of_the_run_does_not_forget_what_was_allowed(tmp_path: Path) -> None:
    images = darkened()
    run = write_run(tmp_path / "run", clean())
    record_audit(run, before(images, "allow_findings=true"))
    assert run.read_json("provenance.json")["audit"]["allowed"] == ["shortcuts-pixels"]
    later = audit_images(clean(), fast=True)
    keep_audit(run, later)
    kept = kept_audit(Run(run.path))
    assert kept.allowed == ("shortcuts-pixels",)
    assert kept.counts() == later.counts()
