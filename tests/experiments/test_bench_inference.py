"""The bench of inference runs from end to end on a small run, and resumes cell by cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robustbench_df.deploy import timing
from robustbench_df.experiment import run_experiment
from robustbench_df.experiment_folder import open_experiment
from robustbench_df.experiment_results import read_json
from robustbench_df.pipeline import train_all
from robustbench_df.settings import merge
from tests.conftest import ROOT, learnable_set
from tests.runs import settings, write_folder

TINY = {"run": "runs/one", "models": ["mlp"], "batches": [1, 4], "seconds": 60.0, "images": 12, "attacked": 4}


def test_it_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "ROUNDS", (1, 2))
    source = write_folder(learnable_set(120), tmp_path / "images")
    train_all(settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "runs" / "one")
    opened = open_experiment(ROOT / "experiments" / "bench_inference", quick=True)
    experiment = replace(opened, config=merge(opened.config, dict(TINY)))
    done = run_experiment(experiment, "images", quick=True, device="cpu")
    assert done.failed == {}
    results = read_json(done.out / "results.json")
    assert results["cells_run"] == results["cells"] == 2
    values = {row["row"]: row["values"] for row in results["rows"]}
    assert values["clean"]["int8"]["low"] <= values["clean"]["int8"]["value"] <= values["clean"]["int8"]["high"]
    assert values["time"]["fp32: × at 1"]["value"] == 1.0
    assert values["time"]["compiled: × at 1"] == "not run"
    assert str(tmp_path) not in (done.out / "results.json").read_text()
