"""The whole job on a small set: run folder, ensemble, predictions, folds, refit and locking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import robustbench_df as rdf
from robustbench_df import pipeline
from robustbench_df.audit.gate import kept_audit
from robustbench_df.cli.tables import print_summary
from robustbench_df.config import RunConfig, load_config
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.split import Split
from robustbench_df.ensembling import DEDUPLICATED
from robustbench_df.errors import DataError, RunError, UsageError
from robustbench_df.evaluate import predict_logits
from robustbench_df.inference import predict
from robustbench_df.models import pretrained
from robustbench_df.models.zoo import PRETRAINED_SIDE
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import write_json
from robustbench_df.summary import find
from robustbench_df.train.report import Reporter
from robustbench_df.train.side_by_side import Task
from tests.conftest import learnable_set

SMALL = [
    "phase1.epochs=2",
    "phase2.epochs=1",
    "phase1.batch_size=16",
    "phase2.batch_size=16",
    "phase1.image_budget=0",
    "phase2.image_budget=0",
    "model.pretrained=never",
    "models=['resnet_se_small', 'mlp']",
    "per_model={}",
    "speed.save_every=0",
    "split.folds=1",
]


def write_folder(images: ImageSet, folder: Path) -> Path:
    for k, (pixels, label) in enumerate(zip(images.data, images.labels, strict=True)):
        path = folder / ("fake" if label else "real") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return folder


def settings(source: Path, *overrides: str) -> RunConfig:
    return load_config("full", overrides=[*SMALL, *overrides], data={"source": str(source)})


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


def test_the_audit_is_kept_and_nothing_was_allowed(run: Run) -> None:
    assert kept_audit(run).images == 200
    assert run.allowed_findings == ()
    assert not run.file("twins.json").exists()


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
    lines: list[str] = []

    class Warned(Reporter):
        def warn(self, text: str) -> None:
            lines.append(text)

    images = learnable_set(60)
    for part, rows in (("train", np.arange(40)), ("val", np.arange(40, 60))):
        write_folder(images.subset(rows), tmp_path / "images" / part)
    config = settings(tmp_path / "images", "phase1.epochs=1", "phase2.epochs=0", "models=['mlp']", "split.folds='auto'")
    done = train_all(config, tmp_path / "run", jobs=1, reporter=Warned())
    assert [line for line in lines if "given val part" in line and "--folds 1" in line]
    assert [f["where"] for f in done.read_json("findings.json")["findings"]] == ["val"]


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


def test_changed_data_is_refused_on_resume(source: Path, tmp_path: Path) -> None:
    folder = write_folder(learnable_set(60), tmp_path / "data")
    unfinished = train_all(settings(folder, "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run")
    unfinished.file("DONE").unlink()
    (folder / "fake" / "1.png").unlink()
    with pytest.raises(RunError, match="has changed"):
        train_all(unfinished.config, unfinished.path, resume=True)
    with pytest.raises(RunError, match="has changed"):
        open_run(unfinished.path).images()


def test_bad_images_are_findings_of_the_run(source: Path, tmp_path: Path) -> None:
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


def test_settings_that_are_refused_today_name_the_run_that_has_them(run: Run, tmp_path: Path) -> None:
    kept = run.read_json("config.json")
    kept["config"]["phase2"] |= {"objective": "trades", "mixup": 0.4}
    write_json(tmp_path / "config.json", kept)
    with pytest.raises(RunError, match=rf"settings of run '{tmp_path}': phase2: mixup .*train it again"):
        _ = Run(tmp_path).config


def test_misspelt_models_fail_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    with pytest.raises(rdf.errors.ModelError, match="did you mean"):
        train_all(settings(source, "models=['resnet_s']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="no model 'mpl'"):
        train_all(settings(source, "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run").detector("mpl")


def test_what_cannot_be_built_leaves_no_run_behind_and_idle_settings_are_named(source: Path, tmp_path: Path) -> None:
    class Heard(Reporter):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    with pytest.raises(rdf.errors.ModelError, match="divisible by 4"):
        train_all(settings(source, "models=['vit_base_patch16_224']", "model.input_size=30"), tmp_path / "run")
    with pytest.raises(rdf.errors.ModelError, match="inception_v3 cannot take images of 16×16 px"):
        train_all(settings(source, "models=['timm:inception_v3']"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    heard = Heard()
    idle = ("model.dropout=0.9", "model.head=recipe", "phase1.epochs=1", "phase2.epochs=0", "models=['mlp']")
    train_all(settings(source, *idle), str(tmp_path / "idle"), reporter=heard)
    named = [f"mlp: model.{what} does nothing for mlp" for what in ("head=recipe", "dropout=0.9")]
    assert [w for w in heard.warnings if "does nothing" in w] == named


def test_how_long_training_takes_is_told_before_it_begins_and_how_to_shorten_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Heard(Reporter):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def start(self, title: str, *_: Any, **__: Any) -> None:
            self.lines.append(title)

        say = warn = lambda self, text: self.lines.append(text)

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


def test_a_run_is_resumed_with_its_own_settings_where_it_was_begun(source: Path, tmp_path: Path) -> None:
    one = settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0")
    run = train_all(one, tmp_path / "run")
    run.file("DONE").unlink()
    with pytest.raises(UsageError, match=r"begun with phase1.epochs=1, not 4"):
        train_all(settings(source, "models=['mlp']", "phase1.epochs=4", "phase2.epochs=0"), run.path, resume=True)
    with pytest.raises(UsageError, match="give its folder"):
        train_all(one, resume=True)
    speed = run.read_json("speed.json")
    write_json(run.file("speed.json"), {"mlp": {**speed["mlp"], "device": "cuda:7"}})
    before = run.file("split.parquet").stat().st_mtime_ns
    with pytest.raises(RunError, match="begun on cuda:7, which is not there now"):
        train_all(one, run.path, resume=True)
    assert run.file("split.parquet").stat().st_mtime_ns == before  # nothing was written
    write_json(run.file("speed.json"), speed)
    kept = run.file("split.parquet").read_bytes()
    run.file("split.parquet").write_bytes(kept[:-9])
    with pytest.raises(RunError, match=r"split.parquet' is damaged"):
        train_all(one, run.path, resume=True)
    run.file("split.parquet").write_bytes(kept)
    assert train_all(one, str(run.path), resume=True).finished


def test_a_resumed_run_shares_the_cores_by_the_threads_it_was_begun_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0")
    run = train_all(one, tmp_path / "run", jobs=1)
    run.file("DONE").unlink()
    speed = run.read_json("speed.json")
    write_json(run.file("speed.json"), {"mlp": {**speed["mlp"], "threads": 3}})
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(pipeline, "how_many", lambda tasks, _device, *more: asked.append((tasks, *more)) or 1)
    train_all(one, tmp_path / "run", resume=True)
    assert asked == [(1, one.phase1.batch_size * 16 * 16, 3)]


def test_pretrained_auto_is_decided_once_whatever_the_hub_does_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub_is_away(when: Callable[[], bool]) -> None:
        def fetched(name: str) -> torch.nn.Module:
            asked.append(name)
            if when():
                raise OSError("the hub is away")
            return timm.create_model(name, pretrained=False, num_classes=2)

        monkeypatch.setattr(pretrained, "_fetched", fetched)

    def input_sizes(run: Run) -> list[int | None]:
        kept = [run.read_json("models", "timm_test_resnet", f"fold{k}", "model.json") for k in range(2)]
        return [described["model"]["input_size"] for described in kept]

    monkeypatch.setattr(pretrained, "_hub_answer", [True])
    quick = ("split.folds=2", "phase1.epochs=1", "phase2.epochs=0", "speed.precision=fp32", "attack_images=4")
    asking = ("models=['timm:test_resnet']", "model.pretrained=auto", "speed.memory_format=contiguous")
    config = settings(write_folder(learnable_set(60), tmp_path / "images"), *quick, *asking)
    hub_is_away(lambda: len(asked) == 1)
    with pytest.warns(UserWarning, match="the hub is away"):
        scratch = train_all(config, tmp_path / "scratch", jobs=1)
    assert scratch.config.model.pretrained == "never"
    assert input_sizes(scratch) == [None, None]
    assert len(asked) == 1
    run = Run(tmp_path / "run")
    hub_is_away(run.file("models", "timm_test_resnet", "fold0", "final.safetensors").exists)
    for resume in (False, True):
        with pytest.raises(rdf.errors.ModelError, match="no pretrained weights for test_resnet: the hub is away"):
            train_all(config, run.path, resume=resume, jobs=1)
        assert run.config.model.pretrained == "required"
    hub_is_away(lambda: False)
    assert train_all(config, run.path, resume=True, jobs=1).finished
    assert input_sizes(run) == [PRETRAINED_SIDE] * 2


def test_a_weight_file_that_is_not_there_fails_before_anything_is_read(tmp_path: Path) -> None:
    absent = f"model.weights='{tmp_path / 'absent.pth'}'"
    with pytest.raises(rdf.errors.ModelError, match="no weight file"):
        train_all(settings(tmp_path / "nowhere", "models=['mlp']", absent), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refit_cannot_follow_val_and_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    plateau = settings(tmp_path / "nowhere", "refit=true", "per_model.mlp.phase2.schedule='plateau'")
    with pytest.raises(UsageError, match=r"mlp: phase2\.schedule=plateau .*leave --refit away"):
        train_all(plateau, tmp_path / "run")


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
