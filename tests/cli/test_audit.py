"""``rdf audit`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_df.audit.finding import Audit
from robustbench_df.cli.audit_tables import WORST_FIRST
from robustbench_df.data.sources import load_images
from robustbench_df.inference import Verdicts, write_forms
from robustbench_df.run import open_run
from tests.audit.runs import MODELS, distinct_set, spoil_json, write_run
from tests.cli.test_cli import rdf
from tests.test_pipeline import write_folder


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


def test_the_worst_finding_comes_first_and_strict_exits_with_1(place: Path) -> None:
    done = rdf("audit", "mixed", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:3] for line in done.stdout.splitlines() if line.startswith("│")]
    severities = [cells[0].strip() for cells in rows if cells[0].strip()]
    assert severities == sorted(severities, key=WORST_FIRST.index)
    assert [cell.strip() for cell in rows[0]] == ["fail", "shortcuts-files"]
    assert "→" in done.stdout
    assert done.stderr == ""
    assert rdf("audit", "mixed", "--strict", "--quiet", cwd=place).returncode == 1


def test_a_clean_folder_passes_even_strictly(place: Path) -> None:
    done = rdf("audit", "images", "--strict", "--json", cwd=place)
    assert done.returncode == 0, done.stdout
    found = Audit.from_json(json.loads(done.stdout))
    assert found.counts()["fail"] == 0
    assert found.images == len(list((place / "images").rglob("*.png")))
    assert found["shortcuts-files"].severity == "pass"


def test_a_run_is_audited_with_its_own_images_and_keeps_the_audit(place: Path) -> None:
    done = rdf("audit", "--run", "runs/one", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    found = Audit.from_json(json.loads(done.stdout))
    assert {f.severity for f in found.findings if f.id.startswith("run-")} == {"pass"}
    kept = Audit.from_json(json.loads((place / "runs" / "one" / "audit.json").read_text()))
    assert {f.id: f.severity for f in kept.findings} == {f.id: f.severity for f in found.findings}


def test_a_leak_in_a_run_is_found(place: Path) -> None:
    copies = place / "runs" / "one" / "models" / MODELS[0] / "final-copies.json"
    before = copies.read_text()
    split = open_run(place / "runs" / "one").split
    victim = split["image_id"][split["part"] == "val"].iloc[0]
    assert victim not in before
    spoil_json(copies, lambda entries: entries[0].update(source=victim))
    try:
        done = rdf("audit", "--run", "runs/one", "--fast", "--strict", cwd=place)
    finally:
        copies.write_text(before)
    assert done.returncode == 1
    assert victim in done.stdout


def test_a_submission_is_checked(place: Path) -> None:
    images = load_images(place / "images")
    p = np.where(images.labels == 1, 0.1, 0.9)
    write_forms(Verdicts(tuple(images.ids), p, (p >= 0.5).astype(np.int8)), place / "swapped", ("csv",))
    done = rdf("audit", "images", "--predictions", "swapped/predictions.csv", "--fast", "--json", cwd=place)
    found = Audit.from_json(json.loads(done.stdout))
    assert found["predictions-polarity"].severity == "fail"
    assert found["predictions-ids"].severity == "pass"


def test_two_sets_are_compared(place: Path) -> None:
    done = rdf("audit", "images", "--against", "images", "--json", cwd=place)
    found = Audit.from_json(json.loads(done.stdout))
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
def test_mistakes_are_one_line(arguments: tuple[str, ...], code: int, reason: str, place: Path) -> None:
    done = rdf("audit", *arguments, "--quiet", cwd=place)
    assert done.returncode == code, done.stderr
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
