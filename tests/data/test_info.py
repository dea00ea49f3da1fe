from __future__ import annotations

import json

import numpy as np
import pytest

from robustbench_df.data.imageset import Finding, image_set_from_arrays
from robustbench_df.data.info import describe, findings_by_kind
from robustbench_df.data.sources import load_images


@pytest.fixture
def images():
    data = np.random.default_rng(0).integers(0, 256, (9, 3, 4, 6), dtype=np.uint8)
    data[1] = data[0]  # real, real
    data[4] = data[3] = data[2]  # real, fake, unlabelled
    data[6] = data[5]  # fake in train, fake in test
    return image_set_from_arrays(
        data,
        [0, 0, 0, 1, -1, 1, 1, 1, 0],
        ids=[f"{k}.png" for k in range(9)],
        given=["train", "train", "", "", "", "train", "test", "", ""],
        groups=["a", "a", "b", "", "", "", "", "", ""],
        predictions=[0, 1, 0, 1, 1, 1, 0, -1, 0],
    )


def test_counts(images):
    info = describe(images)
    assert info["images"] == 9
    assert info["sizes"] == {"6x4": 9}
    assert info["classes"] == {"real": 4, "fake": 4, "unlabelled": 1}
    assert info["splits"] == {
        "none": {"real": 2, "fake": 2, "unlabelled": 1},
        "test": {"real": 0, "fake": 1, "unlabelled": 0},
        "train": {"real": 2, "fake": 1, "unlabelled": 0},
    }
    assert info["groups"] == 2


def test_findings_are_told_by_kind_with_counts_and_the_first():
    lost = [Finding("missing-image", f"{k}.png", f"index {k} has no image") for k in range(3)]
    assert findings_by_kind([lost[0], Finding("x", "a", "said"), *lost[1:]]) == [
        "missing-image: index 0 has no image ('0.png', and 2 more)",
        "x: said",
    ]
    assert findings_by_kind([]) == []


def test_planted_duplicates_are_found_and_told_apart(images):
    found = describe(images)["duplicates"]
    assert found == {
        "groups": 3,
        "extra": 4,
        "within_class": 2,
        "across_class": 1,
        "with_unlabelled": 1,
        "across_split": 1,
        "examples": [["2.png", "3.png", "4.png"], ["5.png", "6.png"], ["0.png", "1.png"]],
    }


def test_agreement_with_the_black_box(images):
    assert describe(images)["predictions"] == {
        "n": 7,
        "agree": 5,
        "share": 5 / 7,
        "classes": {"real": {"n": 4, "agree": 3, "share": 0.75}, "fake": {"n": 3, "agree": 2, "share": 2 / 3}},
        "without": 1,
    }


def test_no_duplicates_no_predictions_odd_names_and_findings_survive_json(folder, pair, make_png):
    files = pair | {"real/\udcff.png": make_png(50), "fake/bad.png": b"no", "notes.txt": b""}
    info = json.loads(json.dumps(describe(load_images(folder(files), max_bad=0.5))))
    assert info["predictions"] is None
    assert info["duplicates"]["groups"] == 0
    assert info["duplicates"]["examples"] == []
    assert info["finding_counts"] == {"not-an-image": 1, "unreadable": 1}
    assert {f["where"] for f in info["findings"]} == {"notes.txt", "fake/bad.png"}
    assert info["formats"] == {"PNG": 5}
