"""Auto-PGD: projected gradient ascent that adapts its step size and, in L1, also the sparsity of its steps.

L∞ and L2 follow Croce & Hein 2020 (arXiv:2003.01690, section 3, algorithm 1), L1 follows Croce & Hein 2021
(arXiv:2103.01208, section 3). Both ascend the negative margin: with two classes its gradient has the direction of the
cross-entropy's gradient, but it cannot saturate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import torch
from torch import Tensor

from robustbench_df.attacks.gradient import first_iterate
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image, sparse_step
from robustbench_df.attacks.victim import Victim

STEPS = 100

FIRST_STRIDE = 2.0
"""First step length as a multiple of eps (2020, initial eta): such a step can cross the whole ball."""

GRADIENT_SHARE = 0.75
"""Weight of the new gradient step in a move; the rest of the weight is on the previous move (2020, alpha)."""

ENOUGH_FALLS = 0.75
"""Share of the steps since the last check that must have lowered the margin, else the stride is halved (2020, rho)."""

FIRST_CHECK, CHECK_SHRINKS, SHORTEST_CHECK = 22, 3, 6
"""In percent of the steps: first interval between checks, decrement per interval, shortest interval (2020, p_j)."""

L1_CHECK = 0.04
"""Interval between two checks in L1, as a share of the steps (2021, algorithm 1, as are the next five constants)."""

L1_FIRST_SHARE = 0.2
"""Share of the coordinates that the first L1 steps move."""

L1_SPARSER = 1.5
"""Divisor: the number of coordinates that differ in the best image so far, divided by this, is moved by a step."""

L1_STILL_DENSE = 0.95
"""When the best image has at least this ratio of the moved coordinates of the last check, its sparsity has settled and
the step becomes shorter."""

L1_SHORTER, L1_SHORTEST = 1.5, 0.1
"""In L1: the divisor that shortens the step, and the shortest step as a multiple of eps; the first step is eps long."""


@dataclass(eq=False)
class _Walk:
    """State of the search on the images not yet finished; the first dimension of every field is the image.

    ``stride``: step length. ``falls``: number of steps since the last check that lowered the margin. ``mark``: lowest
    margin at the last check. ``held``: whether that check left the stride unchanged. Only in L1: ``count``, the number
    of coordinates that a step moves, and ``support``, the number that the best image had moved at the last check.
    """

    rows: Tensor
    x: Tensor
    before: Tensor
    margin: Tensor
    gradient: Tensor
    best: Tensor
    best_x: Tensor
    best_gradient: Tensor
    stride: Tensor
    falls: Tensor
    mark: Tensor
    held: Tensor
    count: Tensor
    support: Tensor

    def keep(self, left: Tensor) -> None:
        """Drop the images that are finished."""
        if not bool(left.all()):
            for field in fields(self):
                setattr(self, field.name, getattr(self, field.name)[left])

    def note(self, margin: Tensor, gradient: Tensor) -> None:
        """Record the detector's margin and gradient at `x`."""
        self.falls = self.falls + (margin < self.margin)
        lower = margin < self.best
        self.margin, self.gradient = margin, gradient
        self.best = torch.where(lower, margin, self.best)
        self.best_x = torch.where(per_image(lower), self.x, self.best_x)
        self.best_gradient = torch.where(per_image(lower), gradient, self.best_gradient)

    def return_to_best(self, chosen: Tensor) -> None:
        """Reset the chosen images to their best iterate; its gradient is stored, so this costs no pass."""
        self.x = torch.where(per_image(chosen), self.best_x, self.x)
        self.gradient = torch.where(per_image(chosen), self.best_gradient, self.gradient)
        self.margin = torch.where(chosen, self.best, self.margin)


def apgd(victim: Victim, spec: AttackSpec) -> None:
    """Auto-PGD on the margin, ``steps`` (default 100) steps from each of ``restarts`` starting points.

    The first starting point is random in the ball, as in the authors' implementation, unless ``random_start`` is False
    or the victim has a warm start. There is no step size to set. An image that is never fooled costs (steps + 1)
    forwards and ``steps`` backwards per start: the last iterate is evaluated by a forward only.
    """
    steps = spec.steps or STEPS
    for restart in range(spec.restarts):
        if not bool(victim.alive.any()):
            return
        walk = _begin(victim, first_iterate(victim, spec, restart, default_random=True))
        _search(victim, walk, steps)


