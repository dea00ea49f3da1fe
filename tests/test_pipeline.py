"""The whole job on a small set: run folder, ensemble, predictions, folds, refit and locking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_df import pipeline
from robustbench_df.audit.gate import kept_audit
from robustbench_df.data.split import Split
from robustbench_df.errors import RunError
from robustbench_df.evaluate import predict_logits
from robustbench_df.inference import predict
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from robustbench_df.rundir import write_json
from robustbench_df.summary import find
from robustbench_df.train.side_by_side import Task
from tests.conftest import Heard, learnable_set
from tests.runs import settings, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(learnable_set(200), tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def run(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_all(settings(source), tmp_path_factory.mktemp("runs") / "one")


def test_the_run_folder_holds_what_the_design_says(run: Run) -> None:
    for name in ("config.json", "provenance.json", "split.parquet", "findings.json", "ensemble.json", "results.json"):
        assert run.file(name).is_file()
    for model in run.models:
        for file in ("base.safetensors", "final.safetensors", "model.json", "base-history.jsonl"):
            assert (run.model_dir(model) / file).is_file()
    record = run.read_json("provenance.json")
    assert {"command", "versions", "hardware", "seed", "data_fingerprint", "durations"} <= set(record)
    assert set(record["durations"]) == {"train resnet_se_small", "train mlp", "evaluate"}
    assert record["sides"] == [16, 16] == list(run.sides)
    assert not list(run.path.rglob("*.tmp"))
    assert run.finished


def test_the_audit_is_kept_and_nothing_was_allowed(run: Run) -> None:
    assert kept_audit(run).images == 200
    assert run.allowed_findings == ()
    assert not run.file("twins.json").exists()


def test_weights_come_from_val_and_the_ensemble_computes_what_it_says(run: Run) -> None:
    val = [run.predictions(name).part("val") for name in run.models]
    accuracies = [float((p.logits.argmax(1) == p.labels).mean()) for p in val]
    expected = np.array(accuracies) / sum(accuracies)
    assert np.allclose(run.weights("accuracy").weights, expected)
    images = run.images()
    rows = run.predictions("mlp").part("test").table["image_id"]
    where = {name: k for k, name in enumerate(images.ids)}
    index = np.array([where[i] for i in rows])
    whole = predict_logits(run.ensemble("accuracy"), images, index)
    parts = np.stack([run.predictions(name).part("test").logits for name in run.models])
    assert np.allclose(whole, run.weights("accuracy").combine(parts), atol=1e-4)


def test_results_can_be_recomputed_from_the_predictions(run: Run) -> None:
    for name in run.models:
        for phase in ("base", "final"):
            test = run.predictions(name, phase).part("test")
            found = find(
                run.results(),
                model=name,
                phase=phase,
                condition="clean",
                part="test",
                decision="raw",
                metric="accuracy",
            )
            assert found is not None
            assert found.n == len(test.table) == 20
            margin = test.logits[:, 1] - test.logits[:, 0]
            assert found.value == pytest.approx(float(((margin >= 0) == test.labels).mean()))
            assert found.low < found.value < found.high or found.value in (0, 1)


def test_the_attacked_ensemble_is_judged_too(run: Run) -> None:
    attacked = [r for r in run.results() if r.model == "ensemble" and r.condition.startswith("fgsm")]
    assert {r.phase for r in attacked} == {"base", "final"}
    clean = find(run.results(), model="ensemble", phase="base", condition="clean", part="test", metric="auc")
    assert clean is not None
    assert next(r.value for r in attacked if r.phase == "base" and r.part == "test" and r.metric == "auc") < clean.value


def test_predictions_are_the_same_one_by_one_and_all_together(run: Run) -> None:
    images = run.images()
    index = np.arange(6)
    together = predict(run, images, index, tta=True)
    alone = [predict(run, images, index[k : k + 1], tta=True).probability[0] for k in range(6)]
    assert np.allclose(together.probability, alone, atol=1e-5)
    assert together.ids == tuple(images.ids[:6])


def test_a_second_run_in_the_folder_is_refused_and_so_is_a_busy_one(run: Run, source: Path) -> None:
    with pytest.raises(RunError, match=r"already holds a run.*--resume"):
        train_all(settings(source), run.path)
    with run.lock(), pytest.raises(RunError, match="in use by process"):
        train_all(run.config, run.path, resume=True)


def test_folds_judge_every_image_by_detectors_that_have_not_seen_it(source: Path, tmp_path: Path) -> None:
    folded = train_all(settings(source, "split.folds=3", "refit=true"), tmp_path / "folds")
    table = folded.predictions("mlp").part("oof").table
    assert sorted(table["image_id"]) == sorted(folded.images().ids)
    split = folded.split
    for k in range(3):
        held = set(table[table["fold"] == k]["image_id"])
        learnt = set(split[(split["fold"] == k) & split["part"].isin(["train", "val"])]["image_id"])
        assert held
        assert not held & learnt
    assert folded.read_json("ensemble.json")["final"]["members"]["mlp"]["decision"]["fitted_on"] == "oof"
    assert folded.refitted
    images = folded.images()
    refit = predict(folded, images, np.arange(4), refit=True)
    mean = predict(folded, images, np.arange(4))
    assert not np.allclose(refit.probability, mean.probability)


def test_settings_that_are_refused_today_name_the_run_that_has_them(run: Run, tmp_path: Path) -> None:
    kept = run.read_json("config.json")
    kept["config"]["phase2"] |= {"objective": "trades", "mixup": 0.4}
    write_json(tmp_path / "config.json", kept)
    with pytest.raises(RunError, match=rf"settings of run '{tmp_path}': phase2: mixup .*train it again"):
        _ = Run(tmp_path).config


def test_how_long_training_takes_is_told_before_it_begins_and_how_to_shorten_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(name: str, *overrides: str) -> list[str]:
        heard = Heard()
        config = settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0", *overrides)
        train_all(config, tmp_path / name, reporter=heard)
        return heard.lines

    told = [line for line in lines("short") if "by the speeds of the probe" in line or "make it shorter" in line]
    assert len(told) == 1
    real = pipeline.seconds_left
    counted: list[int] = []
    monkeypatch.setattr(pipeline, "seconds_left", lambda tasks, *rest: counted.append(len(tasks)) or real(tasks, *rest))
    lines("again", "refit=true")
    assert counted == [2]
    monkeypatch.setattr(pipeline, "_LONG", 0.0)
    said = lines("long")
    where = next(k for k, line in enumerate(said) if "by the speeds of the probe" in line)
    assert "make it shorter" in said[where + 1]
    assert where < next(k for k, line in enumerate(said) if line.startswith("mlp · base"))
    fixed = lines("unprobed", "speed.precision=fp32", "speed.memory_format=contiguous")
    assert not [line for line in fixed if "by the speeds of the probe" in line]


def test_refits_are_trained_side_by_side_as_the_others_are(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], int]] = []
    real = pipeline.fit_all

    def one_by_one(tasks: list[Task], splits: list[Split], at_once: int, *rest: Any) -> None:
        asked.append(([job.name for job, _ in tasks], at_once))
        real(tasks, splits, 1, *rest)

    monkeypatch.setattr(pipeline, "fit_all", one_by_one)
    quick = ("phase1.epochs=1", "phase2.epochs=0", "refit=true")
    done = train_all(settings(source, *quick), tmp_path / "run", jobs=2)
    names = ["resnet_se_small", "mlp"]
    assert asked == [(names, 2), ([f"{name} refit" for name in names], 2)]
    assert done.refitted
    assert {f"{what} {name}" for what in ("train", "refit") for name in names} < set(
        done.read_json("provenance.json")["durations"]
    )
