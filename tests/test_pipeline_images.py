"""What `train_all` makes of the images it is given: audit, given parts, twins, bad files and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.gate import kept_audit
from robustbench_df.cli.tables import print_summary
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.ensembling import DEDUPLICATED
from robustbench_df.errors import DataError
from robustbench_df.pipeline import train_all
from robustbench_df.run import open_run
from robustbench_df.rundir import write_json
from robustbench_df.summary import find
from tests.conftest import Heard, learnable_set
from tests.runs import settings, write_folder


def test_a_failing_audit_stops_before_anything_is_written_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = learnable_set(400)
    dark = images.data // np.where(images.labels == 1, 8, 1)[:, None, None, None].astype(np.uint8)
    folder = write_folder(image_set_from_arrays(dark, images.labels), tmp_path / "images")
    quick = ("phase1.epochs=1", "phase2.epochs=0", "models=['mlp']")
    with pytest.raises(DataError, match=r"fails shortcuts-pixels.*--allow-findings"):
        train_all(settings(folder, *quick), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    done = train_all(settings(folder, *quick, "allow_findings=true"), tmp_path / "run")
    assert kept_audit(done).allowed == done.allowed_findings == ("shortcuts-pixels",)
    print_summary(done)
    assert "Trained in spite of a failing audit (shortcuts-pixels)" in capsys.readouterr().out


def test_a_given_test_part_with_twins_is_scored_with_and_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = learnable_set(120)
    for part, rows in (("train", np.arange(90)), ("test", np.r_[:10, 90:120])):
        write_folder(images.subset(rows), tmp_path / "images" / part)
    config = settings(tmp_path / "images", "phase1.epochs=1", "phase2.epochs=0", "models=['mlp']")
    done = train_all(config, tmp_path / "run")
    assert len(done.read_json("twins.json")["test"]) == 10
    counts = {part: find(done.results(), part=part, metric="accuracy") for part in ("test", DEDUPLICATED)}
    assert [found and found.n for found in counts.values()] == [40, 30]
    assert kept_audit(done).cured == ("duplicates-across-splits",)
    print_summary(done)
    assert "without 10 twins" in capsys.readouterr().out


def test_a_given_val_part_that_goes_into_the_folds_is_told_and_kept(tmp_path: Path) -> None:
    heard, images = Heard(), learnable_set(60)
    for part, rows in (("train", np.arange(40)), ("val", np.arange(40, 60))):
        write_folder(images.subset(rows), tmp_path / "images" / part)
    config = settings(tmp_path / "images", "phase1.epochs=1", "phase2.epochs=0", "models=['mlp']", "split.folds='auto'")
    done = train_all(config, tmp_path / "run", jobs=1, reporter=heard)
    assert [line for line in heard.warnings if "given val part" in line and "--folds 1" in line]
    assert [f["where"] for f in done.read_json("findings.json")["findings"]] == ["val"]


def test_bad_images_are_findings_of_the_run(tmp_path: Path) -> None:
    folder = write_folder(learnable_set(60), tmp_path / "data")
    whole = (folder / "real" / "0.png").read_bytes()
    (folder / "real" / "0.png").write_bytes(whole[: len(whole) // 2])
    with_bad = train_all(settings(folder, "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run")
    findings = with_bad.read_json("findings.json")["findings"]
    assert [f["where"] for f in findings] == ["real/0.png"]
    assert "real/0.png" not in set(with_bad.split["image_id"])


def test_sizes_are_those_of_the_images_learnt_from(tmp_path: Path) -> None:
    write_folder(learnable_set(60, size=20), tmp_path / "data" / "train")
    write_folder(learnable_set(20, size=40, seed=1), tmp_path / "data" / "test")
    config = settings(tmp_path / "data", "data.size=16", "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0")
    run = train_all(config, tmp_path / "run")
    assert run.sides == (20, 20)
    record = run.read_json("provenance.json")
    record.pop("sides")
    write_json(run.file("provenance.json"), record)
    assert open_run(run.path).sides is None  # nothing is known, and nothing claimed
