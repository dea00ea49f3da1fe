"""A submission as `rdf predict` writes it passes in every form; each usual mistake is named."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.predictions import audit_predictions
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.inference import FORMS, Verdicts, write_forms
from tests.conftest import learnable_set

N = 120
FILES = ("challenge.json", "probability.json", "confidence.json", "predictions.csv")


@pytest.fixture(scope="module")
def truth() -> dict[int, int]:
    """Test images 1.png … 120.png, a third of them fake, in no order."""
    labels = np.random.default_rng(3).permutation(np.arange(N) % 3 == 0).astype(int)
    return {k + 1: int(label) for k, label in enumerate(labels)}


@pytest.fixture(scope="module")
def images(truth: dict[int, int]) -> ImageSet:
    """200 labelled images that can be learnt from, and the 120 unlabelled ones."""
    pool = learnable_set(600)
    fakes, reals = (iter(np.flatnonzero(pool.labels == label)) for label in (1, 0))
    rows = [next(fakes if label else reals) for label in truth.values()]
    rest = [k for k in range(600) if k not in set(rows)][:300]
    return image_set_from_arrays(
        pool.data[rest + rows],
        [*pool.labels[rest], *[-1] * N],
        ids=[*(f"{'fake' if pool.labels[k] else 'real'}/{k}.png" for k in rest), *(f"test/{k}.png" for k in truth)],
    )


def probabilities(truth: dict[int, int]) -> np.ndarray:
    """P(fake) of a good detector: nine in ten are right."""
    rng = np.random.default_rng(0)
    right = rng.random(N) < 0.9
    towards = np.array([label if ok else 1 - label for label, ok in zip(truth.values(), right, strict=True)])
    return np.where(towards == 1, rng.uniform(0.6, 0.99, N), rng.uniform(0.01, 0.4, N))


def submit(folder: Path, names: list[str], p: np.ndarray) -> Path:
    verdicts = Verdicts(tuple(names), p, (p >= 0.5).astype(np.int8))
    write_forms(verdicts, folder, FORMS, pack=True)
    return folder


def names(truth: dict[int, int]) -> list[str]:
    return [f"test/{k}.png" for k in truth]


def by_id(findings: tuple[AuditFinding, ...]) -> dict[str, AuditFinding]:
    return {finding.id.removeprefix("predictions-"): finding for finding in findings}


def write_truth(path: Path, truth: dict[int, int]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"test/{k}.png", v) for k, v in truth.items())])
    return path


@pytest.mark.parametrize("file", [*FILES, "submission.zip"])
def test_a_good_submission_passes_in_every_form(
    file: str, images: ImageSet, truth: dict[int, int], tmp_path: Path
) -> None:
    path = submit(tmp_path, names(truth), probabilities(truth)) / file
    known = by_id(audit_predictions(path, images, write_truth(tmp_path / "truth.csv", truth)))
    assert {name: f.severity for name, f in known.items()} == dict.fromkeys(known, "pass")
    assert list(known) == ["ids", "values", "degenerate", "order", "polarity"]
    assert known["ids"].figures["expected"] == N
    opinion = by_id(audit_predictions(path, images))
    assert {name: f.severity for name, f in opinion.items()} == dict.fromkeys(opinion, "pass")
    assert opinion["order"].figures["judge"] == "the light classifier's surer half"


@pytest.mark.parametrize("with_truth", [True, False])
@pytest.mark.parametrize("file", FILES)
def test_alphabetical_positions_are_recognised(
    file: str, with_truth: bool, images: ImageSet, truth: dict[int, int], tmp_path: Path
) -> None:
    """The published mistake: listing order 1, 10, 100, 11 … and the position in it written as the index."""
    p = dict(zip(names(truth), probabilities(truth), strict=True))
    listing = sorted(p)
    wrong = {f"test/{k + 1}.png": p[name] for k, name in enumerate(listing)}
    path = submit(tmp_path, list(wrong), np.array(list(wrong.values()))) / file
    told = write_truth(tmp_path / "truth.csv", truth) if with_truth else None
    found = by_id(audit_predictions(path, images, told))
    assert found["ids"].severity == "pass"  # which is why nobody notices
    assert found["order"].severity == "fail"
    assert "alphabetical listing" in found["order"].detail
    assert ("test/2.png", "test/10.png") in found["order"].images


def test_swapped_classes_do_not_hide_the_wrong_order(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    p = dict(zip(names(truth), 1 - probabilities(truth), strict=True))
    wrong = {f"test/{k + 1}.png": p[name] for k, name in enumerate(sorted(p))}
    path = submit(tmp_path, list(wrong), np.array(list(wrong.values()))) / "challenge.json"
    found = by_id(audit_predictions(path, images))
    assert "alphabetical listing" in found["order"].detail
    assert found["polarity"].severity == "fail"


def test_positions_from_zero_are_recognised(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    p = dict(zip(names(truth), probabilities(truth), strict=True))
    wrong = {f"test/{k}.png": p[name] for k, name in enumerate(sorted(p))}
    path = submit(tmp_path, list(wrong), np.array(list(wrong.values()))) / "challenge.json"
    found = by_id(audit_predictions(path, images, write_truth(tmp_path / "truth.csv", truth)))
    assert found["ids"].severity == "fail"
    assert found["ids"].images == (f"test/{N}.png", "0")
    assert "from 0" in found["order"].detail


def test_a_shuffled_submission_is_found(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    p = np.random.default_rng(1).permutation(probabilities(truth))
    path = submit(tmp_path, names(truth), p) / "probability.json"
    found = by_id(audit_predictions(path, images, write_truth(tmp_path / "truth.csv", truth)))
    assert found["order"].severity == "fail"
    assert "no better than chance" in found["order"].detail
    assert by_id(audit_predictions(path, images))["order"].severity == "warn"  # only an opinion


@pytest.mark.parametrize("with_truth", [True, False])
def test_swapped_classes_are_found(with_truth: bool, images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    path = submit(tmp_path, names(truth), 1 - probabilities(truth)) / "challenge.json"
    told = write_truth(tmp_path / "truth.csv", truth) if with_truth else None
    found = by_id(audit_predictions(path, images, told))
    assert found["polarity"].severity == "fail"
    assert "swapped" in found["polarity"].detail


def test_missing_unknown_and_repeated_ids(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    path = submit(tmp_path, names(truth), probabilities(truth)) / "challenge.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows[2:], rows[5], {"index": 999, "prediction": "fake"}]))
    found = by_id(audit_predictions(path, images))["ids"]
    assert found.severity == "fail"
    assert [found.figures[k] for k in ("missing", "unknown", "twice")] == [2, 1, 1]
    assert set(found.images) == {"test/1.png", "test/2.png", "test/6.png", "999"}


def change(path: Path, at: int, **values: Any) -> Path:
    rows = json.loads(path.read_text())
    rows[at].update(values)
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    ("file", "values", "severity", "figure"),
    [
        ("probability.json", {"prediction": 1.5}, "fail", "out_of_range"),
        ("probability.json", {"prediction": -0.1}, "fail", "out_of_range"),
        ("probability.json", {"prediction": None}, "fail", "unread"),
        ("challenge.json", {"prediction": "maybe"}, "fail", "unread"),
        ("confidence.json", {"confidence": 0.2}, "warn", "confidence_below_half"),
        ("confidence.json", {"confidence": 7}, "fail", "out_of_range"),
    ],
)
def test_values_out_of_range(
    file: str,
    values: dict[str, Any],
    severity: str,
    figure: str,
    images: ImageSet,
    truth: dict[int, int],
    tmp_path: Path,
) -> None:
    path = change(submit(tmp_path, names(truth), probabilities(truth)) / file, 4, **values)
    found = by_id(audit_predictions(path, images))["values"]
    assert found.severity == severity
    assert found.figures[figure] == 1


def test_a_verdict_against_its_own_probability(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    path = submit(tmp_path, names(truth), probabilities(truth)) / "predictions.csv"
    path.write_text(path.read_text().replace("fake", "FAKE").replace("real", "fake").replace("FAKE", "real"))
    found = by_id(audit_predictions(path, images))["values"]
    assert found.severity == "warn"
    assert int(found.figures["verdict_against_probability"]) > 0


@pytest.mark.parametrize("file", [*FILES, "submission.zip"])
@pytest.mark.parametrize("threshold", [0.35, 0.8])
def test_a_calibrated_threshold_is_no_contradiction(
    threshold: float, file: str, images: ImageSet, truth: dict[int, int], tmp_path: Path
) -> None:
    p = probabilities(truth)
    assert ((p - 0.5) * (p - threshold) < 0).any()  # .5 would call some of them otherwise
    write_forms(Verdicts(tuple(names(truth)), p, (p >= threshold).astype(np.int8)), tmp_path, FORMS, pack=True)
    assert by_id(audit_predictions(tmp_path / file, images))["values"].severity == "pass"


def test_p_of_fake_written_as_the_confidence_is_found(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    p = probabilities(truth)
    path = submit(tmp_path, names(truth), p) / "confidence.json"
    rows = [{**row, "confidence": p[k]} for k, row in enumerate(json.loads(path.read_text()))]
    path.write_text(json.dumps(rows))
    assert by_id(audit_predictions(path, images))["values"].severity == "warn"


@pytest.mark.parametrize(
    ("forms", "row"),
    [
        (("csv", "probability"), {"image_id": "7.png", "prediction": 0.5}),
        (("csv", "challenge"), {"index": 7}),
        (("probability", "challenge"), {"index": 7}),
        (("probability", "challenge"), None),
    ],
)
def test_files_of_an_archive_that_differ_fail(
    forms: tuple[str, ...], row: dict[str, Any] | None, images: ImageSet, truth: dict[int, int], tmp_path: Path
) -> None:
    """One answer of the last form is another, or missing; that the threshold is not .5 is no difference."""
    p = probabilities(truth)
    p[6] = 0.97
    verdicts = Verdicts(tuple(names(truth)), p, (p >= 0.8).astype(np.int8))
    *_, last, packed = write_forms(verdicts, tmp_path, forms, pack=True)
    assert by_id(audit_predictions(packed, images))["values"].severity == "pass"
    rows = json.loads(last.read_text())
    rows[6:7] = [] if row is None else [{"prediction": "real", **row}]
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {**files, last.name: json.dumps(rows)}.items():
            archive.writestr(name, text)
    found = by_id(audit_predictions(packed, images))["values"]
    assert found.severity == "fail"
    assert int(found.figures["differ_between_files"]) >= 1


@pytest.mark.parametrize(("p", "severity"), [(0.5, "fail"), (np.linspace(0.6, 0.9, N), "fail")])
def test_answers_that_are_all_alike(
    p: Any, severity: str, images: ImageSet, truth: dict[int, int], tmp_path: Path
) -> None:
    path = submit(tmp_path, names(truth), np.broadcast_to(p, N)) / "probability.json"
    assert by_id(audit_predictions(path, images))["degenerate"].severity == severity


def test_nearly_one_class_warns(images: ImageSet, truth: dict[int, int], tmp_path: Path) -> None:
    p = np.where(np.arange(N) < 3, 0.9, 0.1)
    path = submit(tmp_path, names(truth), p) / "challenge.json"
    assert by_id(audit_predictions(path, images))["degenerate"].severity == "warn"


def test_without_labels_order_cannot_be_told(truth: dict[int, int], tmp_path: Path) -> None:
    pool = learnable_set(N)
    alone = image_set_from_arrays(pool.data, np.full(N, -1), ids=names(truth))
    found = by_id(audit_predictions(submit(tmp_path, names(truth), probabilities(truth)) / "challenge.json", alone))
    assert {found[name].severity for name in ("order", "polarity")} == {"not run"}
    assert "--truth" in found["order"].detail


def test_a_classifier_that_learns_nothing_is_no_judge(truth: dict[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (N + 200, 3, 16, 16)).astype(np.uint8)
    ids = [*(f"real/{k}.png" for k in range(100)), *(f"fake/{k}.png" for k in range(100)), *names(truth)]
    pool = image_set_from_arrays(data, np.repeat([0, 1, -1], [100, 100, N]), ids=ids)
    found = by_id(audit_predictions(submit(tmp_path, names(truth), probabilities(truth)) / "challenge.json", pool))
    assert found["order"].severity == "not run"
    assert "too little to judge by" in found["order"].detail


def test_a_labelled_set_is_its_own_truth(tmp_path: Path) -> None:
    pool = learnable_set(N)
    p = np.where(pool.labels == 1, 0.9, 0.2)
    found = by_id(audit_predictions(submit(tmp_path, list(pool.ids), p) / "predictions.csv", pool))
    assert found["ids"].figures["expected"] == N
    assert found["order"].figures["written"] == 1
    assert found["order"].figures["judge"] == "the labels"
