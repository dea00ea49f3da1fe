"""FGSM: the closed-form optimum on a linear detector, and nothing left behind on the network."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.models.detector import Detector


def test_it_reaches_the_optimum_of_a_linear_detector() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 2)
    detector = Detector(nn.Sequential(nn.Flatten(), linear), mean=(0, 0, 0), std=(1, 1, 1))
    x = 0.3 + 0.4 * torch.rand(16, 3, 4, 4)  # far from 0 and 1, so the box does not bind
    y = torch.arange(16) % 2
    eps = torch.linspace(0.01, 0.2, 16)
    attacked = fgsm(detector, x, y, eps)
    assert torch.allclose((attacked - x).abs().amax((1, 2, 3)), eps, atol=1e-6)

    def margin(images: torch.Tensor) -> torch.Tensor:
        logits = detector(images)
        return logits[torch.arange(16), 1 - y] - logits[torch.arange(16), y]

    # max over the L∞ ball of a linear function: eps times the L1 norm of its gradient (Hölder).
    weight = (linear.weight[1] - linear.weight[0]).abs().sum()
    assert torch.allclose(margin(attacked), margin(x) + eps * weight, atol=1e-4)


def test_it_stays_in_the_box_and_leaves_no_trace() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    detector = Detector(net)
    x, y = torch.rand(8, 3, 6, 6), torch.arange(8) % 2
    detector(x)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    attacked = fgsm(detector, x, y, 0.5)
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in detector.parameters())
    assert all(m.training for m in detector.modules())


def test_a_saturated_detector_still_has_a_direction() -> None:
    """Cross-entropy underflows to a zero gradient at a margin of 1000; the margin itself does not."""
    linear = nn.Linear(48, 2)
    with torch.no_grad():
        linear.weight.mul_(1e5)
    detector = Detector(nn.Sequential(nn.Flatten(), linear), mean=(0, 0, 0), std=(1, 1, 1))
    x = 0.5 * torch.ones(4, 3, 4, 4)
    y = detector(x).argmax(1)
    assert (fgsm(detector, x, y, 0.1) - x).abs().amin() > 0.09
