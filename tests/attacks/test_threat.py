"""Norms, budgets and their geometry."""

from __future__ import annotations

import pytest
import torch

from robustbench_df.attacks.threat import GEOMETRY, NORMS, Threat, parse_eps
from robustbench_df.errors import UsageError

IDS = torch.arange(64)


@pytest.mark.parametrize(("text", "value"), [("0.05", 0.05), ("8/255", 8 / 255), ("0", 0.0), ("1", 1.0)])
def test_budgets_parse(text: str, value: float) -> None:
    assert parse_eps(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["eight", "8/0", "", "1/2/3"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--eps"):
        parse_eps(text)


@pytest.mark.parametrize(("norm", "eps"), [("linf", -0.1), ("linf", 8.0), ("l2", -1.0), ("l1", float("nan"))])
def test_a_senseless_budget_is_refused(norm: str, eps: float) -> None:
    with pytest.raises(UsageError, match="eps"):
        Threat(norm, eps)


def test_a_threat_prints_both_ways() -> None:
    assert str(Threat("linf", 0.05)) == "L∞ 0.05 (12.75/255)"
    with pytest.raises(UsageError, match="did you mean 'linf'"):
        Threat("lin", 0.05)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.05, 0.5, 3.0])
def test_a_projection_lies_in_ball_and_box_and_is_a_projection(norm: str, scale: float) -> None:
    geometry = GEOMETRY[norm]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((16, 3, 4, 4), generator=generator)
    delta = torch.randn((16, 3, 4, 4), generator=generator) * 2
    eps = torch.full((16,), scale)
    moved = geometry.project(delta, x, eps)
    assert (geometry.length(moved) <= eps * (1 + 1e-5) + 1e-6).all()
    assert (x + moved >= -1e-6).all()
    assert (x + moved <= 1 + 1e-6).all()
    torch.testing.assert_close(geometry.project(moved, x, eps), moved, atol=1e-5, rtol=1e-4)
    assert geometry.length(geometry.project(delta, x, torch.zeros(16))).max() == 0


def test_the_l1_projection_is_the_nearest_point() -> None:
    geometry = GEOMETRY["l1"]
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((8, 1, 2, 2), generator=generator)
    delta = torch.randn((8, 1, 2, 2), generator=generator)
    eps = torch.full((8,), 0.4)
    nearest = geometry.project(delta, x, eps)
    best = (delta - nearest).flatten(1).norm(dim=1)
    for draw in range(300):  # no random feasible point is nearer
        other = geometry.project(nearest + 0.1 * torch.randn(delta.shape, generator=generator), x, eps)
        assert ((delta - other).flatten(1).norm(dim=1) >= best - 1e-5).all(), draw


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_fill_the_unit_ball_and_depend_on_the_image_alone(norm: str) -> None:
    geometry = GEOMETRY[norm]
    points = geometry.inside(IDS, (3, 4, 4), 0, "start")
    length = geometry.length(points)
    assert (length <= 1 + 1e-6).all()
    assert length.mean() > 0.9  # nearly all of a ball in 48 dimensions lies at its surface
    assert points.mean().abs() < 0.05
    torch.testing.assert_close(geometry.inside(IDS[5:6], (3, 4, 4), 0, "start")[0], points[5])
    assert not torch.equal(geometry.inside(IDS, (3, 4, 4), 1, "start"), points)


@pytest.mark.parametrize("norm", NORMS)
def test_an_ascent_step_has_length_one_and_rises(norm: str) -> None:
    geometry = GEOMETRY[norm]
    x = torch.full((4, 3, 8, 8), 0.5)
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * 1e-20  # must not underflow
    step = geometry.ascent(gradient, x, 1.0)
    torch.testing.assert_close(geometry.length(step), torch.ones(4))
    assert ((step * gradient.sign()).flatten(1).sum(1) > 0).all()
