"""The loop learns, resumes bit for bit, survives what it should and stops at what it must."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robustbench_df.config import Recipe, load_config
from robustbench_df.data.split import Split, make_refit, make_split
from robustbench_df.errors import DataError, RunError, TrainError
from robustbench_df.evaluate import predict_logits
from robustbench_df.metrics.scores import auc, margins
from robustbench_df.progress import Reporter
from robustbench_df.train import fit as loop
from robustbench_df.train.fit import fit
from robustbench_df.train.job import Job
from robustbench_df.train.speed import Setting
from robustbench_df.train.state import load_checkpoint
from tests.conftest import learnable_set

BASE = ["model.pretrained=never", "phase1.epochs=3", "phase2.epochs=2", "phase1.batch_size=16", "phase2.batch_size=16"]
RICH = [
    "phase1.ema=0.9",
    "phase1.mixup=0.4",
    "phase1.cutmix=1.0",
    "phase1.copies=20",
    "phase1.label_smoothing=0.1",
    "phase2.adversarial_copies=10",
    "augment.trivial=true",
    "augment.erase=0.3",
    "phase1.micro_batch=8",
]


def recipe(*overrides: str) -> Recipe:
    return load_config("full", overrides=[*BASE, *overrides]).for_model("resnet_se_small")


def job(folder: Path, *overrides: str, **extra: Any) -> Job:
    return replace(Job("resnet_se_small", recipe(*overrides), folder, Setting(), save_every=0.0), **extra)


@pytest.fixture(scope="module")
def split() -> Split:
    return make_split(learnable_set(120))


class StopAt(Reporter):
    """Raise after so many epochs, as Ctrl-C would."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, _row: dict[str, Any]) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Starts(Reporter):
    """Note how many images of each phase had been seen when it was begun."""

    def __init__(self) -> None:
        self.done: list[int] = []

    def start(self, _title: str, _total: int, done: int = 0, **_: Any) -> None:
        self.done.append(done)


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {phase: load_file(folder / f"{phase}.safetensors") for phase in ("base", "final")}


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[p][k], second[p][k]) for p in first for k in first[p])


