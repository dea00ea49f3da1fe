"""The README files say what the results say; `rdf experiment --readme` brings them up to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from robustbench_df.errors import UsageError
from robustbench_df.experiment import REPORTS, declared_cells, run_experiment, tasks_of
from robustbench_df.experiment_folder import find_experiments, open_experiment, question
from robustbench_df.experiment_readme import NOT_RUN, readmes, write_readmes
from robustbench_df.experiment_results import collect, kept_results
from robustbench_df.rundir import write_text
from tests.conftest import ROOT, learnable_set
from tests.runs import write_folder
from tests.test_experiment import write_experiment


def test_the_readmes_of_this_repository_say_what_its_results_say() -> None:
    stale = [str(path) for path, text in readmes(ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"bring up to date with: rdf experiment --readme ({', '.join(stale)})"


@pytest.mark.parametrize("name", find_experiments(ROOT / "experiments"))
def test_the_results_kept_here_are_of_the_code_and_settings_kept_here(name: str) -> None:
    """Nobody changes an experiment and leaves its old numbers standing, or edits a number."""
    results = kept_results(ROOT / REPORTS / name)
    assert results is not None, f"measure it: rdf experiment {name}"
    experiment = open_experiment(ROOT / "experiments" / name)
    declared = declared_cells(experiment)
    tasks = tasks_of(experiment, declared, ROOT / REPORTS / name, results["data"]["fingerprint"], "cpu")
    again = collect({}, [cell.name for cell in declared], {task.path: task.key for task in tasks})
    stale = [task.title for task in tasks if task.path.exists() and not task.finished]
    assert not stale, "measured with other settings or other code"
    assert {key: results[key] for key in again} == again
    assert results["question"] == question(experiment.folder)


def test_a_copied_folder_does_not_bring_the_numbers_of_the_one_it_was_copied_from(place: Path) -> None:
    write_readmes()
    assert "| a |" in (place / "experiments/toy/README.md").read_text()
    shutil.copytree(place / "experiments/toy", place / "experiments/other")
    write_readmes()
    copied = (place / "experiments/other/README.md").read_text()
    assert NOT_RUN in copied
    assert "| a |" not in copied


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folder(learnable_set(12), tmp_path / "images")
    own = write_experiment("toy") / "README.md"
    said = "\n**Measured.**\n\n<!-- measured -->\n<!-- /measured -->\n\n**What it says.** b is\nbetter.\n\nMore.\n"
    own.write_text(own.read_text() + said)
    (tmp_path / "README.md").write_text("before\n\n<!-- experiments -->\nwhat was\n<!-- /experiments -->\n\nafter\n")
    run_experiment(open_experiment("toy"), "images")
    return tmp_path


def test_both_readmes_hold_the_table_and_the_words_stand_in_one_place(place: Path) -> None:
    assert {path.resolve() for path in write_readmes()} == {place / "README.md", place / "experiments/toy/README.md"}
    text = (place / "README.md").read_text()
    assert text.startswith("before\n\n<!-- experiments -->\n")
    assert text.endswith("\n<!-- /experiments -->\n\nafter\n")
    row = "| a | 60.0% [50.3, 68.9] (50.0–70.0) | 12 | x |"
    assert row in text
    assert row in (place / "experiments/toy/README.md").read_text()
    assert "b is\nbetter." in text
    assert "what was" not in text
    assert write_readmes() == []


def test_a_drift_of_either_side_is_seen(place: Path) -> None:
    write_readmes()
    path = place / "reports/experiments/toy/results.json"
    write_text(path, path.read_text().replace("0.6000", "0.6100").replace('"value": 0.6,', '"value": 0.61,'))
    assert place / "README.md" in {path.resolve() for path in write_readmes()}


def test_a_readme_without_its_marks_is_named(place: Path) -> None:
    (place / "README.md").write_text("no marks\n")
    with pytest.raises(UsageError, match=r"'README.md' needs the marks"):
        readmes()
