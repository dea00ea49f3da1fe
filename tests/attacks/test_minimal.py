"""DeepFool and Carlini-Wagner: the true distance on a linear detector, and no harm where there is no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.minimal import DEEPFOOL_STEPS, carlini_wagner, deepfool
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError
from tests.attacks.detectors import Linear, Small, images, labels_of, victim_of

Run = Callable[[Victim, AttackSpec], None]


def attacked(
    attack: Run, detector: nn.Module, x: Tensor, norm: str = "l2", own: Any = None, first: bool = False, **settings: Any
) -> Victim:
    own = {"eps": 0.0, "stop": False, "gradient": first, **(own or {})}
    return victim_of(attack, detector, x, own.pop("eps"), AttackSpec(name="attack", norm=norm, **settings), **own)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_the_distance_of_a_linear_detector(norm: str) -> None:
    detector, x = Linear(), images()
    victim = attacked(deepfool, detector, x, norm)
    ratio = victim.distance / detector.distance(x, norm)
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio <= 1.05).all()
    assert (victim.forwards <= 3).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_crosses_a_curved_boundary_from_the_edge_of_the_box(norm: str) -> None:
    detector, x = Small(), images(spread=1.0)
    x[:, :, ::2] = x[:, :, ::2].round()
    victim = attacked(deepfool, detector, x, norm)
    assert torch.isfinite(victim.distance).all()
    assert victim.closest.amin() >= 0
    assert victim.closest.amax() <= 1
    # Not far beyond the boundary: half the way does not fool.
    with torch.no_grad():
        assert not (labels_of(detector, (x + victim.closest) / 2) != victim.y).any()


def test_deepfool_begins_with_the_clean_gradient_where_it_is_known() -> None:
    detector, x = Small(), images()
    plain, first = attacked(deepfool, detector, x), attacked(deepfool, detector, x, first=True)
    assert torch.allclose(plain.closest, first.closest, atol=1e-6)
    assert (first.forwards == plain.forwards - 1).all()


def test_deepfool_stops_an_image_that_is_fooled_and_bounds_the_others() -> None:
    detector, x = Small(), images(spread=1.0)
    victim = attacked(deepfool, detector, x)
    assert (victim.backwards <= DEEPFOOL_STEPS).all()
    assert len(set(victim.forwards.tolist())) > 1
    one = attacked(deepfool, detector, x, steps=1)
    assert (one.forwards == 3).all()  # clean, the gradient, and a look at what it led to
    assert (one.backwards == 1).all()


class Steps(nn.Module):
    """Sees pixels rounded: its gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        score = (x * 4).round().flatten(1).mean(1)
        return torch.stack([score * 0, score - 1.9], dim=1)


@pytest.mark.parametrize("attack", [deepfool, carlini_wagner])
def test_without_a_gradient_nothing_is_invented(attack: Run) -> None:
    victim = attacked(attack, Steps(), images(4), steps=3)
    assert torch.isinf(victim.distance).all()
    assert torch.isfinite(victim.last).all()
    assert not victim.success.any()
    assert (victim.zero_gradients > 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_carlini_wagner_finds_the_distance_of_a_linear_detector(seed: int) -> None:
    detector, x = Linear(seed), images(12, seed=seed + 1)
    victim = attacked(carlini_wagner, detector, x, params={"search": 5})
    ratio = victim.distance / detector.distance(x, "l2")
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio <= 1.1).all()


def test_carlini_wagner_comes_as_near_as_deepfool_or_nearer() -> None:
    detector, x = Small(), images(8, spread=0.6)
    ours, other = attacked(carlini_wagner, detector, x), attacked(deepfool, detector, x)
    assert (ours.distance <= other.distance * 1.02).all()
    assert float((ours.distance / other.distance).median()) < 0.99
    assert ours.closest.amin() >= 0
    assert ours.closest.amax() <= 1


def test_the_search_finds_a_weight_from_any_scale_of_the_logits() -> None:
    x = images(8)
    for scale in (0.01, 100.0):
        detector = Linear(scale=scale)
        ratio = attacked(carlini_wagner, detector, x, params={"search": 3}).distance / detector.distance(x, "l2")
        assert (ratio <= 1.1).all(), scale


def test_kappa_asks_for_a_margin() -> None:
    detector, x = Linear(), images(8)
    victim = attacked(
        carlini_wagner, detector, x, params={"search": 3, "kappa": 0.5}, steps=60, own={"eps": torch.ones(8)}
    )
    assert (victim.worst <= -0.5).all()
    assert attacked(carlini_wagner, detector, x, params={"search": 3}, steps=60).success.sum() == 0  # eps is 0


@pytest.mark.parametrize("attack", [deepfool, carlini_wagner])
def test_they_are_the_same_alone_in_a_batch_and_in_any_order(attack: Run) -> None:
    detector, x = Small(), images(6)
    settings: dict[str, Any] = {} if attack is deepfool else {"steps": 30, "params": {"search": 2}}
    together = attacked(attack, detector, x, **settings)
    flipped, alone = attacked(attack, detector, x.flip(0), **settings), attacked(attack, detector, x[2:3], **settings)
    assert torch.allclose(flipped.distance.flip(0), together.distance, rtol=1e-3)
    assert torch.allclose(alone.distance[0], together.distance[2], rtol=1e-3)
    assert torch.equal(flipped.forwards.flip(0), together.forwards)


@pytest.mark.parametrize("attack", [deepfool, carlini_wagner])
def test_they_end_at_the_first_success_when_the_victim_stops_them(attack: Run) -> None:
    detector, x = Linear(), images(8)
    eps = 1.5 * detector.distance(x, "l2")
    victim = attacked(attack, detector, x, own={"stop": True, "eps": eps})
    assert victim.success.all()
    assert not victim.alive.any()


@pytest.mark.parametrize("params", [{"search": 0}, {"search": 2.5}, {"kappa": -1.0}, {"kappa": "a"}])
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"search|kappa"):
        attacked(carlini_wagner, Linear(), images(2), params=params)
