"""Soft histograms: memberships are shares, exact at the levels."""

from __future__ import annotations

import torch

from robustbench_df.models.statistics.family import memberships, triangles


def test_memberships_sum_to_one_and_divide_what_lies_between() -> None:
    levels = torch.arange(-1.0, 2.0)
    found = memberships(torch.tensor([-5.0, -1.0, 0.25, 1.0, 9.0]), levels)
    expected = [[1, 1, 0, 0, 0], [0, 0, 0.75, 0, 0], [0, 0, 0.25, 1, 1]]
    assert torch.allclose(found, torch.tensor(expected))


def test_triangles_leave_out_what_is_a_step_beyond_the_ends() -> None:
    found = triangles(torch.tensor([-2.0, 4.0, 2.0]), torch.tensor([0.0, 2.0]))
    assert found.tolist() == [[0, 0, 0], [0, 0, 1]]
