"""`score_file`: the right answer meets the right label, and ids written in another order are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.errors import DataError
from robustbench_df.image_tables import Ids
from robustbench_df.inference import FORMS, Verdicts, write_forms
from robustbench_df.matching import match
from robustbench_df.metrics.intervals import auc_interval, wilson
from robustbench_df.scoring import Scored, other_orders, score_file
from tests.conftest import learnable_set
from tests.runs import write_folder

N = 200
NAMES = [f"{k}.png" for k in range(1, N + 1)]


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray]:
    """Labels, and P(fake) that is right on about 9 of 10."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N)
    return labels, 1 / (1 + np.exp(-rng.normal(1.6 * (2 * labels - 1), 1.2)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, known: tuple[np.ndarray, np.ndarray]) -> Path:
    """Every form of `rdf predict` and a table of labels."""
    place = tmp_path_factory.mktemp("scoring")
    labels, p = known
    write_forms(Verdicts(tuple(f"test/{name}" for name in NAMES), p, (p >= 0.5).astype(np.int8)), place, pack=True)
    write_truth(place / "truth.csv", labels)
    return place


def write_truth(path: Path, labels: Any, ids: Any = NAMES, column: str = "filename") -> Path:
    words = ["fake" if label else "real" for label in labels]
    pd.DataFrame({column: ids, "label": words}).to_csv(path, index=False)
    return path


def write_rows(path: Path, answers: dict[Any, int]) -> Path:
    rows = [{"index": key, "prediction": "fake" if value else "real"} for key, value in answers.items()]
    path.write_text(json.dumps(rows))
    return path


FILES = ("challenge.json", "probability.json", "confidence.json", "predictions.csv", "submission.zip")


@pytest.mark.parametrize("file", FILES)
def test_every_form_that_predict_writes_gives_the_same_numbers(
    place: Path, known: tuple[np.ndarray, np.ndarray], file: str
) -> None:
    assert len(FILES) == len(FORMS) + 1
    labels, p = known
    scored = score_file(place / file, place / "truth.csv")
    right = int(((p >= 0.5) == labels).sum())
    assert scored.n == N
    assert scored.accuracy == wilson(right, N)
    assert scored.confusion.tp == int(((p >= 0.5) & (labels == 1)).sum())
    assert scored.balanced_accuracy.low < scored.balanced_accuracy.value < scored.balanced_accuracy.high
    assert scored.f1.low < scored.f1.value < scored.f1.high
    assert scored.warnings() == []
    if file == "challenge.json":
        assert scored.auc is None
    else:
        assert scored.auc is not None
        assert scored.auc.value == pytest.approx(auc_interval(p, labels).value, abs=1e-4)
        assert scored.auc.method == "delong"


def test_every_form_gives_the_same_scores_under_a_calibrated_threshold(
    known: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """The probability form names no class: it says P(fake) alone, which `rdf score` cuts at .5."""
    labels, p = known
    verdict = (p >= 0.35).astype(np.int8)
    assert ((p >= 0.5) != verdict).any()
    write_forms(Verdicts(tuple(NAMES), p, verdict), tmp_path)
    truth = write_truth(tmp_path / "truth.csv", labels)
    scored = {file: score_file(tmp_path / file, truth) for file in FILES[:4]}
    for file in ("challenge.json", "confidence.json", "predictions.csv"):
        assert scored[file].accuracy == wilson(int((verdict == labels).sum()), N)
        assert scored[file].confusion == scored["challenge.json"].confusion
    for file in ("probability.json", "confidence.json", "predictions.csv"):
        area = scored[file].auc
        assert area is not None
        assert area.value == pytest.approx(auc_interval(p, labels).value, abs=1e-4)


def test_ids_of_every_kind_are_matched(place: Path, known: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    labels, _ = known
    paths, numbers = [f"somewhere/{name}" for name in NAMES], range(1, N + 1)
    truths = {
        "paths": write_truth(tmp_path / "paths.csv", labels, paths, "path"),
        "names": write_truth(tmp_path / "names.csv", labels),
        "numbers": write_truth(tmp_path / "numbers.csv", labels, numbers, "Index"),
    }
    scored = {(kind, file): score_file(place / file, truth) for kind, truth in truths.items() for file in FILES}
    assert {one.accuracy for one in scored.values()} == {scored["names", "predictions.csv"].accuracy}
    assert scored["paths", "predictions.csv"].matched_by == "file name"
    assert scored["names", "probability.json"].matched_by == "id"
    assert scored["names", "challenge.json"].matched_by == "file name without its ending"


def test_truth_from_a_folder(tmp_path: Path) -> None:
    write_folder(learnable_set(12), tmp_path / "images")
    answers = {f"{'fake' if k % 2 else 'real'}/{k}.png": k % 2 for k in range(1, 12)}
    write_truth(tmp_path / "p.csv", answers.values(), list(answers))
    scored = score_file(tmp_path / "p.csv", tmp_path / "images")
    assert (scored.accuracy.value, scored.n, scored.missing) == (1, 11, ("real/0.png",))


def suspected(scored: Scored) -> list[str]:
    return [order.name for order in scored.orders if order.suspected]


@pytest.mark.parametrize("first", [0, 1])
def test_positions_in_an_alphabetical_listing_are_noticed(
    tmp_path: Path, known: tuple[np.ndarray, np.ndarray], first: int
) -> None:
    """The slip of two public submissions: ``enumerate(sorted(files))`` where the file's number belongs."""
    labels, p = known
    by_name = dict(zip(NAMES, (p >= 0.5).astype(int).tolist(), strict=True))
    truth = write_truth(tmp_path / "truth.csv", labels)
    slipped = write_rows(tmp_path / "p.json", {k + first: by_name[name] for k, name in enumerate(sorted(NAMES))})
    scored = score_file(slipped, truth)
    assert scored.accuracy.value < 0.65
    (name,) = suspected(scored)
    assert "in an alphabetical listing" in name
    best = next(order for order in scored.orders if order.suspected)
    known_rows = [k for k in range(N) if first == 1 or k != N - 1]  # counted from 0, the last image has no answer
    assert best.accuracy == pytest.approx(((p >= 0.5) == labels)[known_rows].mean(), abs=0.006)
    assert any(line.startswith("the ids look mis-ordered") for line in scored.warnings())


def test_answers_in_numeric_order_under_alphabetical_names_are_noticed(
    tmp_path: Path, known: tuple[np.ndarray, np.ndarray]
) -> None:
    labels, p = known
    verdicts = (p >= 0.5).astype(int).tolist()  # in the order 1, 2, 3 …
    truth = write_truth(tmp_path / "truth.csv", labels)
    slipped = write_rows(tmp_path / "p.json", dict(zip(sorted(NAMES), verdicts, strict=True)))
    scored = score_file(slipped, truth)
    (name,) = suspected(scored)
    assert "names from an alphabetical listing" in name
    best = next(order for order in scored.orders if order.suspected)
    assert best.accuracy == pytest.approx(((p >= 0.5) == labels).mean())


def test_numbers_from_zero_are_noticed(tmp_path: Path, known: tuple[np.ndarray, np.ndarray]) -> None:
    labels, p = known
    truth = write_truth(tmp_path / "truth.csv", labels)
    scored = score_file(write_rows(tmp_path / "p.json", dict(enumerate((p >= 0.5).astype(int).tolist()))), truth)
    (name,) = suspected(scored)
    assert "one image too early" in name
    assert scored.missing == ("200.png",)
    assert scored.unknown == ("0",)


def test_numbers_from_anywhere_are_noticed(tmp_path: Path, known: tuple[np.ndarray, np.ndarray]) -> None:
    labels, p = known
    truth = write_truth(tmp_path / "truth.csv", labels)
    answers = dict(enumerate((p >= 0.5).astype(int).tolist(), start=70))
    (name,) = suspected(score_file(write_rows(tmp_path / "p.json", answers), truth))
    assert "positions in order of number" in name


def test_one_line_tells_of_the_order_that_fits_best(tmp_path: Path) -> None:
    """In a long run of one class the next image's answer is mostly right too, so that near orders fit as well."""
    labels = [k // 10 % 2 for k in range(N)]
    slipped = {k + 1: labels[NAMES.index(name)] for k, name in enumerate(sorted(NAMES))}
    scored = score_file(write_rows(tmp_path / "p.json", slipped), write_truth(tmp_path / "truth.csv", labels))
    assert len(suspected(scored)) > 1
    (line,) = scored.warnings()
    assert "100.0% when they are read as positions in an alphabetical listing (10.png before 2.png)" in line


def test_a_coin_is_not_suspected(known: tuple[np.ndarray, np.ndarray]) -> None:
    labels, _ = known
    names = Ids("p.csv", {"id": tuple(NAMES)})
    for seed in range(50):
        coin = np.random.default_rng(seed).integers(0, 2, N).astype(np.int8)
        orders = other_orders(match(names, names), coin, labels.astype(np.int8))
        assert [order.suspected for order in orders] == [False] * 6


def test_missing_duplicate_and_unknown_ids_are_one_line_each(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("filename,label\n" + "".join(f"{k}.png,{'fake' if k % 2 else 'real'}\n" for k in range(1, 11)))
    truth.write_text(truth.read_text() + "11.png,\n")  # no label
    file = tmp_path / "p.csv"
    rows = [(1, "fake"), (2, "real"), (3, "fake"), (3, "real"), (4, "fake"), (5, "fake"), (6, "real"), (7, "")]
    rows += [(11, "fake"), (99, "fake"), (100, "real")]
    file.write_text("filename,label\n" + "".join(f"{k}.png,{word}\n" for k, word in rows))
    scored = score_file(file, truth)
    assert (scored.n, scored.unlabelled) == (6, 1)
    assert scored.accuracy.value == pytest.approx(5 / 6)
    missing, duplicate, unknown = scored.warnings()
    assert missing == (
        "missing: 4 images (7.png, 8.png, 9.png, …) without an answer, left out; "
        "accuracy is 50.0% if they count as wrong"
    )
    assert duplicate == "duplicate: 1 image (3.png) answered more than once; the first answer counts"
    assert unknown == "unknown: 2 images (99.png, 100.png) with an answer but without a label; ignored"


def test_a_verdict_that_no_threshold_explains_is_told(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.csv", [0, 1, 1], NAMES[:3])
    file = tmp_path / "p.csv"
    file.write_text("filename,label,probability\n1.png,real,0.9\n2.png,fake,0.8\n3.png,fake,0.95\n")
    scored = score_file(file, truth)
    assert scored.accuracy.value == 1
    assert scored.auc is not None
    assert scored.auc.value == 0.5
    (line,) = scored.warnings()
    assert line.startswith("contradiction: 1 image is called real with a higher P(fake) than one called fake")


def test_files_of_an_archive_that_differ_are_told(place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(place / "predictions.csv", "predictions.csv")
        rows = json.loads((place / "challenge.json").read_text())
        archive.writestr("challenge.json", json.dumps([{"index": 1, "prediction": "fake"}, *rows[2:]]))
    scored = score_file(tmp_path / "p.zip", place / "truth.csv")
    assert scored.accuracy == score_file(place / "predictions.csv", place / "truth.csv").accuracy
    (line,) = scored.warnings()
    assert line.startswith(f"differing: the files of the archive do not agree on {scored.differing} of the answers")
    assert scored.differing == 1 + (rows[0]["prediction"] == "real")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,label\n1.png,\n", "no answers in"),
        ("filename,label\n1.png,fake\n,fake\n", "row 2 of .* has no id"),
        ("filename,label\n1.png,perhaps\n", "row 1 of .*: the label 'perhaps' must be"),
        ("filename,prediction\n1.png,97.5\n", "row 1 of .*: the prediction '97.5' .* between 0 and 1"),
        ("filename,label,probability\n1.png,fake,97\n", "row 1 of .*: the probability '97'"),
        ("filename,label\ncat.png,fake\n", "no answer in .* ids look like 'cat.png' and '1.png'"),
        ("filename,label,prediction\n1.png,real,0.9\n", "contradicts itself: row 1"),
        ("path,filename,label\n1.png,2.png,real\n", "'filename' and 'path' of .* name different images"),
    ],
)
def test_what_cannot_be_scored_is_one_line(place: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        score_file(file, place / "truth.csv")
    assert "\n" not in str(error.value)


def test_labels_in_a_table_need_no_torch(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from robustbench_df.scoring import score_file; "
        "score_file(Path('predictions.csv'), Path('truth.csv')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=place, check=False).returncode == 0
