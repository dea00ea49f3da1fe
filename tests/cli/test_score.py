"""``rdf score`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import rdf
from tests.conftest import learnable_set
from tests.runs import write_folder

NUMBERS = range(1, 121)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers that are right but for every tenth, and the same as positions in an alphabetical listing."""
    place = tmp_path_factory.mktemp("place")
    fake = {k: (k * 7919) % 11 < 5 for k in NUMBERS}
    said = {k: fake[k] != (k % 10 == 0) for k in NUMBERS}
    (place / "truth.csv").write_text("index,label\n" + "".join(f"{k},{int(fake[k])}\n" for k in NUMBERS))
    rows = [{"index": k, "prediction": "fake" if said[k] else "real"} for k in NUMBERS]
    (place / "challenge.json").write_text(json.dumps(rows))
    alphabetical = sorted(NUMBERS, key=lambda k: f"{k}.png")
    rows = [{"index": k, "prediction": "fake" if said[n] else "real"} for k, n in enumerate(alphabetical, start=1)]
    (place / "slipped.json").write_text(json.dumps(rows))
    table = "".join(f"{k}.png,{0.9 if said[k] else 0.2}\n" for k in NUMBERS if k > 5)
    (place / "probability.csv").write_text("image_id,prediction\n" + table)
    return place


def test_the_table_has_every_score_with_its_interval(place: Path) -> None:
    done = rdf("score", "challenge.json", "--truth", "truth.csv", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("120 images", "accuracy", "90.0%", "wilson", "balanced accuracy", "F1", "not given", "called fake"):
        assert part in done.stdout


def test_json_and_missing_answers(place: Path) -> None:
    done = rdf("score", "probability.csv", "--truth", "truth.csv", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["n"] == 115
    assert facts["missing"] == ["1", "2", "3", "4", "5"]
    assert facts["auc"]["low"] < facts["auc"]["value"] < facts["auc"]["high"]
    assert sum(facts["confusion"].values()) == 115
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: missing: 5 images (1, 2, 3, …)")
    assert facts["warnings"] == [line.removeprefix("warning: ")]


def test_a_shuffled_file_is_warned_of(place: Path) -> None:
    done = rdf("score", "slipped.json", "--truth", "truth.csv", cwd=place)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: the ids look mis-ordered")
    assert "90.0% when they are read as positions in an alphabetical listing" in line


def test_labels_from_a_folder(place: Path) -> None:
    write_folder(learnable_set(12), place / "images")
    rows = "".join(f"{k}.png,{'fake' if k % 2 else 'real'}\n" for k in range(12))
    (place / "own.csv").write_text("filename,label\n" + rows)
    done = rdf("score", "own.csv", "--truth", "images", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"]["value"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.json", "--truth", "truth.csv"), 1, "no such file"),
        (("challenge.json", "--truth", "nowhere.csv"), 1, "no such file"),
        (("challenge.json", "--truth", "challenge.json"), 1, "has no label"),
    ],
)
def test_mistakes_are_one_line(place: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = rdf("score", *arguments, cwd=place)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("rdf: ")


def test_truth_is_needed(place: Path) -> None:
    assert rdf("score", "challenge.json", cwd=place).returncode == 2