def test_it_learns_and_phase_two_hardens_against_fgsm(tmp_path: Path) -> None:
    easy = make_split(learnable_set(240))
    fit(job(tmp_path, "phase1.epochs=12", "phase1.lr=3e-3", "phase2.epochs=6", "phase2.lr=1e-3"), easy)
    labels = easy.images.labels[easy.test]
    scores = {p: auc(margins(predict_logits(load_checkpoint(tmp_path, p), easy.images, easy.test)), labels)
              for p in ("base", "final")}  # fmt: skip
    assert scores["base"] > 0.9
    rows = [json.loads(line) for line in (tmp_path / "final-history.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert max(row["val_fgsm_auc"] for row in rows) > rows[0]["val_fgsm_auc"]
    first, second = weights(tmp_path)["base"], weights(tmp_path)["final"]
    assert any(not torch.equal(first[k], second[k]) for k in first)  # phase 2 kept both and changed something


@pytest.mark.parametrize("overrides", [[], RICH], ids=["plain", "everything on"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_stopped_phase_resumes_bit_for_bit(tmp_path: Path, split: Split, overrides: list[str], stop: int) -> None:
    fit(job(tmp_path / "whole", *overrides), split)
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path / "parts", *overrides), split, StopAt(stop))
    torch.rand(7)  # whatever else the process drew in between must not matter
    resumed = Starts()
    begun = (tmp_path / "parts" / "base-state.pt", tmp_path / "parts" / "final-state.pt")
    saved = [path.exists() for path in begun]
    fit(job(tmp_path / "parts", *overrides), split, resumed)
    assert any(saved) == (resumed.done[0] > 0)  # what had been trained was not trained again
    assert same(tmp_path / "whole", tmp_path / "parts")
    for phase in ("base", "final"):
        lines = [(tmp_path / d / f"{phase}-history.jsonl").read_text() for d in ("whole", "parts")]
        epochs = [[json.loads(x)["epoch"] for x in text.splitlines()] for text in lines]
        assert epochs[0] == epochs[1]
        assert not (tmp_path / "parts" / f"{phase}-state.pt").exists()


def test_seed_and_fold_change_the_weights(tmp_path: Path, split: Split) -> None:
    fit(job(tmp_path / "a"), split)
    fit(job(tmp_path / "b", seed=1), split)
    fit(job(tmp_path / "c", fold=2), split)
    assert not same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_finished_phases_are_not_trained_again(tmp_path: Path, split: Split) -> None:
    fit(job(tmp_path), split)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    fit(job(tmp_path), split)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_place(tmp_path: Path, split: Split) -> None:
    with pytest.raises(TrainError, match=r"not finite at epoch \d+, step \d+, lr .*phase1\.lr") as caught:
        fit(job(tmp_path, "phase1.lr=1e30", "phase1.clip_norm=0", "phase1.schedule=constant", "phase1.warmup=0"), split)
    assert "no checkpoint had been saved yet" in str(caught.value)
    assert not (tmp_path / "base.safetensors").exists()


def test_a_last_step_that_was_too_large_is_told_as_one(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise DataError("8 of 8 margins are NaN: mend the detector's logits")

    monkeypatch.setattr(loop, "validate", broken)
    with pytest.raises(TrainError, match=r"after epoch 1: 8 of 8 margins are NaN.*, lr .*; try a smaller rate"):
        fit(job(tmp_path), split)


@pytest.mark.parametrize(("select", "kept_epoch"), [("best", 2), ("last", 5)])
def test_early_stopping_follows_val_whatever_is_kept(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, select: str, kept_epoch: int
) -> None:
    scores = iter([0.5, 0.95, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    taken: list[dict[str, torch.Tensor]] = []

    def fake(detector: torch.nn.Module, *_: Any) -> dict[str, float]:
        taken.append({k: v.clone() for k, v in detector.state_dict().items()})
        return {"score": next(scores)}

    monkeypatch.setattr(loop, "validate", fake)
    how = ("phase1.epochs=8", "phase1.patience=3", f"phase1.select={select}", "phase2.epochs=0")
    fit(job(tmp_path, *how), split)
    rows = (tmp_path / "base-history.jsonl").read_text().splitlines()
    assert len(rows) == 5  # the best was epoch 2; three more brought nothing
    kept = load_file(tmp_path / "base.safetensors")
    assert all(torch.equal(kept[k], taken[kept_epoch - 1][k]) for k in kept)


@pytest.mark.parametrize(("select", "kept_epoch"), [("best", 2), ("last", 3)])
def test_an_epoch_of_collapsed_robustness_is_not_kept(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, select: str, kept_epoch: int
) -> None:
    standing = iter([0.8, 0.85, 0.8, 0.1, 0.8])
    taken: list[dict[str, torch.Tensor]] = []
    warned: list[str] = []

    class Listening(Reporter):
        def warn(self, message: str) -> None:
            warned.append(message)

    def fake(detector: torch.nn.Module, *_: Any) -> dict[str, float]:
        taken.append({k: v.clone() for k, v in detector.state_dict().items()})
        robust = next(standing)
        return {"score": robust, "val_pgd_accuracy": robust}

    monkeypatch.setattr(loop, "validate", fake)
    how = ("phase1.epochs=0", "phase2.epochs=5", "phase2.objective=pgd", f"phase2.select={select}")
    given = ("phase2.attack_steps=1", "phase2.image_budget=0")
    if select == "best":  # where phase 2 sets out is a candidate too
        standing = iter([0.1, 0.8, 0.85, 0.8, 0.1, 0.8])
    fit(job(tmp_path, *how, *given), split, Listening())
    assert [message.rpartition("; ")[2] for message in warned] == [
        "the best epoch is kept" if select == "best" else "the one before is kept"
    ]
    kept = load_file(tmp_path / "final.safetensors")
    expected = taken[kept_epoch if select == "best" else kept_epoch - 1]
    assert all(torch.equal(kept[k], expected[k]) for k in kept)


def test_a_refit_keeps_the_last_epoch_without_a_val_part(tmp_path: Path, split: Split) -> None:
    fit(job(tmp_path, "phase1.select=last", "phase2.select=last"), make_refit(split))
    rows = [json.loads(x) for x in (tmp_path / "base-history.jsonl").read_text().splitlines()]
    assert "val_auc" not in rows[0]
    assert (tmp_path / "final.safetensors").exists()


@pytest.mark.parametrize("select", ["best", "last"])
def test_plateau_halves_after_three_epochs_without_progress_and_then_waits_again(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    monkeypatch.setattr(loop, "validate", lambda *_: {"score": 0.5})
    how = ("phase1.epochs=9", "phase1.schedule=plateau", "phase1.warmup=0", f"phase1.select={select}")
    fit(job(tmp_path / "judged", *how, "phase2.epochs=0"), split)
    assert relative_rates(tmp_path / "judged") == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    fit(job(tmp_path / "unjudged", *how, "phase1.patience=3", "phase2.epochs=0"), make_refit(split))
    assert relative_rates(tmp_path / "unjudged") == [1] * 9  # without val nothing can be said to have stopped


def relative_rates(folder: Path) -> list[float]:
    rates = [json.loads(x)["lr"] for x in (folder / "base-history.jsonl").read_text().splitlines()]
    return [round(r / rates[0], 4) for r in rates]


def test_a_damaged_state_is_one_clear_line(tmp_path: Path, split: Split) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(job(tmp_path), split, StopAt(2))
    state = tmp_path / "base-state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot be resumed from"):
        fit(job(tmp_path), split)
