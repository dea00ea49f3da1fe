"""Square: fools what can be fooled, never what cannot, within budget, box and queries, and the same in any company."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.noise import uniform
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.square import _share, square
from robustbench_df.attacks.victim import TOLERANCE, Victim, reach
from robustbench_df.errors import UsageError
from robustbench_df.models.detector import frozen
from tests.attacks.detectors import Linear, Small, images, labels_of, victim_of


def attacked(detector: nn.Module, x: Tensor, eps: Tensor | float, norm: str = "linf", **settings: Any) -> Victim:
    own = {name: settings.pop(name) for name in ("ids", "stop", "limit", "eot", "start") if name in settings}
    return victim_of(square, detector, x, eps, AttackSpec(name="square", norm=norm, **settings), **own)


def clean_margin(victim: Victim) -> Tensor:
    return (victim.clean_logits[:, 1] - victim.clean_logits[:, 0]).abs()


class Watched(nn.Module):
    """Keeps what it is asked about; by itself, it says fake to everything and never wavers."""

    def __init__(self, detector: nn.Module | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return torch.tensor([[0.0, 1.0]]).repeat(len(x), 1) if self.detector is None else self.detector(x)


@pytest.mark.parametrize(("norm", "room"), [("linf", 1.3), ("l2", 1.6)])
def test_it_fools_a_linear_detector_beyond_its_distance_and_not_below(norm: str, room: float) -> None:
    detector, x = Linear(), images()
    distance = detector.distance(x, norm)
    beyond = attacked(detector, x, room * distance, norm)
    assert beyond.success.all()
    assert (beyond.distance >= distance * (1 - 1e-4)).all()
    assert (beyond.backwards == 0).all()
    below = attacked(detector, x, 0.95 * distance, norm, queries=400)
    assert not below.success.any()
    assert (below.forwards == 400).all()
    assert (below.worst < 0.6 * clean_margin(below)).all()  # but it came nearer


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_image_asked_about_lies_in_ball_and_box(norm: str) -> None:
    detector, x = Watched(Linear()), images(spread=1.0)
    x[:, :, :2] = x[:, :, :2].round()  # black and white pixels, too
    eps = 0.1 if norm == "linf" else 1.0
    victim = attacked(detector, x, eps, norm, queries=300, stop=False)
    asked = torch.stack(detector.seen[-299:])
    assert asked.amin() >= 0
    assert asked.amax() <= 1
    lengths = torch.stack([victim.geometry.length(some - x) for some in asked])
    assert (lengths <= reach(victim.eps)).all()
    assert (lengths.amax(0) >= 0.9 * eps).all()  # and the budget is spent


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_query_tries_something_new_in_a_window_that_shrinks(norm: str) -> None:
    detector, x = Watched(), images()
    attacked(detector, x, 0.05, norm, queries=201)
    first, *asked = detector.seen[-200:]  # nothing is ever better than the first, so all candidates are its children
    changed = torch.stack([((some - first).abs() > 1e-6).any(1).flatten(1).sum(1) for some in asked])
    assert (changed > 0).all()
    assert changed[0].float().mean() > 12
    assert (changed[-40:] <= (1 if norm == "linf" else 8)).all()  # one pixel; in L2 two windows of four


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_keeps_the_best_and_only_the_better(norm: str) -> None:
    detector, x = Small(), images()
    victim = attacked(detector, x, 0.02 if norm == "linf" else 0.1, norm, queries=200, stop=False)
    more = attacked(detector, x, 0.02 if norm == "linf" else 0.1, norm, queries=200, restarts=2, stop=False)
    assert (victim.worst < clean_margin(victim)).all()
    assert not torch.equal(victim.worst_x, more.worst_x)
    with torch.no_grad():
        assert torch.allclose(detector.eval()(victim.worst_x), victim.worst_logits, atol=1e-5)


def test_the_same_image_meets_the_same_attack_alone_in_a_batch_and_in_any_order() -> None:
    detector, x = Linear(), (images(12) * 256).round() / 256
    with torch.no_grad():
        detector.w.copy_((detector.w * 16).round() / 16)  # all sums are exact: no rounding hides behind the batch
    ids = torch.arange(100, 112)
    eps = torch.full((12,), 1 / 32)
    together = attacked(detector, x, eps, ids=ids, queries=300, restarts=2)
    backwards = attacked(detector, x.flip(0), eps, ids=ids.flip(0), queries=300, restarts=2)
    assert together.success.any()
    assert len(set(together.first_step.tolist())) > 3
    for name in ("worst_x", "worst", "first_step", "forwards"):
        assert torch.equal(getattr(backwards, name).flip(0), getattr(together, name)), name
        for k in (0, 5):
            alone = attacked(detector, x[k : k + 1], eps[:1], ids=ids[k : k + 1], queries=300, restarts=2)
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[k]), name
    other = attacked(detector, x, eps, ids=ids + 1, queries=300, restarts=2)
    assert not torch.equal(other.worst_x, together.worst_x)


@pytest.mark.parametrize(("queries", "restarts", "eot"), [(1, 1, 1), (2, 1, 1), (3, 5, 1), (50, 3, 1), (41, 2, 3)])
@pytest.mark.parametrize("limited", [False, True])
def test_queries_are_a_bound_restarts_included(queries: int, restarts: int, eot: int, limited: bool) -> None:
    detector, x = Linear(), images(6)
    limit = queries if limited else 0
    victim = attacked(detector, x, 1e-4, queries=queries, restarts=restarts, eot=eot, limit=limit)
    assert (victim.forwards <= max(queries, eot)).all()
    assert (victim.forwards > queries - restarts * eot).all()


def test_steps_bound_a_restart() -> None:
    victim = attacked(Linear(), images(4), 1e-4, steps=7, restarts=3)
    assert (victim.queries == 21).all()


def test_it_beats_noise_at_the_same_price() -> None:
    detector, x = Small(), images(32)
    eps, queries = 0.02, 200
    ours = attacked(detector, x, eps, queries=queries)
    with frozen(detector):
        y, ids = labels_of(detector, x), torch.arange(len(x))
        noise = Victim(detector, x, y, ids, "linf", torch.full((len(x),), eps))
        noise.open(gradient=False)
        uniform(noise, AttackSpec(name="noise", steps=queries))
    assert (ours.success | ~noise.success).all()
    assert int(ours.success.sum()) > int(noise.success.sum()) + 5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_warm_start_is_where_it_sets_out(norm: str) -> None:
    detector, x = Linear(), images(8)
    distance = detector.distance(x, norm)
    former = attacked(detector, x, 0.9 * distance, norm, queries=1500)
    warm = attacked(detector, x, 1.8 * distance, norm, start=former.worst_x)
    assert (warm.queries[warm.correct] == 1).all()  # the former budget's sign pattern, stretched, is enough
    assert (warm.distance <= 1.8 * distance + TOLERANCE).all()


def test_images_of_any_size_are_taken() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.zeros(len(x)), x.flatten(1).mean(1) - 0.5], dim=1)

    for norm, eps in (("linf", 0.1), ("l2", 1.0)):
        for shape in ((1, 2, 2), (3, 7, 12), (3, 12, 5)):
            x = torch.full((2, *shape), 0.52)
            assert attacked(Mean(), x, eps, norm, queries=500).success.all(), (norm, shape)


@pytest.mark.parametrize("params", [{"p_init": 0.0}, {"p_init": 1.5}, {"p_init": True}, {"p_init": "a"}])
def test_wrong_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="p_init"):
        attacked(Linear(), images(2), 0.01, params=params)


def test_windows_shrink_as_in_the_authors_code() -> None:
    published = {1: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512, 9999: 512}
    assert {step: round(1 / _share(1.0, step, 10_000)) for step in published} == published
