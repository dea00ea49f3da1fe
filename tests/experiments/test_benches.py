"""The benches whose peers are at hand run from end to end, with settings too small to time anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import robustbench_df as rdf
from robustbench_df.experiment import run_experiment
from robustbench_df.experiment_folder import open_experiment
from robustbench_df.experiment_results import read_json
from robustbench_df.settings import merge
from tests.conftest import ROOT, learnable_set
from tests.runs import write_folder


def rows(
    name: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str = "images"
) -> dict[str, dict[str, Any]]:
    """Run the quick form with ``tiny`` merged over it; returns the values of each cell (of its last row)."""
    monkeypatch.chdir(tmp_path)
    opened = open_experiment(ROOT / "experiments" / name, quick=True)
    experiment = replace(opened, config=merge(opened.config, tiny))
    write_folder(learnable_set(120), tmp_path / "images")
    done = run_experiment(experiment, data, quick=True, device="cpu")
    assert done.failed == {}
    results = read_json(done.out / "results.json")
    assert results["cells_run"] == results["cells"] > 0
    return {row["cell"]: row["values"] for row in results["rows"]}


def test_training_times_our_loop_a_bare_step_and_the_usual_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = {"images": 120, "batch_size": 16, "steps": 1}
    (found,) = rows("bench_training", tiny, tmp_path, monkeypatch).values()
    rates = {side: found[f"{side} images/s"]["value"] for side in ("bare", "ours", "usual")}
    assert min(rates.values()) > 0
    # One pair: the median of its ratio is the ratio, but for the rounding of the rates.
    assert found["ours / bare"]["value"] == pytest.approx(rates["ours"] / rates["bare"], rel=0.01)
    assert found["ours / usual"]["value"] == pytest.approx(rates["ours"] / rates["usual"], rel=0.01)
    assert "cpu" in found["setting"]


def test_gradients_are_timed_and_held_against_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for values in rows("bench_gradients", {"batch_size": 2}, tmp_path, monkeypatch).values():
        assert values["library ms"]["value"] > 0
        assert 0 < values["error of ours"]["value"] < 2 * values["error of the library"]["value"] + 0.005


def test_corruptions_are_compared_one_by_one_and_run_at_odd_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library, which not every machine has, is stood in for by ourselves: what is tested is the comparison."""
    monkeypatch.setattr("robustbench_df.corruptions.library.library_corrupt", rdf.corrupt)
    found = rows("bench_corruptions", {"sides": [[32, 2]], "pairs": 1}, tmp_path, monkeypatch)
    assert found["runs 33x47"]["wrong"] == "none"
    timed = [values for cell, values in found.items() if cell.endswith(" 32 px")]
    assert len(timed) == 19
    assert all(values["library / ours"]["value"] > 0 for values in timed)


def test_the_search_for_copies_is_held_against_all_with_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"pools": [], "cost": {"pictures": [60], "hashes": [1000, 4000], "rounds": 1}}
    found = rows("bench_audit", tiny, tmp_path, monkeypatch, data="demo")
    assert found["near hashes against all with all"]["copies found"]["value"] > 0.9
    assert found["near hashes against all with all"]["all / search"]["value"] > 0
    assert "look-ups" in found["cost of near hashes"]["the audit says"]


# The images are a file's, read only; they are divided into a tensor of their own and never written.
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_architectures_are_timed_beside_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows("bench_architectures", {}, tmp_path, monkeypatch)
    assert list(found) == ["mlp", "image_statistics"]
    for values in found.values():
        assert values["answering, ms per image"]["value"] > 0
        assert values["learning, images/s"]["value"] > 0
    # The reference beside itself: as fast, as far as one call each can tell.
    assert 0.02 < found["mlp"]["× the reference"]["value"] < 50
