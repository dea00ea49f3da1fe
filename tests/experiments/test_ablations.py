"""Every ablation runs from end to end, with an MLP and budgets too small to mean anything."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

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
    "pretrained": {
        "model": "timm:test_efficientnet",
        "headline": ["a"],
        "rows": {"a": {"imagenet": False, "side": 32}, "b": {"imagenet": True, "side": 32}},
    },
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
    if "wheel" in config:
        del config["recipe"]["model"]["name"]
    if "gpu" in config:
        from robustbench_df.models.architectures import MODELS

        config["gpu"] = [other for other in MODELS if other != "mlp"]
        del config["recipe"]["model"]["name"]
    return config


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of weights, random ones, as the experiment `pretrained` wants it installed."""
    name = "random_weights_pytorch_model"
    (tmp_path / "site" / name / "models").mkdir(parents=True)
    (tmp_path / "site" / name / "__init__.py").touch()
    state = timm.create_model(OWN["pretrained"]["model"].removeprefix("timm:")).state_dict()
    torch.save(state, tmp_path / "site" / name / "models" / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return name


@pytest.mark.parametrize("name", [*ABLATIONS, "augment_corruption"])
def test_it_runs_from_end_to_end(name: str, wheel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_folder(learnable_set(120), tmp_path / "images")
    experiment = open_experiment(ROOT / "experiments" / name, quick=True)
    config = tiny(name, experiment.config)
    experiment = replace(experiment, config={**config, "wheel": wheel} if "wheel" in config else config)
    done = run_experiment(experiment, "images", quick=True)
    assert done.failed == {}
    results = read_json(done.out / "results.json")
    assert results["cells_run"] == results["cells"] > 0
    shown = set(experiment.config["columns"]) - {key for row in results["rows"] for key in row["values"]}
    assert not shown, f"config.toml shows columns that run.py never measures: {shown}"
    assert (done.out / "figure.svg").exists()


def test_weights_that_are_not_installed_cost_their_own_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(learnable_set(60), tmp_path / "images")
    experiment = open_experiment(ROOT / "experiments" / "pretrained", quick=True)
    experiment = replace(experiment, config={**tiny("pretrained", experiment.config), "wheel": "no_such_wheel"})
    done = run_experiment(experiment, "images", quick=True)
    assert list(done.failed) == ["b, seed 0"]
    assert "pip install no_such_wheel" in done.failed["b, seed 0"]


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
