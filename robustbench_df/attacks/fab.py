"""FAB, the fast adaptive boundary attack: find the nearest adversarial image by projections on linearised boundaries.

Croce & Hein 2020 (arXiv:1907.02044). With two classes there is only one boundary, so no target class is chosen. Every
step linearises the margin and projects both the iterate and the clean image, within [0, 1], on the hyperplane where the
linear margin is zero. It then moves a little beyond the hyperplane, with a bias towards the clean image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim

STEPS = 100

OVERSHOOT = 1.05
"""Length of a move as a multiple of the distance to the hyperplane (the paper's eta)."""

MOST_BIAS = 0.1
"""Largest weight of the clean image's projection in a move (alpha_max)."""

BACK = 0.9
"""After a success the search continues at this share of the way from the clean image to the success (beta)."""

SEARCHES = 3
"""Forwards of the final search along the line to the clean image."""

BEYOND = 0.1
"""The final search aims beyond the root of the linear margin, by this share of the rest of the way. This is ours, not
the paper's: because of rounding, a plain secant step would always end just short of a flat boundary."""


def fab(victim: Victim, spec: AttackSpec) -> None:
    """FAB with ``steps`` (default 100) steps from each of ``restarts`` starting points.

    The first starting point is the clean image, or the victim's warm start. All others, and with ``random_start`` also
    the first, are random points around the clean image. An image that is never finished costs (2 · steps + 3) forwards
    and ``steps`` backwards per start; without a success there is no final search.
    """
    for restart in range(spec.restarts):
        rows = victim.rows()
        if not len(rows):
            return
        _descend(victim, _start(victim, spec, restart, rows), rows, spec.steps or STEPS)
        _search_line(victim)


def _start(victim: Victim, spec: AttackSpec, restart: int, rows: Tensor) -> Tensor:
    """Starting points of a restart; random ones lie within half of the best distance or of the budget, if smaller."""
    if restart == 0 and not spec.random_start:
        return (victim.x if victim.start is None else victim.start)[rows]
    radius = torch.minimum(victim.distance, victim.eps)[rows] / 2
    noise = victim.geometry.inside(victim.ids[rows], victim.x.shape[1:], *victim.key, "start", restart).to(victim.x)
    return (victim.x[rows] + per_image(radius) * noise).clamp(0, 1)


def _descend(victim: Victim, x_adv: Tensor, rows: Tensor, steps: int) -> None:
    for _ in range(steps):
        margin, gradient = victim.gradient(x_adv, rows)
        left = victim.alive[rows]
        rows, x_adv, margin, gradient = rows[left], x_adv[left], margin[left], gradient[left]
        if not len(rows):
            return
        x = victim.x[rows]
        # An iterate that fools the detector is moved back towards the clean image rather than projected: the victim may
        # have skipped its backward, and the result must not depend on the rest of the batch.
        ahead = _across(x, x_adv, margin, gradient, victim)
        x_adv = torch.where(per_image(margin <= 0), x + BACK * (x_adv - x), ahead)
        fooled = victim.margin(x_adv, rows) <= 0
        x_adv = torch.where(per_image(fooled), x + BACK * (x_adv - x), x_adv)
        left = victim.alive[rows]
        rows, x_adv = rows[left], x_adv[left]
        if not len(rows):
            return


def _across(x: Tensor, x_adv: Tensor, margin: Tensor, gradient: Tensor, victim: Victim) -> Tensor:
    """Take the biased step just across the boundary, linearised at ``x_adv`` (algorithm 1)."""
    margin = torch.nan_to_num(margin)  # the victim has already counted the NaN; iterates must stay finite
    at_clean = margin - (gradient * (x - x_adv)).flatten(1).sum(1)
    project = PROJECTIONS[victim.norm]
    both = project(torch.cat([x_adv, x]), torch.cat([margin, at_clean]), torch.cat([gradient, gradient]))
    delta, delta_clean = both.chunk(2)
    length, length_clean = victim.geometry.length(delta), victim.geometry.length(delta_clean)
    share = length / (length + length_clean).clamp_min(torch.finfo(length.dtype).tiny)
    bias = per_image(share.clamp_max(MOST_BIAS))
    return ((1 - bias) * (x_adv + OVERSHOOT * delta) + bias * (x + OVERSHOOT * delta_clean)).clamp(0, 1)


def _search_line(victim: Victim) -> None:
    """Shorten the nearest success along its line to the clean image, by secant steps between right and fooled."""
    right, margin_right = victim.x.clone(), victim.signed(victim.clean_logits, victim.rows_all())
    for _ in range(SEARCHES):
        rows = (victim.alive & torch.isfinite(victim.distance)).nonzero().squeeze(1)
        if not len(rows):
            return
        margin_fooled = victim.signed(victim.closest_logits[rows], rows)
        share = per_image(margin_right[rows] / (margin_right[rows] - margin_fooled))
        share = share + BEYOND * (1 - share)
        x_adv = (right[rows] + share * (victim.closest[rows] - right[rows])).clamp(0, 1)
        margin = victim.margin(x_adv, rows)
        still = margin > 0
        right[rows[still]], margin_right[rows[still]] = x_adv[still], margin[still]


def projection_linf(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Shortest ``delta`` in L∞ with ``<gradient, delta> = value`` and ``x + delta`` in [0, 1].

    Where no such delta exists, the result is the corner of the box that comes closest (the same holds in the other
    norms).

    Args:
        x: images ``[N, C, H, W]`` in [0, 1].
        value: ``[N]``, of either sign.
        gradient: ``[N, C, H, W]``.
    """
    direction, slope, room, need = _one_sided(x, value, gradient)
    return (direction * _fill(torch.ones_like(slope), slope, room, need)).reshape(x.shape)


def projection_l2(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Shortest ``delta`` in L2; see `projection_linf`."""
    direction, slope, room, need = _one_sided(x, value, gradient)
    return (direction * _fill(slope, slope, room, need)).reshape(x.shape)


def projection_l1(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """Shortest ``delta`` in L1: the steepest coordinates use all of their room, one by one; see `projection_linf`."""
    direction, slope, room, need = _one_sided(x, value, gradient)
    steep, order = slope.sort(1, descending=True)
    gain = steep * room.gather(1, order)
    rest = need[:, None] - (gain.cumsum(1) - gain)
    way = (rest / steep.clamp_min(torch.finfo(steep.dtype).tiny)).clamp_min(0)
    moved = torch.minimum(way, room.gather(1, order))
    return (direction * torch.zeros_like(moved).scatter(1, order, moved)).reshape(x.shape)


PROJECTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": projection_linf,
    "l2": projection_l2,
    "l1": projection_l1,
}


def _one_sided(x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewrite the problem as ``sum(slope · moved) = need`` with ``0 <= moved <= room`` and ``need >= 0``.

    Returns direction, slope, room ``[N, D]`` and need ``[N]``, scaled so that the largest slope of an image is 1.
    """
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1).clamp_min(torch.finfo(flat.dtype).tiny)
    direction = torch.where(value < 0, -1.0, 1.0)[:, None] * flat.sign()
    pixels = x.flatten(1)
    room = torch.where(direction > 0, 1 - pixels, pixels)
    return direction, flat.abs() / largest[:, None], room, value.abs() / largest


def _fill(speed: Tensor, slope: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Find ``moved = min(room, level · speed)`` that meets the need, or use all room where that is not enough.

    The gain is concave and piecewise linear in the level. Newton's method from below never passes the root and ends
    when no further coordinate runs out of room: after a few iterations, and without sorting.
    """
    gain, rate = slope * room, slope * speed
    full = torch.zeros_like(slope, dtype=torch.bool)
    while True:
        rest = (need - torch.where(full, gain, 0.0).sum(1)).clamp_min(0)
        left = torch.where(full, 0.0, rate).sum(1)
        level = torch.where(left > 0, rest / left, 0.0).clamp_max(torch.finfo(left.dtype).max)  # 0 · inf is NaN
        way = level[:, None] * speed
        now = full | ((way >= room) & (slope > 0))
        if bool((now == full).all()):
            return torch.where(full, room, torch.minimum(way, room))
        full = now
