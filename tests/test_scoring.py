"""`score_file`: the right answer meets the right label, and ids written in another order are noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.answers import Answer, Answers, read_answers, read_truth
from robustbench_df.data.stores import natural_sort
from robustbench_df.errors import DataError
from robustbench_df.inference import FORMS, Verdicts, write_forms
from robustbench_df.metrics.intervals import auc_interval, wilson
from robustbench_df.scoring import Scored, match, other_orders, score_file
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
    write_forms(Verdicts(tuple(f"test/{name}" for name in NAMES), p, (p >= 0.5).astype(np.int8)), place)
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


FILES = ("challenge.json", "probability.json", "confidence.json", "predictions.csv")


@pytest.mark.parametrize("file", FILES)
def test_every_form_that_predict_writes_gives_the_same_numbers(
    place: Path, known: tuple[np.ndarray, np.ndarray], file: str
) -> None:
    assert len(FILES) == len(FORMS)
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
    scored = {file: score_file(tmp_path / file, truth) for file in FILES}
    for file in ("challenge.json", "confidence.json", "predictions.csv"):
        assert scored[file].accuracy == wilson(int((verdict == labels).sum()), N)
        assert scored[file].confusion == scored["challenge.json"].confusion
    for file in ("probability.json", "confidence.json", "predictions.csv"):
        said = [answer.probability for answer in read_answers(tmp_path / file).by_id.values()]
        assert said == pytest.approx(p, abs=1e-5)
        area = scored[file].auc
        assert area is not None
        assert area.value == pytest.approx(auc_interval(p, labels).value, abs=1e-4)


def test_truth_in_every_form(place: Path, known: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    labels, _ = known
    numbers = range(1, N + 1)
    table = pd.DataFrame({"path": [f"somewhere/{name}" for name in NAMES], "label": labels})
    table.to_parquet(tmp_path / "manifest.parquet")
    table.to_csv(tmp_path / "manifest.csv", index=False)
    write_truth(tmp_path / "numbers.csv", labels, numbers, "Index")
    (tmp_path / "map.json").write_text(json.dumps(dict(zip(NAMES, labels.tolist(), strict=True))))
    rows = [{"index": k, "label": "fake" if v else "real"} for k, v in zip(numbers, labels, strict=True)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    ways = {}
    for file in ("manifest.parquet", "manifest.csv", "numbers.csv", "map.json", "rows.json"):
        truth = read_truth(tmp_path / file)
        assert list(truth.values()) == labels.tolist()
        for predictions in FILES:
            answers = read_answers(place / predictions).by_id
            ways[file, predictions], found = match(answers, truth)
            by_number = {Path(image).stem: Path(own).stem for image, own in found.items()}
            assert by_number == {str(k): str(k) for k in numbers}, (file, predictions)
    assert ways["manifest.csv", "predictions.csv"] == "file name"
    assert ways["map.json", "probability.json"] == "id"
    assert ways["map.json", "challenge.json"] == "file name without its ending"
    expected = score_file(place / "predictions.csv", place / "truth.csv").accuracy
    (tmp_path / "turned.json").write_text(json.dumps(dict(zip(NAMES, (1 - labels).tolist(), strict=True))))
    assert score_file(place / "predictions.csv", tmp_path / "turned.json", fake_is=0).accuracy == expected


def test_truth_from_a_folder_of_images_of_any_size(tmp_path: Path) -> None:
    write_folder(learnable_set(12), tmp_path / "images")
    write_folder(learnable_set(4, size=24), tmp_path / "images" / "more")
    truth = read_truth(tmp_path / "images")
    assert len(truth) == 16
    assert truth["fake/1.png"] == truth["more/fake/3.png"] == 1
    answers = {name: label for name, label in truth.items() if name.startswith("more") or name != "real/0.png"}
    pd.DataFrame({"path": list(answers), "label": list(answers.values())}).to_csv(tmp_path / "p.csv", index=False)
    scored = score_file(tmp_path / "p.csv", tmp_path / "images")
    assert (scored.accuracy.value, scored.n, scored.missing) == (1, 15, ("real/0.png",))


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
    assert "positions in an alphabetical listing" in name
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
    assert "dealt out in numeric order" in name
    best = next(order for order in scored.orders if order.suspected)
    assert best.accuracy == pytest.approx(((p >= 0.5) == labels).mean())


def test_numbers_from_zero_are_noticed(tmp_path: Path, known: tuple[np.ndarray, np.ndarray]) -> None:
    labels, p = known
    truth = write_truth(tmp_path / "truth.csv", labels)
    scored = score_file(write_rows(tmp_path / "p.json", dict(enumerate((p >= 0.5).astype(int).tolist()))), truth)
    assert [name for name in suspected(scored) if "numeric order" in name]
    assert scored.missing == ("200.png",)
    assert scored.unknown == ("0",)


def test_a_coin_and_padded_names_are_not_suspected(known: tuple[np.ndarray, np.ndarray]) -> None:
    labels, p = known
    truth = dict(zip(NAMES, labels.tolist(), strict=True))
    found = {name: name for name in NAMES}
    for seed in range(50):
        coin = np.random.default_rng(seed).integers(0, 2, N).tolist()
        answers = Answers({name: Answer(v) for name, v in zip(NAMES, coin, strict=True)}, ())
        orders = other_orders(answers, truth, found)
        assert [order.suspected for order in orders] == [False, False]
    padded = [f"{k:04}.png" for k in range(1, N + 1)]
    assert natural_sort(padded) == sorted(padded)
    answers = Answers({name: Answer(int(v)) for name, v in zip(padded, p < 0.5, strict=True)}, ())
    assert other_orders(answers, dict(zip(padded, labels, strict=True)), {name: name for name in padded}) == ()


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


def test_names_that_would_collide_are_matched_by_their_folder() -> None:
    way, found = match({"real/1.png": 0, "fake/1.png": 0}, {"real/1.png": 0, "fake/1.png": 1})
    assert way == "id"
    assert found == {"real/1.png": "real/1.png", "fake/1.png": "fake/1.png"}
    assert match({"1": 0, "2": 0}, {"real/1.png": 0, "fake/1.png": 1}) == ("id", {})


def test_zeros_and_ones_are_verdicts_not_probabilities(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"a.png": 1, "b.png": 0}')
    assert not read_answers(file).has_probabilities
    file.write_text('{"a.png": 1, "b.png": 0.2}')
    answers = read_answers(file)
    assert answers.has_probabilities
    assert [answer.verdict for answer in answers.by_id.values()] == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no answers in"),
        ("[]", "no answers in"),
        ("[1, 2]", "row 1 of .* must hold an id and an answer"),
        ("[{]", "must be CSV or JSON"),
        ("filename;label\n1.png;fake\n", "no prediction or label .it has filename;label"),
        ("label\nfake\n", "has no id"),
        ("filename,label\n1.png,perhaps\n", "unknown label 'perhaps' in row 1"),
        ("filename,prediction\n1.png,97.5\n", "row 1 .* the prediction .* between 0 and 1"),
        ("filename,label,probability\n1.png,fake,97\n", "row 1 .* the probability '97'"),
        ("filename,label\ncat.png,fake\n", "no answer in .* ids look like 'cat.png' and '1.png'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(place: Path, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "p.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        score_file(file, place / "truth.csv")
    assert "\n" not in str(error.value)


def test_files_that_are_none(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"did you mean 'challenge\.json'"):
        score_file(place / "chalenge.json", place / "truth.csv")
    with pytest.raises(DataError, match="folder or an archive"):
        score_file(place, place / "truth.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="must be CSV or JSON"):
        score_file(tmp_path / "binary.csv", place / "truth.csv")
    (tmp_path / "twice.csv").write_text("filename,label\n1.png,fake\n1.png,real\n")
    with pytest.raises(DataError, match="listed twice with different labels"):
        score_file(place / "predictions.csv", tmp_path / "twice.csv")
    (tmp_path / "none.csv").write_text("filename,label\n1.png,\n")
    with pytest.raises(DataError, match="no labels in"):
        score_file(place / "predictions.csv", tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("filename,name\n1.png,x\n")
    with pytest.raises(DataError, match="has no label or truth"):
        score_file(place / "predictions.csv", tmp_path / "other.csv")


def test_labels_in_a_table_need_no_torch(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from robustbench_df.scoring import score_file; "
        "score_file(Path('predictions.csv'), Path('truth.csv')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=place, check=False).returncode == 0
