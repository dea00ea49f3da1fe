"""A run that is taken up again: the same images, settings, device and weights, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

import robustbench_df as rdf
from robustbench_df import pipeline
from robustbench_df.errors import RunError, UsageError
from robustbench_df.models import pretrained
from robustbench_df.models.zoo import PRETRAINED_SIDE
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import write_json
from tests.conftest import learnable_set
from tests.runs import settings, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(learnable_set(200), tmp_path_factory.mktemp("images"))


def test_changed_data_is_refused_on_resume(tmp_path: Path) -> None:
    folder = write_folder(learnable_set(60), tmp_path / "data")
    unfinished = train_all(settings(folder, "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run")
    unfinished.file("DONE").unlink()
    (folder / "fake" / "1.png").unlink()
    with pytest.raises(RunError, match="has changed"):
        train_all(unfinished.config, unfinished.path, resume=True)
    with pytest.raises(RunError, match="has changed"):
        open_run(unfinished.path).images()


def test_what_is_deleted_of_a_finished_run_is_made_again(source: Path, tmp_path: Path) -> None:
    run = train_all(settings(source, "models=['mlp']", "phase1.epochs=1", "phase2.epochs=0"), tmp_path / "run")
    weights = next(run.path.rglob("base.safetensors"))
    trained, results = weights.stat().st_mtime_ns, run.file("results.json").read_text()
    for name in ("results.json", "ensemble.json", "predictions"):
        assert run.finished
        run.file(name).rename(tmp_path / name)
        assert not run.finished
        train_all(run.config, run.path, resume=True)
        assert run.file("results.json").read_text() == results
    assert run.finished
    assert weights.stat().st_mtime_ns == trained
    assert run.whole
    before = weights.read_bytes()
    weights.unlink()
    assert not run.whole
    train_all(run.config, run.path, resume=True)
    assert run.whole
    assert weights.read_bytes() == before


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

    monkeypatch.setattr(pretrained, "hub_reachable", lambda _patience: True)
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
