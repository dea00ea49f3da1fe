"""The detector's contract, and the ensemble as one differentiable detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_df.metrics.weights import EnsembleWeights
from robustbench_df.models.detector import Detector, Ensemble, frozen
from robustbench_df.run import assemble


def linear_detector(seed: int, side: int = 4) -> Detector:
    torch.manual_seed(seed)
    return Detector(nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 2)), input_size=side)


def test_normalisation_and_resize_live_inside() -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean((2, 3))[:, :2]

    detector = Detector(Spy(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), input_size=8)
    detector(torch.ones(2, 3, 20, 12))
    assert seen[0].shape == (2, 3, 8, 8)
    assert torch.allclose(seen[0], torch.full_like(seen[0], 2.0))
    assert detector.resizes
    assert not Detector(Spy()).resizes


def test_an_ensemble_resizes_where_all_do_that_it_asks() -> None:
    resizing, fixed = linear_detector(0), Detector(nn.Identity())
    assert not Ensemble([resizing, fixed]).resizes
    assert Ensemble([resizing, fixed], [1.0, 0.0]).resizes
    assert not Ensemble([Ensemble([fixed]), resizing]).resizes


def test_the_ensemble_is_the_weighted_mean_of_probabilities() -> None:
    members = [linear_detector(k) for k in range(3)]
    x = torch.rand(5, 3, 4, 4)
    weights = [1.0, 2.0, 5.0]
    expected = sum(w / 8 * m(x).softmax(1) for w, m in zip(weights, members, strict=True))
    assert torch.allclose(Ensemble(members, weights)(x).exp(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "stacked"])
def test_torch_and_numpy_ensembles_agree(kind: str) -> None:
    members = [linear_detector(k) for k in range(3)]
    x = torch.rand(6, 3, 4, 4)
    if kind == "mean":
        weights = EnsembleWeights("accuracy", (0.2, 0.0, 0.8))
    else:
        weights = EnsembleWeights("stacked", (0.3, 0.2, 0.5), (0.6, 0.4, 1.0), -0.3)
    logits = np.stack([m(x).detach().numpy() for m in members])
    assert np.allclose(assemble(members, weights)(x).detach().numpy(), weights.combine(logits), atol=1e-5)


def test_the_gradient_goes_through_every_member_and_is_finite() -> None:
    members = [linear_detector(k) for k in range(3)]
    ensemble = Ensemble(members, [0.5, 0.0, 0.5])
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(ensemble(x)[:, 1].sum(), x)
    assert torch.isfinite(gradient).all()
    (alone,) = torch.autograd.grad(members[0](x)[:, 1].sum(), x)
    assert not torch.allclose(gradient, alone)


def test_impossible_weights_are_refused() -> None:
    members = [linear_detector(0), linear_detector(1)]
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="weights"):
            Ensemble(members, weights)


def test_frozen_restores_every_mode_and_flag() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    detector = Detector(net)
    detector(torch.rand(2, 3, 4, 4))
    detector.train()
    net[1].eval()  # a module deliberately left in eval mode stays so
    net[0].weight.requires_grad_(False)
    modes = [m.training for m in detector.modules()]
    flags = [p.requires_grad for p in detector.parameters()]
    with frozen(detector):
        assert not any(m.training for m in detector.modules())
        assert not any(p.requires_grad for p in detector.parameters())
    assert [m.training for m in detector.modules()] == modes
    assert [p.requires_grad for p in detector.parameters()] == flags


def test_an_ensemble_lives_where_its_members_live() -> None:
    """All buffers on the members' device: one left behind would break every run on an accelerator."""
    with torch.device("meta"):
        members = [linear_detector(k) for k in range(2)]
    ensemble = Ensemble([Ensemble(members), *members])
    assert {b.device.type for b in ensemble.buffers()} == {"meta"}
