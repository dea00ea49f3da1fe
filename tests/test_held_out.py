"""What scores a cell of the grid: on a held-out part its own fold's detector, on test the deployed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robustbench_df import held_out
from robustbench_df.config import load_config
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.data.split import Split, make_folds, split_rows
from robustbench_df.ensembling import fit_ensembles
from robustbench_df.evaluate import predict_logits
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.metrics.weights import EnsembleWeights
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.models.zoo import build_detector
from robustbench_df.progress import Reporter
from robustbench_df.run import Run, assemble
from robustbench_df.rundir import create_run, write_json
from robustbench_df.train.job import PHASES
from robustbench_df.train.state import load_checkpoint, save_model_config, save_weights
from tests.conftest import learnable_set

FOLDS, SIDE = 3, 8
STACKED = EnsembleWeights("stacked", (0.6, 0.4), coefficients=(1.2, 0.8), intercept=-0.3)
CONFIG = load_config(
    "full",
    models=("mlp", "other"),
    split={"folds": FOLDS},
    model={"frontend": "rgb"},
    per_model={"other": {"model": {"name": "mlp"}}},
)


@pytest.fixture(scope="module")
def splits() -> list[Split]:
    images = learnable_set(60, SIDE)
    given = ["train"] * 40 + ["test"] * 20
    return make_folds(image_set_from_arrays(images.data, images.labels, given=given), CONFIG.split, FOLDS)


@pytest.fixture
def run(splits: list[Split], tmp_path: Path) -> Run:
    """A run of networks that are untrained, so that each says something else, and of a stack of them."""
    run = Run(create_run(CONFIG, tmp_path / "run").path)
    for name in CONFIG.models:
        for k in range(FOLDS):
            torch.manual_seed(k + FOLDS * CONFIG.models.index(name))
            detector, resolved = build_detector(CONFIG.for_model(name).model, (SIDE, SIDE))
            state = detector.state_dict()
            state["net.layers.6.weight"] *= 20
            for phase in PHASES:
                save_weights(run.model_dir(name, k) / f"{phase}.safetensors", state)
            save_model_config(run.model_dir(name, k), resolved, (SIDE, SIDE))
    fitted = {"ensembles": {"stacked": {"weights": STACKED.to_dict()}}}
    shipped = {"kind": "stacked", "phase": "final"}
    write_json(run.file("ensemble.json"), {"shipped": shipped, **dict.fromkeys(PHASES, fitted)})
    write_json(run.file("speed.json"), {name: {} for name in CONFIG.models})
    write_json(run.file("provenance.json"), {"data_fingerprint": splits[0].images.fingerprint})
    pd.DataFrame(split_rows(splits), columns=["image_id", "part", "fold"]).to_parquet(run.file("split.parquet"))
    return run


def attacked(detector: Detector, split: Split, part: str) -> Floats:
    """Margins of a part under the attack of the cell."""
    condition = held_out.conditions(CONFIG)[1]
    return margins(predict_logits(detector, split.images, split.part(part), transform=condition.transform()))


def test_the_ensemble_is_attacked_on_test_as_it_is_deployed_and_out_of_fold_as_each_fold_has_it(
    run: Run, splits: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr(held_out, "load_checkpoint", lambda *a: loaded.append(a[0]) or load_checkpoint(*a))
    held_out.score_ensemble(run, splits, CONFIG, Reporter())
    assert len(loaded) == len(PHASES) * len(CONFIG.models) * FOLDS  # each network once
    cell = run.predictions("ensemble", "final", held_out.conditions(CONFIG)[1].name)
    said = margins(cell.part("test").logits)
    assert np.allclose(said, attacked(run.ensemble(), splits[0], "test"), atol=1e-4)
    of_fold = [
        assemble([load_checkpoint(run.model_dir(name, k), "final") for name in CONFIG.models], STACKED)
        for k in range(FOLDS)
    ]
    assert np.abs(said - attacked(Ensemble(of_fold).eval(), splits[0], "test")).max() > 0.1
    held = [attacked(detector, split, "cal") for detector, split in zip(of_fold, splits, strict=True)]
    assert np.allclose(margins(cell.part("oof").logits), np.concatenate(held), atol=1e-4)


def test_a_member_is_scored_on_test_by_the_mean_over_its_folds(run: Run, splits: list[Split]) -> None:
    held_out.score_members(run, splits, CONFIG, Reporter())
    clean, fgsm = (run.predictions("mlp", "base", c.name).part("test") for c in held_out.conditions(CONFIG))
    mean = run.detector("mlp", "base")
    expected = margins(predict_logits(mean, splits[0].images, splits[0].test))
    assert np.allclose(margins(clean.logits), expected, atol=1e-4)
    assert np.allclose(margins(fgsm.logits), attacked(mean, splits[0], "test"), atol=1e-4)


def test_attacked_images_are_of_both_classes_even_if_they_alternate(
    run: Run, splits: list[Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = splits[0].images.labels[splits[0].test]
    assert (labels[::2] == labels[0]).all()  # they do
    monkeypatch.setattr(Run, "config", CONFIG.model_copy(update={"attack_images": 10}))
    held_out.score_members(run, splits, CONFIG, Reporter())
    cell = run.predictions("mlp", "base", held_out.conditions(CONFIG)[1].name)
    assert np.bincount(cell.part("test").labels).tolist() == [5, 5]
    assert len(cell.part("oof").labels) == FOLDS * 4
    assert np.ptp(np.bincount(cell.part("oof").labels)) <= FOLDS


def test_an_ensemble_that_comes_out_otherwise_is_attacked_again(run: Run, splits: list[Split]) -> None:
    held_out.score_members(run, splits, CONFIG, Reporter())
    cell = run.predictions_path("ensemble", "final", held_out.conditions(CONFIG)[1].name)

    def attacked_again() -> bool:
        before = cell.stat().st_mtime_ns if cell.exists() else 0
        fit_ensembles(run, splits[0].images, PHASES)
        held_out.score_ensemble(run, splits, CONFIG, Reporter())
        return cell.stat().st_mtime_ns != before

    assert attacked_again()
    assert not attacked_again()  # the same ensemble
    kept = run.read_json("ensemble.json")
    write_json(run.file("ensemble.json"), {**kept, "shipped": {"kind": "uniform", "phase": "base"}})
    assert attacked_again()
    run.file("ensemble.json").unlink()  # as the audit advises; what the cell was of is not known any more
    assert attacked_again()
