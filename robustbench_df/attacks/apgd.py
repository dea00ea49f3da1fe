"""Auto-PGD: projected gradient that sets its own step size; in L1 it sets its own sparsity, too.

L∞ and L2 follow Croce & Hein 2020 (arXiv:2003.01690, section 3, algorithm 1), L1 follows Croce & Hein 2021
(arXiv:2103.01208, section 3). Both climb the negative margin, which on two classes has the direction of the
cross-entropy's gradient and cannot saturate.
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
"""First step length as a multiple of eps (2020, eta at the start): it crosses the whole ball."""

GRADIENT_SHARE = 0.75
"""Share of the new gradient step in a move; the rest is the former move (2020, alpha)."""

ENOUGH_FALLS = 0.75
"""Share of steps since the last check that must have lowered the margin (2020, rho)."""

FIRST_CHECK, CHECK_SHRINKS, SHORTEST_CHECK = 22, 3, 6
"""In percent of the steps: the first interval between checks, how much each is shorter, the least (2020, p_j)."""

L1_CHECK = 0.04
"""Share of the steps between two checks in L1 (2021, algorithm 1, as the next five)."""

L1_FIRST_SHARE = 0.2
"""Share of the coordinates that the first L1 steps move."""

L1_SPARSER = 1.5
"""A step moves this many times fewer coordinates than the best image so far has moved."""

L1_STILL_DENSE = 0.95
"""Above this ratio of moved coordinates, now to last check, sparsity has settled and the step becomes shorter."""

L1_SHORTER, L1_SHORTEST = 1.5, 0.1
"""Divisor of the step length in L1, and its least value as a multiple of eps; it begins at eps."""


@dataclass(eq=False)
class _Walk:
    """The search on the images still standing; the first dimension of every field is the image.

    ``stride``: step length. ``falls``: steps since the last check that lowered the margin. ``mark``: lowest margin at
    the last check, ``held``: that check left the stride alone. L1 alone: ``count``, coordinates that a step moves, and
    ``support``, those that the best image had moved at the last check.
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
        """Take in what the detector answered at `x`."""
        self.falls = self.falls + (margin < self.margin)
        lower = margin < self.best
        self.margin, self.gradient = margin, gradient
        self.best = torch.where(lower, margin, self.best)
        self.best_x = torch.where(per_image(lower), self.x, self.best_x)
        self.best_gradient = torch.where(per_image(lower), gradient, self.best_gradient)

    def return_to_best(self, chosen: Tensor) -> None:
        """Set the chosen images back to their best iterate; its gradient is known, so this costs no pass."""
        self.x = torch.where(per_image(chosen), self.best_x, self.x)
        self.gradient = torch.where(per_image(chosen), self.best_gradient, self.gradient)
        self.margin = torch.where(chosen, self.best, self.margin)


def apgd(victim: Victim, spec: AttackSpec) -> None:
    """Auto-PGD on the margin, ``steps`` (100) steps from each of ``restarts`` starts.

    The first start is random in the ball, as in the authors' implementation, unless ``random_start`` is False or the
    victim has a warm start. The attack has no step size to set. An image that is never fooled costs (steps + 1)
    forwards and ``steps`` backwards per start: the last iterate is only looked at.
    """
    steps = spec.steps or STEPS
    for restart in range(spec.restarts):
        if not bool(victim.alive.any()):
            return
        walk = _begin(victim, first_iterate(victim, spec, restart, default_random=True))
        _search(victim, walk, steps)


def checkpoints(steps: int) -> dict[int, int]:
    """Steps at which the stride is reviewed in L∞ and L2, each with the number of steps since the former one.

    Whole percents keep the ceiling in w_j = ceil(p_j · steps) free of rounding: 22, 41, 57, 70, 80, 87, 93, 99 of 100.
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
        margin=-far,  # so that the first answer is no fall
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
        if step and not sparse:  # mixed with the former move, of which the first step has none
            former = walk.x - walk.before
            new = victim.project(walk.x + GRADIENT_SHARE * (new - walk.x) + (1 - GRADIENT_SHARE) * former, walk.rows)
        walk.before, walk.x = walk.x, new
    victim.margin(walk.x, walk.rows)


def _adapt_stride(walk: _Walk, since: int) -> None:
    """Halve the stride and go back to the best iterate where too few steps helped, or nothing since two checks."""
    few = walk.falls < ENOUGH_FALLS * since
    stuck = walk.held & (walk.best >= walk.mark)
    halve = few | stuck
    walk.stride = torch.where(halve, walk.stride / 2, walk.stride)
    walk.held, walk.mark, walk.falls = ~halve, walk.best, torch.zeros_like(walk.falls)
    walk.return_to_best(halve)


def _adapt_sparsity(victim: Victim, walk: _Walk) -> None:
    """Let steps be sparser than the best image; while that still gets sparser, long steps from it, else shorter."""
    eps = victim.eps[walk.rows]
    moved = (walk.best_x != victim.x[walk.rows]).flatten(1).sum(1).to(eps.dtype)
    sparser = moved < L1_STILL_DENSE * walk.support
    walk.stride = torch.where(sparser, eps, torch.maximum(walk.stride / L1_SHORTER, eps * L1_SHORTEST))
    walk.count, walk.support = moved / L1_SPARSER, moved
    walk.return_to_best(sparser)
