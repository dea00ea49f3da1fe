"""Each answer under its own image's name, in every form."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.naming import image_number
from robustbench_df.errors import DataError, UsageError
from robustbench_df.inference import (
    Verdicts,
    challenge_order,
    predict,
    render,
    select,
    tta_views,
    write_forms,
)
from robustbench_df.metrics.calibration import Decision
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.run import Run

NAMES = ("test/1.png", "test/10.png", "test/2.png", "test/11.png")
TRUTH = {1: 0.1, 10: 0.9, 2: 0.2, 11: 0.95}


def verdicts(names: tuple[str, ...] = NAMES) -> Verdicts:
    p = np.array([TRUTH[image_number(n)] for n in names])
    return Verdicts(names, p, (p >= 0.5).astype(np.int8))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_ten_cannot_take_the_place_of_two(order: tuple[int, ...]) -> None:
    """Whatever order the images come in, an index carries the answer of the file with that number."""
    names = tuple(NAMES[k] for k in order)
    rows = json.loads(render(verdicts(names), "challenge"))
    assert rows == [
        {"index": 1, "prediction": "real"},
        {"index": 2, "prediction": "real"},
        {"index": 10, "prediction": "fake"},
        {"index": 11, "prediction": "fake"},
    ]
    by_name = {r["image_id"]: r["prediction"] for r in json.loads(render(verdicts(names), "probability"))}
    assert by_name == {"1.png": 0.1, "2.png": 0.2, "10.png": 0.9, "11.png": 0.95}


def test_confidence_and_csv() -> None:
    rows = json.loads(render(verdicts(), "confidence"))
    assert rows[0] == {"index": 1, "prediction": "real", "confidence": 0.9}
    assert rows[3] == {"index": 11, "prediction": "fake", "confidence": 0.95}
    table = list(csv.DictReader(io.StringIO(render(verdicts(), "csv"))))
    assert table[1] == {"filename": "10.png", "label": "fake", "probability": "0.9"}


@pytest.mark.parametrize("threshold", [0.15, 0.92])
def test_confidence_is_the_probability_of_the_class_named_whatever_the_threshold(threshold: float) -> None:
    p = np.array([TRUTH[image_number(n)] for n in NAMES])
    found = Verdicts(NAMES, p, (p >= threshold).astype(np.int8))
    for row in json.loads(render(found, "confidence")):
        fake = TRUTH[row["index"]]
        assert row["confidence"] == pytest.approx(fake if row["prediction"] == "fake" else 1 - fake)


def test_with_an_abstention_band_the_csv_says_what_is_possible() -> None:
    sets = np.array([[True, False], [True, True], [False, False], [False, True]])
    found = replace(verdicts(), possible=sets)
    rows = list(csv.DictReader(io.StringIO(render(found, "csv"))))
    assert [row["possible"] for row in rows] == ["real", "both", "neither", "fake"]
    assert found.abstained == 2
    assert "possible" not in render(verdicts(), "csv")
    assert verdicts().abstained == 0


def test_names_that_would_collide_keep_their_folder() -> None:
    both = Verdicts(("a/1.png", "b/1.png"), np.array([0.1, 0.9]), np.array([0, 1], np.int8))
    ids = [r["image_id"] for r in json.loads(render(both, "probability"))]
    assert ids == ["a/1.png", "b/1.png"]
    with pytest.raises(DataError, match="same number 1"):
        challenge_order(both.ids)


def test_files_and_zip_hold_the_same(tmp_path: Path) -> None:
    written = write_forms(verdicts(), tmp_path, pack=True)
    assert [p.name for p in written] == [
        "challenge.json",
        "probability.json",
        "confidence.json",
        "predictions.csv",
        "submission.zip",
    ]
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert {n: archive.read(n) for n in archive.namelist()} == {p.name: p.read_bytes() for p in written[:-1]}
    first = (tmp_path / "submission.zip").read_bytes()
    write_forms(verdicts(), tmp_path, pack=True)
    assert (tmp_path / "submission.zip").read_bytes() == first


def test_answers_of_an_earlier_call_do_not_stay_beside_the_new_ones(tmp_path: Path) -> None:
    write_forms(verdicts(), tmp_path, pack=True)
    (tmp_path / "notes.txt").touch()
    write_forms(verdicts(NAMES[:2]), tmp_path, ["csv"], alone=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "predictions.csv"]
    write_forms(verdicts(), tmp_path, ["challenge"])  # a folder of the user's own: nothing is removed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["challenge.json", "notes.txt", "predictions.csv"]


def test_unlabelled_images_are_what_is_predicted() -> None:
    data = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    mixed = image_set_from_arrays(data, [0, 1, -1, -1])
    assert select(mixed).tolist() == [2, 3]
    assert select(mixed, "all").tolist() == [0, 1, 2, 3]
    labelled = image_set_from_arrays(data, [0, 1, 0, 1])
    assert select(labelled).tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="no unlabelled"):
        select(labelled, "unlabelled")
    with pytest.raises(UsageError, match="unknown part"):
        select(labelled, "tst")


def a_run(*members: Detector, size: tuple[int, int] = (8, 8), sides: tuple[int, int] = (8, 8)) -> Run:
    """What `predict` asks of a run: the size of its images (height, width), their sides as given, its ensemble."""
    facts = {
        "name": "one",
        "image_size": size,
        "sides": sides,
        "ensemble": lambda *_, **__: Ensemble(members, [1.0] * len(members)),
        "decision": lambda *_: Decision(),
    }
    return cast(Run, SimpleNamespace(**facts))


def a_detector(side: int | None = None) -> Detector:
    """Computes something of any size; says that it resizes to ``side`` where one is given."""
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    return Detector(net, input_size=side).eval()


def test_images_of_another_size_than_the_runs_are_refused_unless_every_detector_resizes() -> None:
    def images(side: int) -> ImageSet:
        return image_set_from_arrays(np.zeros((2, 3, side, side), np.uint8), [0, 1])

    fixed, free = a_detector(), a_detector(8)
    assert len(predict(a_run(fixed), images(8)).ids) == 2
    with pytest.warns(UserWarning, match=r"^2 of 2 images are smaller or larger .*mostly 12 px, learnt 8\): scaled to"):
        assert len(predict(a_run(free, free), images(12)).ids) == 2
    with pytest.raises(DataError, match=r"12×12 px, .* run 'one' 8×8: .*load_images\(\.\.\., size=8\)") as caught:
        predict(a_run(free, fixed), images(12))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"8×8 px, .* run 'one' 12×8: bring them"):
        predict(a_run(fixed, size=(8, 12)), images(8))


def test_images_that_were_resized_are_told_unless_they_had_the_runs_size() -> None:
    def images(*sizes: str) -> ImageSet:
        loaded = image_set_from_arrays(np.zeros((len(sizes), 3, 8, 8), np.uint8), [-1] * len(sizes))
        return replace(loaded, sizes=np.array(sizes, dtype=object))

    mixed = images("8×8", "20×30", "9×9", "20×30")
    with pytest.warns(UserWarning, match="smaller or larger") as caught:
        predict(a_run(a_detector()), mixed)
    (said,) = [str(warning.message) for warning in caught]
    assert said == (
        "3 of 4 images are smaller or larger than those run 'one' learnt from (shorter side mostly 20 px, learnt 8): "
        "scaled to its 8 px, they are something that its detectors have not seen"
    )
    predict(a_run(a_detector(), sides=(8, 30)), mixed)  # learnt from such, scaled like these: no warning
    with pytest.warns(UserWarning, match=r"^1 of 2 .*mostly 9 px, learnt 10 to 30"):
        predict(a_run(a_detector(), sides=(10, 30)), mixed, np.array([1, 2]))
    predict(a_run(a_detector()), mixed, np.array([0]))  # a warning would be an error here
    predict(a_run(a_detector()), images("8×8", "8×8"))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224)])
def test_tta_views_are_fixed_small_changes(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    views = tta_views(x)
    assert torch.equal(views[0], x)
    assert torch.equal(views[1].flip(3), x)
    assert all(v.shape == x.shape and v.min() >= 0 and v.max() <= 1 for v in views)
    assert all(torch.equal(a, b) for a, b in zip(views, tta_views(x), strict=True))
    assert all(not torch.equal(a, x) for a in views[1:])
