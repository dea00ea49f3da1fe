"""FGSM and PGD: steps along the gradient, with one implementation for all norms."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim

PGD_STEPS, STEP_SHARE = 40, 2.5
"""Number of steps, and the step length as a multiple of eps / steps (Madry et al. 2018, arXiv:1706.06083): enough to
cross the ball."""


def fgsm(victim: Victim, spec: AttackSpec) -> None:  # noqa: ARG001  (one signature for all attacks)
    """Take one step of length eps along the steepest direction (Goodfellow et al. 2015, arXiv:1412.6572).

    The direction does not depend on eps, so K budgets cost (1 + K) forwards and 1 backward in all.
    """
    rows = victim.rows()
    if victim.clean_gradient is None or not len(rows):
        return
    x = victim.x[rows]
    direction = victim.geometry.ascent(victim.clean_gradient[rows], x, 1.0)
    victim.margin(victim.project(x + per_image(victim.eps[rows]) * direction, rows), rows)


def pgd(victim: Victim, spec: AttackSpec) -> None:
    """Projected gradient ascent (Madry et al. 2018), with restarts and momentum.

    An image first fooled at iterate t costs (t + 1) forwards and t backwards when attacked alone. In a batch it costs
    at most (t + 1) backwards, because the whole batch is differentiated while any of its images is not yet fooled. The
    last iterate is evaluated by a forward only.
    """
    for restart in range(spec.restarts):
        x_adv = first_iterate(victim, spec, restart)
        if _pgd_once(victim, spec, x_adv, clean=x_adv is victim.x):
            return


def _pgd_once(victim: Victim, spec: AttackSpec, start: Tensor, *, clean: bool) -> bool:
    """Run all steps from ``start``; return whether no image is left to attack."""
    steps = spec.steps or PGD_STEPS
    x_adv, velocity = start.clone(), torch.zeros_like(start)
    for step in range(steps):
        rows = victim.rows()
        if not len(rows):
            return True
        if step == 0 and clean and victim.clean_gradient is not None:
            gradient = victim.clean_gradient[rows]
        else:
            _, gradient = victim.gradient(x_adv[rows], rows)
            left = victim.alive[rows]
            rows, gradient = rows[left], gradient[left]
        if spec.momentum:
            size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
            velocity[rows] = spec.momentum * velocity[rows] + gradient / per_image(size)
            gradient = velocity[rows]
        stride = step_length(victim, spec, steps)[rows]
        x = x_adv[rows]
        direction = victim.geometry.ascent(gradient, x, 1 - step / steps)
        x_adv[rows] = victim.project(x + per_image(stride) * direction, rows)
    rows = victim.rows()
    if len(rows):
        victim.margin(x_adv[rows], rows)
    return not bool(victim.alive.any())


def step_length(victim: Victim, spec: AttackSpec, steps: int) -> Tensor:
    """Step length per image ``[N]``: that of the spec if it has one, else 2.5 · eps / steps, at most eps."""
    if spec.step_size is not None:
        return torch.full_like(victim.eps, spec.step_size)
    return victim.eps * min(STEP_SHARE / steps, 1.0)


def first_iterate(victim: Victim, spec: AttackSpec, restart: int, *, default_random: bool = False) -> Tensor:
    """Starting points ``[N, C, H, W]`` of restart number ``restart``; the object `victim.x` itself if they are clean.

    The first restart uses the warm start if there is one, else a random point if ``random_start`` is true (if it is
    None, ``default_random`` decides), else the clean image. Every further restart begins at a random point in the ball,
    keyed by image, attack and restart.
    """
    random = default_random if spec.random_start is None else spec.random_start
    if restart == 0 and victim.start is not None:
        return victim.project(victim.start, victim.rows_all())
    if restart == 0 and not random:
        return victim.x
    return random_point(victim, "start", restart)


def random_point(victim: Victim, *key: str | int) -> Tensor:
    """A random point within each image's budget, ``[N, C, H, W]``, from counter-based noise per image and key."""
    noise = victim.geometry.inside(victim.ids, victim.x.shape[1:], *victim.key, *key).to(victim.x)
    return victim.project(victim.x + per_image(victim.eps) * noise, victim.rows_all())


def begins_clean(spec: AttackSpec) -> bool:
    """Whether PGD starts at the clean image."""
    return not spec.random_start
