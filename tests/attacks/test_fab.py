"""FAB: exact projections, the true distance of a linear detector, success within a budget, box and passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from robustbench_df.attacks.fab import PROJECTIONS, fab
from robustbench_df.attacks.gradient import pgd
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import GEOMETRY
from robustbench_df.models.detector import frozen
from tests.attacks.detectors import Linear, Recorder, Small, images, opened, victim_of

NORMS = ["linf", "l2", "l1"]
LARGE = 1e3


def fab_spec(norm: str, **settings: object) -> AttackSpec:
    return AttackSpec.model_validate({"name": "fab", "norm": norm, **settings})


def shortest(norm: str, x: np.ndarray, value: float, gradient: np.ndarray) -> float:
    """The same problem through scipy: a linear program in L∞ and L1, sequential quadratic programming in L2."""
    d = len(x)
    if norm == "l2":
        found = minimize(
            lambda delta: (delta**2).sum(),
            np.zeros(d),
            jac=lambda delta: 2 * delta,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda delta: delta @ gradient - value, "jac": lambda _: gradient},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert found.success
        return float(np.sqrt(found.fun))
    if norm == "linf":  # variables: delta, level; -level <= delta <= level
        eye, one = np.eye(d), np.ones((d, 1))
        cost, upper = np.r_[np.zeros(d), 1], np.block([[eye, -one], [-eye, -one]])
        bounds = [*zip(-x, 1 - x, strict=True), (0, None)]
        found = linprog(cost, upper, np.zeros(2 * d), np.r_[gradient, 0][None], [value], bounds)
    else:  # variables: the parts above and below zero
        bounds = [*zip(np.zeros(d), 1 - x, strict=True), *zip(np.zeros(d), x, strict=True)]
        found = linprog(np.ones(2 * d), A_eq=np.r_[gradient, -gradient][None], b_eq=[value], bounds=bounds)
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
def test_projections_are_exact(norm: str) -> None:
    n, d = 20, 12
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(n, d, generator=generator) * 1.4 - 0.2).clamp(0, 1)  # some pixels at 0 and 1
    gradient = torch.randn(n, d, generator=generator)
    gradient[:, 0] = 0
    most = (gradient.clamp_min(0) * (1 - x) - gradient.clamp_max(0) * x).sum(1)
    least = -(gradient.clamp_min(0) * x - gradient.clamp_max(0) * (1 - x)).sum(1)
    share = torch.linspace(0.02, 0.98, n)
    value = torch.where(torch.arange(n) % 2 == 0, most * share, least * share)
    scale = 10.0 ** torch.linspace(-12, 12, n)  # the hyperplane is the same at any scale
    delta = PROJECTIONS[norm](
        x.reshape(n, 3, 2, 2), value * scale, (gradient * scale[:, None]).reshape(n, 3, 2, 2)
    ).flatten(1)
    assert torch.allclose((delta * gradient).sum(1), value, rtol=1e-4)
    assert (x + delta).min() >= -1e-6
    assert (x + delta).max() <= 1 + 1e-6
    ours = GEOMETRY[norm].length(delta.reshape(n, 3, 2, 2))
    for k in range(n):
        true = shortest(norm, x[k].double().numpy(), float(value[k]), gradient[k].double().numpy())
        assert float(ours[k]) == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_a_hyperplane_out_of_reach_leads_to_the_nearest_corner(norm: str) -> None:
    x, gradient = torch.rand(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    gradient[0, 0, 0, 0] = 0
    delta = PROJECTIONS[norm](x, torch.tensor([1e6, -1e6]), gradient)
    sign = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    corner = torch.where(gradient * sign > 0, 1.0, 0.0)
    assert torch.allclose(x + delta, torch.where(gradient == 0, x, corner), atol=1e-6)
    assert (PROJECTIONS[norm](x, torch.tensor([1.0, 0.0]), torch.zeros_like(gradient)) == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_it_comes_to_the_true_distance(norm: str) -> None:
    detector, x = Linear(), images(spread=0.1)
    distance = detector.distance(x, norm)
    assert distance.max() < 0.44  # no pixel meets 0 or 1, so the distance is exact
    eps = 1.0 if norm == "linf" else LARGE
    found = victim_of(fab, detector, x, eps, fab_spec(norm, eps=eps, steps=20, early_stop=False)).distance
    assert torch.allclose(found, distance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_each_move_is_that_of_the_paper(norm: str) -> None:
    """On a linear detector all happens on one ray; with distance 1: across to 1.05, back to .945, across to

    (1 - a) · (.945 + 1.05 · .055) + a · 1.05 = 1.0052 with a = .055 / 1.055, and the final search ends on the boundary.
    """
    recorder, x = Recorder(Linear()), images(6, spread=0.1)
    distance = recorder.inner.distance(x, norm)
    victim = victim_of(fab, recorder, x, 1.0, fab_spec(norm, steps=2, early_stop=False))
    ratios = [GEOMETRY[norm].length(seen - x) / distance for seen in recorder.seen[1:6]]  # 0: labels
    for ratio, expected in zip(ratios, (0, 0, 1.05, 0.945, 1.0052), strict=True):
        assert torch.allclose(ratio, torch.tensor(float(expected)), atol=1e-3)
    assert torch.allclose(victim.distance, distance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_success_within_a_budget_is_the_closed_form(norm: str) -> None:
    detector, x = Linear(), images(spread=0.1)
    ratio = torch.tensor([0.98, 1.02]).repeat(len(x) // 2)
    victim = victim_of(fab, detector, x, detector.distance(x, norm) * ratio, fab_spec(norm))
    assert torch.equal(victim.success, ratio > 1)


@pytest.mark.parametrize("norm", NORMS)
def test_it_stays_in_the_box_and_is_near_there_too(norm: str) -> None:
    detector, x = Linear(scale=0.3), images(spread=1.6).clamp(0, 1)
    assert (x == 0).any()
    assert (x == 1).any()
    recorder = Recorder(detector)
    eps = 1.0 if norm == "linf" else LARGE
    victim = victim_of(fab, recorder, x, eps, fab_spec(norm, eps=eps, early_stop=False, restarts=2))
    for seen in recorder.seen:
        assert seen.min() >= 0
        assert seen.max() <= 1
    towards = detector.w.detach().reshape(1, *x.shape[1:]).expand_as(x)
    margin = detector(x).diff(dim=1).squeeze(1).detach()
    true = GEOMETRY[norm].length(PROJECTIONS[norm](x, -margin, towards))
    assert torch.allclose(victim.distance, true, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.2), ("l1", 1.2)])
def test_it_is_as_strong_as_pgd_on_a_detector_with_kinks(norm: str, eps: float) -> None:
    detector, x = Small(), images(48, spread=0.6)
    ours = victim_of(fab, detector, x, eps, fab_spec(norm, steps=40))
    spec = AttackSpec(name="pgd", norm=norm, steps=40)
    with frozen(detector):
        theirs = opened(detector, x, eps, spec)
        pgd(theirs, spec)
    assert 4 < theirs.success.sum() < 44
    assert (theirs.success & ~ours.success).sum() <= 2


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_image_meets_the_same_attack_alone_and_in_any_order(norm: str) -> None:
    detector, x = Small(), images(10, spread=0.6)
    eps = {"linf": 0.01, "l2": 0.1, "l1": 0.6}[norm]
    for spec in (fab_spec(norm, steps=12, restarts=2), fab_spec(norm, steps=12, restarts=2, early_stop=False)):
        together = victim_of(fab, detector, x, eps, spec)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
        shuffled = victim_of(fab, detector, x[order], eps, spec, ids=order)
        assert torch.equal(shuffled.success, together.success[order])
        assert torch.allclose(shuffled.distance, together.distance[order], rtol=1e-3)
        for row in (0, 9):
            alone = victim_of(fab, detector, x[row : row + 1], eps, spec, ids=torch.tensor([row]))
            assert torch.equal(alone.success[0], together.success[row])
            assert torch.allclose(alone.distance[0], together.distance[row], rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_passes_are_counted_and_finished_images_dropped(norm: str) -> None:
    detector, x = Linear(), images(8, spread=0.1)
    eps = detector.distance(x, norm) * torch.tensor([0.9, 2.0]).repeat(4)
    victim = victim_of(fab, detector, x, eps, fab_spec(norm, steps=7, restarts=2))
    stands = ~victim.success
    assert torch.equal(stands, torch.arange(8) % 2 == 0)
    assert (victim.forwards[stands] == 1 + 2 * (2 * 7 + 3)).all()
    assert (victim.backwards[stands] == 2 * 7).all()
    assert (victim.forwards[~stands] == 3).all()  # clean, its gradient, and the first step across
    assert (victim.backwards[~stands] == 1).all()


def test_restarts_begin_near_the_clean_image() -> None:
    recorder, x, steps = Recorder(Linear()), images(6, spread=0.1), 3
    distance = recorder.inner.distance(x, "l2")
    victim = victim_of(fab, recorder, x, LARGE, fab_spec("l2", eps=LARGE, steps=steps, restarts=2, early_stop=False))
    begin = recorder.seen[2 + 2 * steps + 3]  # after labels, clean pass, and the first start
    moved = GEOMETRY["l2"].length(begin - x)
    assert (moved > 0).all()
    assert (moved <= distance * 1.01 / 2).all()
    assert (victim.distance <= distance * 1.001).all()


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradients_and_answers_that_are_no_numbers_do_no_harm(norm: str) -> None:
    class Odd(nn.Module):
        """Right at the clean image without a slope, and no number anywhere else."""

        def forward(self, x: Tensor) -> Tensor:
            margin = 1 + 0 * x.flatten(1).sum(1)
            margin = torch.where((x == 0.5).flatten(1).all(1), margin, margin * float("nan"))
            return torch.stack([margin, -margin], dim=1)

    recorder, x = Recorder(Odd()), torch.full((3, 3, 8, 8), 0.5)
    victim = victim_of(fab, recorder, x, 0.1, fab_spec(norm, steps=5, restarts=2))
    assert victim.correct.all()
    assert not victim.success.any()
    assert (victim.not_finite > 0).all()
    assert all(bool(torch.isfinite(seen).all()) for seen in recorder.seen)
