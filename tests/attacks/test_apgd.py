"""APGD: the closed-form optimum of a linear detector, not weaker than PGD, in ball and box, alone as in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.apgd import _adapt_sparsity, _adapt_stride, _begin, apgd, checkpoints
from robustbench_df.attacks.gradient import pgd
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import GEOMETRY
from robustbench_df.attacks.victim import Victim, reach
from robustbench_df.models.detector import frozen
from tests.attacks.detectors import Linear, Recorder, Small, images, labels_of, victim_of

NORMS = ["linf", "l2", "l1"]


def apgd_spec(norm: str, **settings: object) -> AttackSpec:
    return AttackSpec.model_validate({"name": "apgd", "norm": norm, **settings})


@pytest.mark.parametrize("norm", NORMS)
def test_it_reaches_the_optimum_of_a_linear_detector(norm: str) -> None:
    detector, x = Linear(), images(spread=0.1)
    distance = detector.distance(x, norm)
    assert distance.max() < 0.44  # no pixel meets 0 or 1, so the distance is exact
    assert victim_of(apgd, detector, x, distance * 1.01, apgd_spec(norm)).success.all()
    assert not victim_of(apgd, detector, x, distance * 0.99, apgd_spec(norm)).success.any()
    eps = distance / 2
    lowest = victim_of(apgd, detector, x, eps, apgd_spec(norm, early_stop=False)).worst
    optimum = detector(x).diff(dim=1).abs().squeeze(1).detach() / 2  # half of the distance takes half of the margin
    assert torch.allclose(lowest, optimum, rtol=5e-3)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.2), ("l1", 1.2)])
def test_it_is_not_weaker_than_pgd(norm: str, eps: float) -> None:
    detector, x = Small(), images(64, spread=0.6)
    ours = victim_of(apgd, detector, x, eps, apgd_spec(norm, steps=40)).success
    theirs = victim_of(pgd, detector, x, eps, AttackSpec(name="pgd", norm=norm, steps=40)).success
    assert 4 < theirs.sum() < 60
    assert ours.sum() >= theirs.sum()
    assert (theirs & ~ours).sum() <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_every_image_asked_about_lies_in_ball_and_box(norm: str) -> None:
    recorder, x = Recorder(Small()), images(8, spread=1.4).clamp(0, 1)
    assert (x == 0).any()
    assert (x == 1).any()
    eps = torch.linspace(0, 0.3, 8) * (10 if norm == "l1" else 1)
    victim_of(apgd, recorder, x, eps, apgd_spec(norm, steps=30, restarts=2, early_stop=False))
    for seen in recorder.seen:
        assert seen.min() >= 0
        assert seen.max() <= 1
        assert (GEOMETRY[norm].length(seen - x) <= reach(eps)).all()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.2), ("l1", 1.2)])
def test_the_same_image_meets_the_same_attack_alone_and_in_any_order(norm: str, eps: float) -> None:
    detector, x, spec = Small(), images(12, spread=0.6), apgd_spec(norm, steps=15, restarts=2)
    together = victim_of(apgd, detector, x, eps, spec)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = victim_of(apgd, detector, x[order], eps, spec, ids=order)
    assert 0 < together.success.sum() < 12
    assert torch.equal(shuffled.success, together.success[order])
    assert torch.equal(shuffled.first_step, together.first_step[order])
    assert torch.allclose(shuffled.worst_x, together.worst_x[order], atol=1e-4)
    for row in (0, 5, 11):
        alone = victim_of(apgd, detector, x[row : row + 1], eps, spec, ids=torch.tensor([row]))
        assert torch.equal(alone.success[0], together.success[row])
        assert torch.equal(alone.forwards[0], together.forwards[row])
        assert torch.allclose(alone.worst_x[0], together.worst_x[row], atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_passes_are_counted_and_finished_images_dropped(norm: str) -> None:
    detector, x = Linear(), images(8, spread=0.1)
    eps = detector.distance(x, norm) * torch.tensor([0.9, 2.0]).repeat(4)
    victim = victim_of(apgd, detector, x, eps, apgd_spec(norm, steps=12, restarts=3))
    stands = ~victim.success
    assert torch.equal(stands, torch.arange(8) % 2 == 0)
    assert (victim.forwards[stands] == 1 + 3 * 13).all()
    assert (victim.backwards[stands] == 3 * 12).all()
    assert torch.equal(victim.forwards[~stands], 1 + victim.first_step[~stands])
    assert (victim.forwards[~stands] < 1 + 13).all()


class Spot(nn.Module):
    """Fooled only within ``radius`` of a spot: steps that stay long jump over it."""

    def __init__(self, spot: Tensor, radius: float) -> None:
        super().__init__()
        self.spot, self.radius = spot, radius

    def forward(self, x: Tensor) -> Tensor:
        margin = (x - self.spot).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([margin / 2, -margin / 2], dim=1)


@pytest.mark.parametrize(("norm", "shift"), [("linf", 0.02), ("l2", 0.02), ("l1", 0.005)])
def test_the_step_becomes_shorter_until_it_fits(norm: str, shift: float) -> None:
    x = images(1)
    spot = x + shift * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    length = GEOMETRY[norm].length(spot - x)
    radius = 0.2 * float(GEOMETRY["l2"].length(spot - x))
    six = x.repeat(6, 1, 1, 1)  # random starts
    victim = victim_of(apgd, Spot(spot, radius), six, 1.5 * length, apgd_spec(norm))
    assert victim.correct.all()
    assert victim.success.all()


def begun(norm: str, n: int) -> tuple[Victim, Tensor]:
    """A victim with a search begun, and another point within its budget."""
    x = images(n)
    detector = Linear()
    victim = Victim(detector, x, labels_of(detector, x), torch.arange(n), norm, torch.full((n,), 0.1))
    with frozen(detector):
        victim.open(gradient=False)
    return victim, x + 0.05


def test_the_stride_is_halved_by_either_condition_and_the_search_returns_to_its_best() -> None:
    victim, best = begun("linf", 4)
    walk = _begin(victim, victim.x)
    walk.best_x, walk.best_gradient, walk.best = best, torch.ones_like(best), torch.tensor([2.0, 2.0, 2.0, 1.0])
    walk.margin, walk.mark = torch.full((4,), 3.0), torch.full((4,), 2.0)
    walk.falls = torch.tensor([14.0, 15, 15, 15])  # of 20: 0.75 · 20 is enough
    walk.held = torch.tensor([False, False, True, True])
    _adapt_stride(walk, 20)
    halved = torch.tensor([True, False, True, False])  # few falls; not held before; stuck since two checks; better
    assert torch.allclose(walk.stride, torch.where(halved, 0.1, 0.2))
    assert torch.equal(walk.held, ~halved)
    for row in range(4):
        assert torch.equal(walk.x[row], best[row] if halved[row] else victim.x[row])
        assert walk.gradient[row].mean() == float(halved[row])
        assert walk.margin[row] == (2.0 if halved[row] else 3.0)
    assert torch.equal(walk.mark, walk.best)
    assert (walk.falls == 0).all()


def test_in_l1_sparser_images_bring_long_steps_and_settled_ones_short() -> None:
    victim, _ = begun("l1", 3)
    walk = _begin(victim, victim.x)
    best = victim.x.clone()
    best[:, 0, :5, :6] += 0.001  # 30 coordinates
    walk.best_x, walk.best = best, torch.zeros(3)
    walk.support, walk.stride = torch.tensor([192.0, 31, 30]), torch.tensor([0.05, 0.05, 0.011])
    _adapt_sparsity(victim, walk)
    assert torch.allclose(walk.stride, torch.tensor([0.1, 0.05 / 1.5, 0.01]))
    assert torch.equal(walk.count, torch.full((3,), 20.0))
    assert torch.equal(walk.support, torch.full((3,), 30.0))
    assert torch.equal(walk.x[0], best[0])
    assert torch.equal(walk.x[1:], victim.x[1:])


def test_in_l1_few_coordinates_end_up_moved() -> None:
    detector, x = Linear(), images(spread=0.1)
    victim = victim_of(apgd, detector, x, detector.distance(x, "l1") / 2, apgd_spec("l1", early_stop=False))
    assert ((victim.worst_x != x).flatten(1).sum(1) <= 2).all()


def test_checkpoints_are_those_of_the_paper() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(100).values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    for steps in range(1, 30):
        found = checkpoints(steps)
        assert all(0 < step < steps and since > 0 for step, since in found.items())
        assert sum(found.values()) == max(found, default=0)


def test_where_it_sets_out() -> None:
    x, eps = images(4), 0.001
    start = x + eps / 2

    def first(start: Tensor | None, **settings: object) -> list[Tensor]:
        recorder = Recorder(Linear())
        victim_of(apgd, recorder, x, eps, apgd_spec("linf", steps=1, restarts=2, **settings), start=start)
        return [recorder.seen[2], recorder.seen[4]]  # 0: labels, 1: clean, then two per restart

    random, again = first(None)
    assert not torch.equal(random, x)
    assert not torch.equal(random, again)
    assert torch.equal(first(None, random_start=False)[0], x)
    assert torch.equal(first(None, random_start=False)[1], again)
    assert torch.allclose(first(start)[0], start, atol=1e-7)


def test_zero_gradients_and_answers_that_are_no_numbers_do_no_harm() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            margin = 1 + 0 * x.flatten(1).sum(1)
            margin = torch.where(x[:, 0, 0, 0] == 0.5, margin, margin * float("nan"))
            return torch.stack([margin, -margin], dim=1)

    x = torch.full((3, 3, 8, 8), 0.5)
    for norm in NORMS:
        recorder = Recorder(Odd())
        victim = victim_of(apgd, recorder, x, 0.1, apgd_spec(norm, steps=10))
        assert victim.correct.all()
        assert not victim.success.any()
        assert all(bool(torch.isfinite(seen).all()) for seen in recorder.seen)
