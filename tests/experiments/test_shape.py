"""Every experiment in the repository has the one shape, and asks its question in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_df.experiment import REPORTS
from robustbench_df.experiment_folder import find_experiments, open_experiment, question
from robustbench_df.experiment_results import kept_results
from tests.conftest import ROOT

FOLDERS = find_experiments(ROOT / "experiments")
ABLATIONS = (
    "architectures",
    "cloning",
    "ensemble",
    "leak",
    "objectives",
    "pretrained",
    "ratio",
    "regularisation",
    "stem",
)


@pytest.mark.parametrize("name", FOLDERS)
def test_it_declares_cells_for_both_budgets_in_eighty_lines(name: str) -> None:
    folder = FOLDERS[name]
    assert len((folder / "run.py").read_text().splitlines()) <= 80
    for quick in (False, True):
        experiment = open_experiment(folder, quick=quick)
        cells = experiment.declare(experiment.config)
        assert len({cell.name for cell in cells}) == len(cells) > 0
    assert max(cell.seeds or experiment.config.get("seeds", 1) for cell in cells) == 1  # quick: one seed is enough


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_headline_rows_have_three_seeds(name: str) -> None:
    """In what was measured, not in what was planned."""
    config = open_experiment(FOLDERS[name]).config
    results = kept_results(ROOT / REPORTS / name)
    assert results is not None
    seeds = {row["cell"]: row["seeds"] for row in results["rows"]}
    headline = config.get("headline", [cell for cell, count in seeds.items() if count >= 3])
    assert headline
    assert all(seeds[cell] >= 3 for cell in headline)


@pytest.mark.parametrize("folder", [f for f in FOLDERS.values() if (f / "README.md").exists()], ids=lambda f: f.name)
def test_its_readme_says_what_it_is_for(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert question(folder).endswith("?")
    for part in ("**Command.**", "**Cost.**", "**Expected.**", "**Measured"):
        assert part in text
