"""Every form of a prediction file says the same; what a file says twice counts as documented, or is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df import prediction_files
from robustbench_df.data.naming import image_number
from robustbench_df.errors import DataError
from robustbench_df.inference import FORMS, Verdicts, write_forms
from robustbench_df.prediction_files import PredictionFile, disagreements, read_predictions

FAKE, REAL, NONE = 1, 0, -1
NAN = float("nan")

FILES = {
    "challenge": "challenge.json",
    "probability": "probability.json",
    "confidence": "confidence.json",
    "csv": "predictions.csv",
    "zip": "submission.zip",
}


def read(folder: Path, text: str, name: str = "p.csv") -> PredictionFile:
    (folder / name).write_text(text)
    (file,) = read_predictions(folder / name)
    return file


def row(folder: Path, heading: str, cells: str) -> tuple[int, float]:
    """The verdict and P(fake) of a file of one row."""
    file = read(folder, f"{heading}\n{cells}\n")
    assert not file.faults
    return int(file.verdict[0]), float(file.probability[0])


# --- what the package writes ----------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.35])
@pytest.mark.parametrize("form", FILES)
def test_every_form_that_predict_writes(form: str, threshold: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    p = np.r_[0.0, 1.0, rng.random(48)]
    verdict = (p >= threshold).astype(np.int8)
    write_forms(Verdicts(tuple(f"test/{k}.png" for k in range(50)), p, verdict), tmp_path, pack=True)
    assert {*FORMS, "zip"} == set(FILES)
    files = read_predictions(tmp_path / FILES[form])
    assert len(files) == (4 if form == "zip" else 1)
    file = files[0]
    (names,) = file.ids.columns.values()
    assert [image_number(name) for name in names] == list(range(50))
    assert not file.faults
    assert file.crossed == 0
    assert file.called.tolist() == ((p >= 0.5) if form == "probability" else verdict).tolist()
    assert file.verdict.tolist() == ([NONE] * 50 if form == "probability" else verdict.tolist())
    assert file.has_probabilities == (form != "challenge")
    expected = np.full(50, np.nan) if form == "challenge" else p
    np.testing.assert_allclose(file.probability, expected, atol=1e-6)
    assert all(disagreements(file, other) == 0 for other in files[1:])


# --- spellings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image_id", "filename", "path", "file", "image", "name", "id", "index", " File "])
def test_every_name_of_an_id(column: str, tmp_path: Path) -> None:
    file = read(tmp_path, f"{column},label\n.\\test\\1.png,fake\n")
    assert file.ids.columns == {column.strip().lower(): ("test/1.png",)}


@pytest.mark.parametrize(
    ("heading", "cells", "said"),
    [
        ("id,prediction", "1,fake", (FAKE, NAN)),
        ("id,label", "1,REAL", (REAL, NAN)),
        ("id,class", "1,ai_generated", (FAKE, NAN)),
        ("id,label", "1,1", (FAKE, NAN)),
        ("id,prediction", "1,0.0", (REAL, NAN)),
        ("id,prediction", "1,0.2", (NONE, 0.2)),
        ("id,label", "1,0.2", (NONE, 0.2)),
        ("id,probability", "1,1", (NONE, 1.0)),
        ("id,score", "1,0.7", (NONE, 0.7)),
        ("id,label,probability", "1,real,0.7", (REAL, 0.7)),  # a threshold of .8
        ("id,class,score", "1,real,0.7", (REAL, 0.7)),
        ("id,label,probability", "1,,0.7", (NONE, 0.7)),
        ("id,label,probability", "1,fake,", (FAKE, NAN)),
        ("id,prediction,score", "1,fake,0.7", (FAKE, 0.7)),
        ("id,prediction,score", "1,1,0.7", (FAKE, 0.7)),
        ("id,prediction,confidence", "1,fake,0.8", (FAKE, 0.8)),
        ("id,prediction,confidence", "1.png,1,0.8", (FAKE, 0.8)),
        ("id,label,confidence", "1,0,0.8", (REAL, 0.2)),
        ("id,label,probability,confidence", "1,real,0.3,97", (REAL, 0.3)),
        ("id,label,prediction", "1,fake,0.9", (FAKE, 0.9)),
        ("id,label,prediction", "1,,fake", (FAKE, NAN)),
        ("id,prediction,class", "1,fake,cat", (FAKE, NAN)),
        ("id,class,probability", "1,cat,0.8", (NONE, 0.8)),
        ("id,class,score", "1,cat,0.8", (NONE, 0.8)),
        ("id,prediction,score", "1,fake,-4.2", (FAKE, NAN)),  # a logit
        ("id,prediction,probability,score", "1,fake,0.8,4.2", (FAKE, 0.8)),
    ],
)
def test_what_counts_first(heading: str, cells: str, said: tuple[int, float], tmp_path: Path) -> None:
    assert row(tmp_path, heading, cells) == pytest.approx(said, nan_ok=True)


def test_zero_and_one_are_verdicts_only_in_a_column_without_other_figures(tmp_path: Path) -> None:
    file = read(tmp_path, '{"a.png": 1, "b.png": 0}', "p.json")
    assert file.verdict.tolist() == [FAKE, REAL]
    assert not file.has_probabilities
    file = read(tmp_path, '{"a.png": 1, "b.png": 0, "c.png": 0.6}', "p.json")
    assert file.verdict.tolist() == [NONE] * 3
    assert file.probability.tolist() == [1, 0, 0.6]
    assert file.called.tolist() == [FAKE, REAL, FAKE]
    assert file.has_probabilities
    assert not read(tmp_path, "id,probability\n1,1\n2,0\n").has_probabilities


def test_the_content_tells_csv_from_json_whatever_the_ending(tmp_path: Path) -> None:
    text = {
        "list": json.dumps([{"filename": "1.png", "prediction": "fake"}, {"filename": "2.png", "prediction": "real"}]),
        "object": json.dumps({"1.png": "fake", "2.png": "real"}),
        "csv": 'filename,label\r\n"1.png",fake\r\n\r\n2.png,real\r\n',
        "with a mark": "\ufefffilename,label\n1.png,fake\n2.png,real\n",
    }
    for form, content in text.items():
        for name in ("p.csv", "p.json", "p.txt"):
            file = read(tmp_path, content, name)
            assert list(file.ids.columns.values()) == [("1.png", "2.png")], form
            assert file.verdict.tolist() == [FAKE, REAL]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_csv_of_excel_is_read_as_one_of_commas_is(mark: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("filename,prediction\r\nä.png,fake\r\n2.png,real\r\n".replace(",", mark).encode(encoding))
    (file,) = read_predictions(path)
    assert file.ids.columns == {"filename": ("ä.png", "2.png")}
    assert file.verdict.tolist() == [FAKE, REAL]


def test_a_parquet_is_read_as_a_csv_is(tmp_path: Path) -> None:
    pd.DataFrame({"ID": [3, 4], "prediction": ["fake", None]}).to_parquet(tmp_path / "p.parquet")
    (file,) = read_predictions(tmp_path / "p.parquet")
    assert file.ids.columns == {"id": ("3", "4")}
    assert file.called.tolist() == [FAKE, NONE]
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"cannot read .*broken.parquet' as Parquet"):
        read_predictions(tmp_path / "broken.parquet")


# --- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "cells", "said"),
    [
        ("filename,label,prediction", "1.png,real,0.9", "the prediction '0.9' and the label 'real'"),
        ("filename,label,prediction", "1.png,1,0.1", "the prediction '0.1' and the label '1'"),
        ("filename,label,prediction", "1.png,real,fake", "the prediction 'fake' and the label 'real'"),
        ("filename,class,label", "1.png,real,fake", "the label 'fake' and the class 'real'"),
        ("filename,probability,score", "1.png,0.9,0.2", "the probability '0.9' and the score '0.2'"),
        ("filename,prediction,probability", "1.png,0.9,0.7", "the prediction '0.9' and the probability '0.7'"),
        ("filename,prediction,confidence", "1.png,0.7,0.8", "the prediction '0.7' and the confidence '0.8'"),
        ("filename,prediction,Prediction", "1.png,0.7,0.8", "the column 'prediction' twice"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(heading: str, cells: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, f"{heading}\n{cells}\n")
    assert "\n" not in str(error.value)
    assert "leave only" in str(error.value)


def test_the_row_of_a_contradiction_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 3 has"):
        read(tmp_path, "filename,label,prediction\n1.png,real,0.1\n2.png,fake,0.9\n3.png,fake,0.2\n")


def test_verdicts_that_no_threshold_explains_are_counted(tmp_path: Path) -> None:
    heading = "id,label,probability\n"
    assert read(tmp_path, heading + "1,real,0.7\n2,fake,0.8\n3,real,0.1\n").crossed == 0
    assert read(tmp_path, heading + "1,real,0.7\n2,fake,0.6\n3,real,0.1\n").crossed == 1


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "cells", "said"),
    [
        ("id,label", "1,maybe", "the label 'maybe' must be real, fake or a number between 0 and 1"),
        ("id,prediction", "1,97.5", "the prediction '97.5' must be"),
        ("id,prediction", "1,-1", "the prediction '-1' must be"),
        ("id,prediction", "1,True", "the prediction 'True' must be"),
        ("id,probability", "1,fake", "the probability 'fake' must be a number between 0 and 1"),
        ("id,label,confidence", "1,fake,80", "the confidence '80' must be a number between 0 and 1"),
        ("id,label,probability", "1,maybe,0.8", "the label 'maybe' must be"),
        ("id,class", "1,cat", "the class 'cat' must be"),
        ("id,class,confidence", "1,cat,0.8", "the class 'cat' must be"),
        ("id,score", "1,4.2", "the score '4.2' must be a number between 0 and 1"),
        ("id,label,score", "1,,4.2", "the score '4.2' must be"),
        ("id,label,probability", "1,fake,4.2", "the probability '4.2' must be"),
    ],
)
def test_a_cell_that_is_no_answer_is_a_fault_of_its_row(heading: str, cells: str, said: str, tmp_path: Path) -> None:
    file = read(tmp_path, f"{heading}\n{','.join(['0', *['0'] * heading.count(',')])}\n{cells}\n")
    assert list(file.faults) == [1]
    assert file.faults[1].startswith(said)


@pytest.mark.parametrize("cell", ["true", "[0.5]", "{}", "1" + "0" * 400])
def test_json_values_that_are_no_answer(cell: str, tmp_path: Path) -> None:
    assert list(read(tmp_path, f'{{"1.png": {cell}}}', "p.json").faults) == [0]


@pytest.mark.parametrize("cell", ["", "nan", "unknown"])
def test_an_empty_answer_is_a_missing_one(cell: str, tmp_path: Path) -> None:
    file = read(tmp_path, f"id,prediction\n1,{cell}\n2,0.7\n")
    assert not file.faults
    assert file.called.tolist() == [NONE, FAKE]
    assert file.has_probabilities


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no answers in"),
        ("[]", "no answers in"),
        ("{}", "no answers in"),
        ("filename,label\n", "no answers in"),
        ("[1, 2]", "row 1 of .* must hold an id and an answer"),
        ("[1, 2", "must be CSV or JSON"),
        ("filename|label\n1.png|fake\n", "no prediction or label or .* .it has filename|label."),
        ('[{"index": 1}]', "no prediction or label"),
        ("id,confidence\n1,0.8\n", "no prediction or label"),
        ("foo,label\n1,fake\n", "no id .it has foo, label.; name its images under image_id, filename"),
    ],
)
def test_a_file_that_holds_no_predictions_is_refused_in_one_line(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "challenge.json").write_text("[]")
    with pytest.raises(DataError, match=r"no such file: .*did you mean 'challenge\.json'"):
        read_predictions(tmp_path / "chalenge.json")
    with pytest.raises(DataError, match="is a folder"):
        read_predictions(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="must be CSV or JSON"):
        read_predictions(tmp_path / "binary.csv")
    (tmp_path / "half.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"as UTF-16 .*; save it as UTF-8$"):
        read_predictions(tmp_path / "half.csv")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot read"):
        read_predictions(tmp_path / "broken.zip")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("1.png", b"")
    with pytest.raises(DataError, match="holds no JSON or CSV file"):
        read_predictions(tmp_path / "images.zip")


def test_a_member_that_unpacks_to_far_more_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "LARGEST", 10**6)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "filename,label\n" + " " * 10**7)
    with pytest.raises(DataError, match=r"with a\.csv it unpacks to more than 1 MB"):
        read_predictions(tmp_path / "bomb.zip")


# --- archives -------------------------------------------------------------------------------------


def zipped(folder: Path, **files: Any) -> tuple[PredictionFile, ...]:
    with zipfile.ZipFile(folder / "p.zip", "w") as archive:
        for name, rows in files.items():
            archive.writestr(f"answers/{name}.json", json.dumps(rows))
        archive.writestr("__MACOSX/answers/._challenge.json", b"\x00\x05")
    return read_predictions(folder / "p.zip")


def test_the_fullest_file_of_an_archive_comes_first(tmp_path: Path) -> None:
    files = zipped(tmp_path, challenge={"1": "fake"}, other={"1": "fake"}, probability={"1.png": 0.9})
    assert [file.ids.where.rpartition("/")[2] for file in files] == ["probability.json", "challenge.json", "other.json"]


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ({"1.png": 0.9, "2.png": 0.1}, {"2": 0.105, "1": 0.9}, 0),
        ({"1.png": 0.9, "2.png": 0.1}, {"2": 0.9, "1": 0.1}, 2),
        ({"1.png": "fake", "2.png": "real"}, {"1": "fake", "2": "fake"}, 1),
        ({"1.png": 0.9, "2.png": 0.6}, {"1": "fake", "2": "real"}, 0),  # a threshold of .7
        ({"1.png": 0.9, "2.png": 0.6}, {"1": "real", "2": "fake"}, 1),
        ({"1.png": 0.9, "2.png": 0.6}, {"1": "fake", "3": "real"}, 2),
    ],
)
def test_files_of_an_archive_are_compared(
    one: dict[str, Any], other: dict[str, Any], count: int, tmp_path: Path
) -> None:
    first, second = zipped(tmp_path, probability=one, challenge=other)
    assert disagreements(first, second) == disagreements(second, first) == count
