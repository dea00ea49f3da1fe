"""A step's gradient does not depend on memory, and what it moves is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robustbench_df.config import ModelConfig, PhaseConfig
from robustbench_df.data.split import Split, make_split
from robustbench_df.models.zoo import build_detector
from robustbench_df.progress import Reporter
from robustbench_df.train import step
from robustbench_df.train.adversary import Batch
from robustbench_df.train.fit import fit
from robustbench_df.train.job import build_for
from robustbench_df.train.speed import Setting
from robustbench_df.train.state import Trained
from tests.conftest import Heard, learnable_set
from tests.train.test_fit import job, recipe


@pytest.fixture(scope="module")
def split() -> Split:
    return make_split(learnable_set(120))


def test_out_of_memory_halves_the_micro_batch_and_goes_on(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, heard = step.backward, Heard()

    def small_memory(*args: Any) -> torch.Tensor:
        if args[4] > 4:  # the micro-batch
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return real(*args)

    monkeypatch.setattr(step, "backward", small_memory)
    fit(job(tmp_path, "phase2.epochs=0"), split, heard)
    assert heard.warnings == [
        "out of memory: micro-batch 16 → 8, accumulation doubled, training goes on",
        "out of memory: micro-batch 8 → 4, accumulation doubled, training goes on",
    ]


def test_micro_batches_accumulate_the_same_gradient() -> None:
    torch.manual_seed(0)
    detector, _ = build_detector(recipe().model, (16, 16))
    detector.eval()  # batch statistics would differ between micro-batches, the gradient rule must not
    x, target = torch.rand(12, 3, 16, 16), torch.nn.functional.one_hot(torch.arange(12) % 2, 2).float()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    trained = Trained(detector, None, torch.optim.SGD(detector.parameters()), scaler)
    gradients = []
    for micro in (12, 5):
        detector.zero_grad()
        step.backward(trained, x, target, Setting(), micro, Batch(x))
        gradients.append(torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)


def test_phase_two_keeps_the_average_of_its_weights(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[dict[str, torch.Tensor]] = []
    real = step.average

    def watched(ema: torch.nn.Module, detector: torch.nn.Module, *rest: Any) -> None:
        real(ema, detector, *rest)
        averages[:] = [{k: v.clone() for k, v in m.state_dict().items()} for m in (ema, detector)]

    monkeypatch.setattr(step, "average", watched)
    fit(job(tmp_path, "phase1.epochs=1", "phase2.ema=0.9", "phase2.select=last", "phase2.objective=pgd"), split)
    kept, (average, raw) = load_file(tmp_path / "final.safetensors"), averages
    assert all(torch.equal(kept[k], average[k]) for k in kept)
    assert any(not torch.equal(kept[k], raw[k]) for k in kept)


def test_a_frozen_backbone_moves_only_the_head(tmp_path: Path, split: Split) -> None:
    fit(job(tmp_path, "phase1.freeze_backbone=true", "phase2.epochs=0"), split)
    start, _ = build_for(job(tmp_path), split.images.size)
    after = load_file(tmp_path / "base.safetensors")
    moved = {k for k, v in start.state_dict().items() if not torch.equal(v, after[k])}
    assert moved
    assert all(k.startswith("net.head.") for k in moved)


def test_under_a_frozen_backbone_the_head_is_in_train_mode(split: Split) -> None:
    detector, _ = build_detector(recipe().model, split.images.size)
    config = PhaseConfig(freeze_backbone=True)
    step.Stepper(detector, config, split.images.size, Setting(), Reporter()).begin_epoch()
    parts = dict(detector.named_modules())
    assert parts["net.head.2"].training  # dropout
    assert not any(part.training for name, part in parts.items() if isinstance(part, torch.nn.BatchNorm2d))
    statistics, _ = build_detector(ModelConfig(name="image_statistics"), split.images.size)
    step.Stepper(statistics, config, split.images.size, Setting(), Reporter()).begin_epoch()
    statistics(torch.rand(3, 3, *split.images.size))
    assert statistics.net.scale.seen == 3
