"""Every ablation runs from end to end, with an MLP and budgets too small to mean anything."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustbench_df.experiment import run_experiment
from robustbench_df.experiment_folder import open_experiment
from robustbench_df.experiment_results import read_json
from robustbench_df.models.zoo import MODELS
from robustbench_df.settings import merge
from tests.conftest import ROOT, learnable_set
from tests.experiments.test_shape import ABLATIONS
from tests.runs import write_folder

MLP = {"name": "mlp", "frontend": "rgb"}
TINY: dict[str, Any] = {
    "split": {"train": 0.5, "val": 0.1, "cal": 0.1, "test": 0.3},
    "recipe": {"model": MLP, "phase1": {"image_budget": 64}, "phase2": {"image_budget": 64, "epochs": 1}},
    "attack_images": 4,
    "standard_eps": 0.9,  # nothing stands, so that the suite ends at once
}
OWN: dict[str, dict[str, Any]] = {
    "architectures": {"headline": ["mlp"]},
    "ensemble": {
        "pool": {"one": {"model": MLP}, "two": {"model": MLP, "phase1": {"lr": 1e-2}}},
        "costly": list(MODELS),
    },
    "leak": {"second": {"phase1": {"image_budget": 64}}},
    "objectives": {"eps": 0.9},
    "stem": {
        "rows": {"a": ["mlp", "native", "rgb", 0], "b": ["mlp", "native", "rgb", 24]},
        "rates": {"mlp": {"lr": 1e-3}},
    },
}
REPLACED = ("pool", "rows")


def tiny(name: str, config: dict[str, Any]) -> dict[str, Any]:
    for table in REPLACED:
        if table in OWN.get(name, {}):
            config.pop(table, None)
    config = merge(merge(config, copy.deepcopy(TINY)), OWN.get(name, {}))
    if "gpu" in config:
        from robustbench_df.models.architectures import MODELS

        config["gpu"] = [other for other in MODELS if other != "mlp"]
        del config["recipe"]["model"]["name"]
    return config


@pytest.mark.parametrize("name", [*ABLATIONS, "augment_corruption"])
def test_it_runs_from_end_to_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_folder(learnable_set(120), tmp_path / "images")
    experiment = open_experiment(ROOT / "experiments" / name, quick=True)
    experiment = replace(experiment, config=tiny(name, experiment.config))
    done = run_experiment(experiment, "images", quick=True)
    assert done.failed == {}
    results = read_json(done.out / "results.json")
    assert results["cells_run"] == results["cells"] > 0
    shown = set(experiment.config["columns"]) - {key for row in results["rows"] for key in row["values"]}
    assert not shown, f"config.toml shows columns that run.py never measures: {shown}"
    assert (done.out / "figure.svg").exists()


def test_the_leak_is_told_and_every_fault_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(learnable_set(160), tmp_path / "images")
    experiment = open_experiment(ROOT / "experiments" / "leak", quick=True)
    experiment = replace(experiment, config=tiny("leak", experiment.config))
    results = read_json(run_experiment(experiment, "images", quick=True).out / "results.json")
    caught = {row["cell"]: row["values"]["caught by"] for row in results["rows"]}
    assert caught["split first (right)"] == caught["70/30, true labels (right)"] == "nothing to catch"
    assert "run-split (fail)" in caught["fault 2: training set rebuilt"]
    assert "run-copies (fail)" in caught["fault 3: 70/30, coin-flip labels"]
    assert {"run-split", "run-copies"} <= {f.split()[0] for f in caught["faults 1 + 2 + 3, as published"].split(", ")}
    assert caught["fault 4: FGSM clamped after normalising"] == "run-attacked (fail)"
    assert len(results["said"]) == 5
    assert "by up to 0.4" in results["said"][-1]
