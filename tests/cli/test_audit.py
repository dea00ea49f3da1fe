"""``rdf audit`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from robustbench_df.audit.finding import WORST_FIRST, Audit
from robustbench_df.cli import main
from robustbench_df.data.sources import load_images
from robustbench_df.inference import Verdicts, write_forms
from robustbench_df.run import open_run
from tests.audit.runs import MODELS, distinct_set, spoil_json, write_run
from tests.runs import write_folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean folder ``images``, one with a JPEG class ``mixed``, and the run ``runs/one`` on the clean one."""
    place = tmp_path_factory.mktemp("place")
    write_folder(distinct_set(), place / "images")
    for path in write_folder(distinct_set(), place / "mixed").rglob("fake/*.png"):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    write_run(place / "runs" / "one", load_images(place / "images"))
    # The run is to find its images where the tests call it from.
    spoil_json(place / "runs" / "one" / "config.json", lambda kept: kept["config"]["data"].update(source="images"))
    return place


class Rdf(Protocol):
    """``rdf("audit", …)`` in the folder of the fixture; returns exit code, stdout and stderr."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def rdf(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rdf:
    monkeypatch.chdir(place)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rdf", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    return call


def test_the_worst_finding_comes_first_and_strict_exits_with_1(rdf: Rdf) -> None:
    code, said, errors = rdf("audit", "mixed", "--quiet")
    assert code == 0, errors
    rows = [line.split("│")[1:3] for line in said.splitlines() if line.startswith("│")]
    severities = [cells[0].strip() for cells in rows if cells[0].strip()]
    assert severities == sorted(severities, key=WORST_FIRST.index)
    assert [cell.strip() for cell in rows[0]] == ["fail", "shortcuts-files"]
    assert "→" in said
    assert errors == ""
    assert rdf("audit", "mixed", "--strict", "--quiet", "--fast")[0] == 1


def test_a_clean_folder_passes_even_strictly(rdf: Rdf, place: Path) -> None:
    code, said, _ = rdf("audit", "images", "--strict", "--json")
    assert code == 0, said
    found = Audit.from_json(json.loads(said))
    assert found.counts()["fail"] == 0
    assert found.images == len(list((place / "images").rglob("*.png")))
    assert found["shortcuts-files"].severity == "pass"


def test_a_run_is_audited_with_its_own_images_and_keeps_the_audit(rdf: Rdf, place: Path) -> None:
    code, said, errors = rdf("audit", "--run", "runs/one", "--json")
    assert code == 0, errors
    found = Audit.from_json(json.loads(said))
    assert {f.severity for f in found.findings if f.id.startswith("run-")} == {"pass"}
    kept = Audit.from_json(json.loads((place / "runs" / "one" / "audit.json").read_text()))
    assert {f.id: f.severity for f in kept.findings} == {f.id: f.severity for f in found.findings}


def test_a_leak_in_a_run_is_found(rdf: Rdf, place: Path) -> None:
    copies = place / "runs" / "one" / "models" / MODELS[0] / "final-copies.json"
    before = copies.read_text()
    split = open_run(place / "runs" / "one").split
    victim = split["image_id"][split["part"] == "val"].iloc[0]
    assert victim not in before
    spoil_json(copies, lambda entries: entries[0].update(source=victim))
    try:
        code, said, _ = rdf("audit", "--run", "runs/one", "--fast", "--strict")
    finally:
        copies.write_text(before)
    assert code == 1
    assert victim in said


def test_training_stops_at_a_failing_audit(rdf: Rdf, place: Path) -> None:
    code, _, errors = rdf("train-all", "--data", "mixed", "--run", "runs/mixed", "--quiet")
    assert code == 1
    assert len(errors.strip().splitlines()) == 1
    assert "shortcuts-files" in errors
    assert "--allow-findings" in errors
    assert not (place / "runs" / "mixed").exists()


def test_a_submission_is_checked(rdf: Rdf, place: Path) -> None:
    images = load_images(place / "images")
    p = np.where(images.labels == 1, 0.1, 0.9)
    write_forms(Verdicts(tuple(images.ids), p, (p >= 0.5).astype(np.int8)), place / "swapped", ("csv",))
    _, said, _ = rdf("audit", "images", "--predictions", "swapped/predictions.csv", "--fast", "--json")
    found = Audit.from_json(json.loads(said))
    assert found["predictions-polarity"].severity == "fail"
    assert found["predictions-ids"].severity == "pass"


def test_two_sets_are_compared(rdf: Rdf) -> None:
    found = Audit.from_json(json.loads(rdf("audit", "images", "--against", "images", "--fast", "--json")[1]))
    assert found.against == "images"
    assert found["label-polarity"].figures["verdict"] == "agree"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("nowhere",), 1, "nowhere"),
        (("images", "--truth", "swapped/predictions.csv"), 2, "--predictions"),
        (("images", "--predictions", "nothing.json"), 1, "nothing.json"),
        (("mixed", "--run", "runs/one"), 1, "made with other images"),
        (("images", "--run", "runs/none"), 1, "not a run folder"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], code: int, reason: str, rdf: Rdf) -> None:
    seen, _, errors = rdf("audit", *arguments, "--quiet")
    assert seen == code, errors
    assert reason in errors
    assert len(errors.strip().splitlines()) == 1
