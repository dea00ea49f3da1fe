"""True labels in every form that they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_df.errors import DataError
from robustbench_df.truth import Truth, read_truth
from tests.conftest import learnable_set
from tests.test_pipeline import write_folder

LABELS = [0, 1, 1, 0, 1]
NAMES = [f"{k}.png" for k in range(1, 6)]
WORDS = ["fake" if label else "real" for label in LABELS]


def told(truth: Truth, column: str) -> dict[str, int]:
    return dict(zip(truth.ids.columns[column], truth.labels.tolist(), strict=True))


def test_truth_in_every_form(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": NAMES, "label": LABELS})
    table.to_parquet(tmp_path / "manifest.parquet")
    table.to_csv(tmp_path / "manifest.csv", index=False)
    pd.DataFrame({"Path": NAMES, "Truth": WORDS}).to_csv(tmp_path / "words.csv", index=False)
    rows = [{"path": name, "target": word} for name, word in zip(NAMES, WORDS, strict=True)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    table.to_csv(tmp_path / "excel.csv", index=False, sep=";", encoding="utf-16")
    for file in ("manifest.parquet", "manifest.csv", "excel.csv", "words.csv", "rows.json"):
        assert told(read_truth(tmp_path / file), "path") == dict(zip(NAMES, LABELS, strict=True))
    (tmp_path / "map.json").write_text(json.dumps(dict(zip(NAMES, LABELS, strict=True))))
    assert told(read_truth(tmp_path / "map.json"), "id") == dict(zip(NAMES, LABELS, strict=True))
    turned = read_truth(tmp_path / "map.json", fake_is=0)
    assert turned.labels.tolist() == [1 - label for label in LABELS]


@pytest.mark.parametrize(
    "columns",
    [
        {"filename": ["1.png", "2.png", "1.png"], "Truth": ["fake", None, "fake"], "name": ["cat"] * 3},
        {"path": ["real/1.png", "fake/2.png"], "label": [1, 0]},  # the labels count, not the folders
        {"path": ["1.png", "1.png"], "label": [1, 0]},
        {"path": ["1.png", "2.png"], "label": ["real", "fake"], "target": ["fake", "fake"]},
        {"path": ["1.png", "2.png"]},
        {"path": [], "label": []},
    ],
)
def test_a_truth_says_the_same_in_csv_and_parquet(columns: dict[str, list[Any]], tmp_path: Path) -> None:
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    said = []
    for ending in ("csv", "parquet"):
        try:
            truth = read_truth(tmp_path / f"t.{ending}")
            said.append(f"{truth.ids.columns} {truth.labels.tolist()}")
        except DataError as error:
            said.append(str(error).replace("parquet", "csv"))
    assert said[0] == said[1]


def test_truth_from_a_folder_of_images_of_any_size(tmp_path: Path) -> None:
    write_folder(learnable_set(12), tmp_path / "images")
    write_folder(learnable_set(4, size=24), tmp_path / "images" / "more")
    truth = told(read_truth(tmp_path / "images"), "id")
    assert len(truth) == 16
    assert truth["fake/1.png"] == truth["more/fake/3.png"] == 1


def test_an_image_listed_twice_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text("filename,name,index,label\n1.png,cat,1,fake\n./1.png,cat,1,fake\n2.png,cat,2,\n")
    truth = read_truth(file)
    assert truth.labels.tolist() == [1, -1]
    # A name that images share is none.
    assert truth.ids.columns == {"filename": ("1.png", "2.png"), "index": ("1", "2")}


def test_file_names_may_recur_in_other_folders(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    rows = ("1.png,s1/1.png,fake", "1.png,s2/1.png,fake", "2.png,s1/2.png,real", "2.png,s2/2.png,fake")
    file.write_text("\n".join(["filename,path,label", *rows]))
    truth = read_truth(file)
    assert truth.labels.tolist() == [1, 1, 0, 1]
    assert list(truth.ids.columns) == ["path"]
    for paths in (
        ("data/real/", "data/real/", "data/fake/"),
        ("a/1.png", "", "a/3.png"),
    ):  # folders alone; some missing
        rows = tuple(f"{k}.png,{path},{label}" for k, (path, label) in enumerate(zip(paths, "001", strict=True)))
        file.write_text("\n".join(["filename,path,label", *rows]))
        truth = read_truth(file, fake_is=1)
        assert truth.labels.tolist() == [0, 0, 1]
        assert truth.ids.columns["filename"] == ("0.png", "1.png", "2.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no labels in"),
        ("filename,label\n1.png,\n", "no labels in"),
        ("filename,label\n1.png,fake\n1.png,real\n", "listed twice with different labels, again in row 2"),
        ("filename,name\n1.png,x\n", "has no label or truth or target or class .it has filename, name."),
        ("foo,label\n1.png,fake\n", "has no id"),
        ("filename,label\n,fake\n", "row 1 of .* has no filename"),
        ("filename,label\n1.png,perhaps\n", "unknown label 'perhaps' in row 1"),
        ("filename,label,truth\n1.png,real,real\n2.png,fake,real\n", "row 2 has the label 'fake' and the truth 'real'"),
    ],
)
def test_what_is_no_truth_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_truth(tmp_path / "truth.csv")
    assert "\n" not in str(error.value)


def test_what_an_image_shows_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("filename,label,class\n1.png,fake,real\n2.png,real,cat\n")
    np.testing.assert_array_equal(read_truth(tmp_path / "truth.csv").labels, [1, 0])
