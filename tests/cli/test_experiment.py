"""``rdf experiment`` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustbench_df.cli import main
from tests.conftest import ROOT, learnable_set
from tests.runs import write_folder
from tests.test_experiment import write_experiment


def rdf(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["rdf", "experiment", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(learnable_set(160), tmp_path / "images")
    return tmp_path


def test_a_copied_folder_is_another_ablation(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What CONTRIBUTING.md promises: copy a folder, change its settings, run it by its new name."""
    folder = place / "experiments" / "mine"
    shutil.copytree(ROOT / "experiments" / "ratio", folder)
    text = (folder / "config.toml").read_text().partition("[quick]")[0].replace("resnet_se_small", "mlp")
    text = text.replace(', rgb = ", colours alone"', "")
    quick = "[quick]\nseeds = 2\nratios = [0.3]\nbatch_mixed = []\nattack_images = 4\nstandard_eps = 0.9\n"
    quick += "[quick.split]\ntrain = 0.6\nval = 0.2\ntest = 0.2\n"
    quick += "[quick.recipe.phase1]\nepochs = 1\n[quick.recipe.phase2]\nepochs = 1\n"
    (folder / "config.toml").write_text(text + quick)
    assert rdf(monkeypatch, "mine", "--quick", "--data", "images", "--quiet", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in results["rows"]] == ["phase 1 alone", "70/30"]
    assert all(0 <= row["values"]["clean"]["value"] <= 1 and row["seeds"] == 2 for row in results["rows"])
    assert (place / "runs/experiments/mine/figure.svg").exists()


def test_without_a_name_experiments_are_listed_with_their_question(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_experiment("toy")
    assert rdf(monkeypatch) == 0
    said = capsys.readouterr().out
    assert "toy" in said
    assert "Does it hold?" in said
    assert "not run" in said


def test_a_table_names_what_failed_and_what_waits(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_experiment("toy", config='breaks = "a"\nseeds = 2\nright_of = {a = 50, b = 70}\n')
    assert rdf(monkeypatch, "toy", "--data", "images", "--limit", "2", "--quiet") == 1
    said = capsys.readouterr().out
    assert "failed: a, seed 0: ZeroDivisionError" in said
    assert "2 cells wait" in said
    assert "70.0% [60.4, 78.1]" in said


def test_a_near_miss_and_a_missing_folder_are_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rdf(monkeypatch, "toy") == 2
    assert "there is no folder 'experiments' here" in capsys.readouterr().err
    write_experiment("toy")
    assert rdf(monkeypatch, "tpy") == 2
    assert "did you mean 'toy'" in capsys.readouterr().err


def test_run_py_by_itself_is_the_same_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_experiment("toy")
    monkeypatch.setattr("sys.argv", [str(folder / "run.py"), "--data", "images", "--seeds", "1", "--quiet"])
    from robustbench_df.cli.experiment import experiment_main

    with pytest.raises(SystemExit) as left:
        experiment_main(str(folder / "run.py"))
    assert not left.value.code
    assert "results in reports/experiments/toy" in capsys.readouterr().out
