"""What phase 2 crafts, and that objectives stronger than FGSM are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from robustbench_df.config import AdversarialConfig
from robustbench_df.data.split import make_split
from robustbench_df.models.detector import Detector
from robustbench_df.train.fit import fit
from robustbench_df.train.objectives import collapsed, craft, start_noise, trades_loss
from tests.attacks.detectors import Small, images, labels_of
from tests.conftest import learnable_set
from tests.train.test_fit import job, same

EPS = torch.full((24,), 0.03)


def detector() -> Detector:
    return Detector(Small(), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("objective", ["fgsm", "fast", "pgd", "trades"])
def test_crafted_images_stay_in_budget_and_box_and_hurt(objective: str) -> None:
    net, x = detector(), images(spread=1.0)
    y = labels_of(net, x)
    noise = start_noise(torch.arange(24), x.shape[1:], 0)
    crafted = craft(net, x, y, EPS, AdversarialConfig(objective=objective), noise)
    assert (crafted - x).abs().max() <= 0.03 + 1e-6
    assert crafted.min() >= 0
    assert crafted.max() <= 1
    net.eval()
    with torch.no_grad():
        sign = torch.where(y == 1, 1.0, -1.0)
        before, after = ((net(z)[:, 1] - net(z)[:, 0]) * sign for z in (x, crafted))
    assert after.mean() < before.mean() - 0.05


def test_more_steps_hurt_more_than_one() -> None:
    net, x = detector(), images()
    y = labels_of(net, x)
    net.eval()
    sign = torch.where(y == 1, 1.0, -1.0)
    means = []
    for objective in ("fgsm", "pgd"):
        config = AdversarialConfig(objective=objective, attack_steps=20)
        with torch.no_grad():
            logits = net(craft(net, x, y, EPS, config, torch.zeros_like(x)))
            means.append(float(((logits[:, 1] - logits[:, 0]) * sign).mean()))
    assert means[1] <= means[0] + 1e-4


def test_trades_goes_where_the_divergence_grows() -> None:
    net, x = detector().eval(), images(spread=1.0)
    with torch.no_grad():
        clean = net(x).softmax(1)
    leaf = (x + 0.03 * start_noise(torch.arange(24), x.shape[1:], 0)).clamp(0, 1).requires_grad_(True)
    F.kl_div(net(leaf).log_softmax(1), clean, reduction="sum").backward()
    assert leaf.grad is not None
    start = leaf.detach()
    config = AdversarialConfig(objective="trades", attack_steps=1)
    crafted = craft(net, x, labels_of(net, x), EPS, config, start_noise(torch.arange(24), x.shape[1:], 0))
    went = (crafted - start).sign()
    free = (went != 0) & (leaf.grad.abs() > 1e-9)  # not held by the budget or the box
    assert float(free.float().mean()) > 0.3
    assert float((went == leaf.grad.sign())[free].float().mean()) > 0.999


def test_trades_is_cross_entropy_when_nothing_moves_and_grows_with_the_divergence() -> None:
    clean, target = torch.randn(6, 2), F.one_hot(torch.arange(6) % 2, 2).float()
    plain = F.cross_entropy(clean, target, reduction="sum")
    torch.testing.assert_close(trades_loss(clean, clean, target, 6.0), plain)
    assert trades_loss(clean, -clean, target, 6.0) > trades_loss(clean, -clean, target, 1.0) > plain


def test_a_collapse_is_seen_and_a_slow_start_is_not() -> None:
    def rows(*values: float) -> list[dict[str, float]]:
        return [{"val_pgd_accuracy": v} for v in values]

    assert collapsed(rows(0.5, 0.7, 0.1))
    assert not collapsed(rows(0.2, 0.5, 0.6))
    assert not collapsed(rows(0.7))
    assert not collapsed([{"val_fgsm_accuracy": 0.9}, {"val_fgsm_accuracy": 0.1}])


@pytest.mark.parametrize("objective", ["fast", "pgd", "trades"])
def test_an_objective_trains_and_repeats_itself(tmp_path: Path, objective: str) -> None:
    split = make_split(learnable_set(96))
    options = ("phase1.epochs=1", "phase2.epochs=2", f"phase2.objective={objective}", "phase2.attack_steps=2")
    fit(job(tmp_path / "a", *options), split)
    fit(job(tmp_path / "b", *options), split)
    assert same(tmp_path / "a", tmp_path / "b")
    rows = [json.loads(line) for line in (tmp_path / "a" / "final-history.jsonl").read_text().splitlines()]
    assert all("val_pgd_accuracy" in row for row in rows)
