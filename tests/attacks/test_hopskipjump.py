"""HopSkipJump: near the true distance on verdicts alone, within its queries, the same in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.hopskipjump import START_DRAWS, hopskipjump
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError
from robustbench_df.models.detector import frozen
from tests.attacks.detectors import Linear, Small, images, victim_of


def attacked(
    detector: nn.Module, x: Tensor, norm: str = "l2", eps: Tensor | float = 0.0, own: Any = None, **settings: Any
) -> Victim:
    spec = AttackSpec(name="hopskipjump", norm=norm, **settings)
    return victim_of(hopskipjump, detector, x, eps, spec, **{"stop": False, **(own or {})})


class Verdicts(Linear):
    """Tells the side of the boundary and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sign()


@pytest.mark.parametrize(("norm", "factor"), [("l2", 1.5), ("linf", 1.5)])
def test_it_comes_near_the_true_distance_of_a_linear_detector(norm: str, factor: float) -> None:
    detector, x = Linear(), images(8)
    victim = attacked(detector, x, norm)
    ratio = victim.distance / detector.distance(x, norm)
    assert (ratio >= 1 - 1e-3).all()
    assert (ratio <= factor).all()
    assert (victim.backwards == 0).all()
    assert (victim.forwards <= 2500).all()
    assert victim.closest.amin() >= 0
    assert victim.closest.amax() <= 1


def test_it_needs_verdicts_only() -> None:
    x = images(4)
    score, verdict = attacked(Linear(), x, queries=600), attacked(Verdicts(), x, queries=600)
    assert torch.equal(score.closest, verdict.closest)


def test_more_queries_come_nearer() -> None:
    detector, x = Small(), images(6)
    few, many = attacked(detector, x, queries=200), attacked(detector, x, queries=1200)
    assert (many.distance <= few.distance).all()
    assert float((many.distance / few.distance).median()) < 0.7


def test_it_ends_within_the_budget_when_the_victim_stops_it() -> None:
    detector, x = Linear(), images(8)
    eps = 2 * detector.distance(x, "l2")
    victim = attacked(detector, x, "l2", eps, own={"stop": True})
    assert victim.success.all()
    assert (victim.forwards < 2500).all()
    assert not victim.alive.any()


@pytest.mark.parametrize(("queries", "eot"), [(1, 1), (2, 1), (30, 1), (151, 1), (200, 3)])
@pytest.mark.parametrize("limited", [False, True])
def test_queries_are_a_bound(queries: int, eot: int, limited: bool) -> None:
    victim = attacked(Linear(), images(6), own={"limit": queries if limited else 0, "eot": eot}, queries=queries)
    assert (victim.forwards <= max(queries, eot)).all()
    assert (victim.forwards > queries - eot).all()


def test_steps_bound_the_turns() -> None:
    one, two = attacked(Linear(), images(4), steps=1), attacked(Linear(), images(4), steps=2)
    assert (one.forwards < 200).all()
    assert (two.forwards > one.forwards).all()
    assert (two.distance < one.distance).all()


def test_the_same_image_meets_the_same_attack_alone_in_a_batch_and_in_any_order() -> None:
    detector, x, ids = Linear(), images(3), torch.arange(100, 103)
    settings: dict[str, Any] = {"queries": 300}
    together = attacked(detector, x, own={"ids": ids}, **settings)
    flipped = attacked(detector, x.flip(0), own={"ids": ids.flip(0)}, **settings)
    alone = attacked(detector, x[2:3], own={"ids": ids[2:3]}, **settings)
    for name in ("closest", "distance", "forwards", "first_step"):
        assert torch.allclose(getattr(flipped, name).flip(0), getattr(together, name), atol=1e-4), name
        assert torch.allclose(getattr(alone, name)[0], getattr(together, name)[2], atol=1e-4), name
    other = attacked(detector, x, own={"ids": ids + 1}, **settings)
    assert not torch.allclose(other.closest, together.closest, atol=1e-4)


class Bright(nn.Module):
    """Fake when the mean pixel is above a level that white noise never has."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x.flatten(1).mean(1) - self.level], dim=1)


def test_plain_colours_start_it_where_noise_cannot() -> None:
    victim = attacked(Bright(0.65), torch.full((6, 3, 16, 16), 0.5), queries=1000)
    true = 0.15 * (3 * 16 * 16) ** 0.5
    assert (victim.distance <= 1.5 * true).all()


def test_an_image_without_a_start_is_given_up_and_says_so() -> None:
    victim = attacked(Bright(2.0), torch.full((3, 3, 8, 8), 0.5), eps=1.0)
    assert (victim.forwards == 1 + START_DRAWS).all()
    assert torch.isinf(victim.distance).all()
    assert not victim.success.any()


def test_what_fooled_at_a_former_budget_is_the_start() -> None:
    detector, x = Linear(), images(4)
    victim = attacked(detector, x, queries=500)
    with frozen(detector):
        onward = victim.resume(victim.eps, carry=True)
        hopskipjump(onward, AttackSpec(name="hopskipjump", norm="l2", queries=400))
    assert (onward.distance < victim.distance).any()
    assert (onward.distance <= victim.distance).all()


@pytest.mark.parametrize("params", [{"draws": 1}, {"draws": 2.5}, {"draws": True}])
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="draws"):
        attacked(Linear(), images(2), params=params)