def checkpoints(steps: int) -> dict[int, int]:
    """Steps at which the stride is reviewed in L∞ and L2, each with the number of steps since the previous review.

    Integer percents make w_j = ceil(p_j · steps) free of rounding errors: 22, 41, 57, 70, 80, 87, 93, 99 of 100 steps.
    """
    percents = [0, FIRST_CHECK]
    while percents[-1] < 100:
        percents.append(percents[-1] + max(percents[-1] - percents[-2] - CHECK_SHRINKS, SHORTEST_CHECK))
    at = sorted({-(-percent * steps // 100) for percent in percents})
    return {now: now - former for former, now in pairwise(at) if now < steps}


def _begin(victim: Victim, start: Tensor) -> _Walk:
    rows = victim.rows()
    x, eps = start[rows], victim.eps[rows]
    zero, far = torch.zeros_like(eps), torch.full_like(eps, float("inf"))
    return _Walk(
        rows=rows,
        x=x,
        before=x,
        margin=-far,  # so that the first answer does not count as a decrease
        gradient=torch.zeros_like(x),
        best=far,
        best_x=x,
        best_gradient=torch.zeros_like(x),
        stride=eps * (1.0 if victim.norm == "l1" else FIRST_STRIDE),
        falls=zero,
        mark=far,
        held=torch.zeros_like(rows, dtype=torch.bool),
        count=zero + L1_FIRST_SHARE * x[0].numel(),
        support=zero + x[0].numel(),
    )


def _search(victim: Victim, walk: _Walk, steps: int) -> None:
    sparse = victim.norm == "l1"
    every = max(int(L1_CHECK * steps), 1)
    checks = dict.fromkeys(range(every, steps, every), every) if sparse else checkpoints(steps)
    for step in range(steps):
        walk.note(*victim.gradient(walk.x, walk.rows))
        walk.keep(victim.alive[walk.rows])
        if not len(walk.rows):
            return
        if step in checks:
            if sparse:
                _adapt_sparsity(victim, walk)
            else:
                _adapt_stride(walk, checks[step])
        if sparse:
            direction = sparse_step(walk.gradient, walk.x, walk.count.long().clamp_min(1))
        else:
            direction = victim.geometry.ascent(walk.gradient, walk.x, 1.0)
        new = victim.project(walk.x + per_image(walk.stride) * direction, walk.rows)
        if step and not sparse:  # mix with the previous move; the first step has no previous move
            former = walk.x - walk.before
            new = victim.project(walk.x + GRADIENT_SHARE * (new - walk.x) + (1 - GRADIENT_SHARE) * former, walk.rows)
        walk.before, walk.x = walk.x, new
    victim.margin(walk.x, walk.rows)


def _adapt_stride(walk: _Walk, since: int) -> None:
    """Halve the stride and return to the best iterate for images whose search has stalled.

    It has stalled when too few steps since the last check lowered the margin, or when the last check kept the stride
    and the best margin has not improved since.
    """
    few = walk.falls < ENOUGH_FALLS * since
    stuck = walk.held & (walk.best >= walk.mark)
    halve = few | stuck
    walk.stride = torch.where(halve, walk.stride / 2, walk.stride)
    walk.held, walk.mark, walk.falls = ~halve, walk.best, torch.zeros_like(walk.falls)
    walk.return_to_best(halve)


def _adapt_sparsity(victim: Victim, walk: _Walk) -> None:
    """Make the steps sparser than the best perturbation, and adapt the stride.

    While the best perturbation still becomes sparser, the search returns to it and the stride is eps; otherwise the
    stride is shortened.
    """
    eps = victim.eps[walk.rows]
    moved = (walk.best_x != victim.x[walk.rows]).flatten(1).sum(1).to(eps.dtype)
    sparser = moved < L1_STILL_DENSE * walk.support
    walk.stride = torch.where(sparser, eps, torch.maximum(walk.stride / L1_SHORTER, eps * L1_SHORTEST))
    walk.count, walk.support = moved / L1_SPARSER, moved
    walk.return_to_best(sparser)
