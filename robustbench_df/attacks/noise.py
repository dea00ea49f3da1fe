"""Noise within the budget: the baseline that any attack must beat."""

from __future__ import annotations

from robustbench_df import rng
from robustbench_df.attacks.gradient import random_point
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim

DRAWS = 100


def uniform(victim: Victim, spec: AttackSpec) -> None:
    """Query the victim with draws from the uniform distribution on the ball."""
    for draw in range(spec.steps or DRAWS):
        rows = victim.rows()
        if not len(rows):
            return
        victim.margin(random_point(victim, "noise", draw)[rows], rows)


def gaussian(victim: Victim, spec: AttackSpec) -> None:
    """Query the victim with Gaussian draws projected into the ball; in L∞ the standard deviation is half the budget."""
    for draw in range(spec.steps or DRAWS):
        rows = victim.rows()
        if not len(rows):
            return
        noise = rng.normal(victim.ids[rows], victim.x.shape[1:], *victim.key, "gaussian", draw).to(victim.x)
        # In the other norms each draw uses the whole budget, as nearly all of the ball's volume lies at its surface.
        length = 2.0 if victim.norm == "linf" else victim.geometry.length(noise)
        scale = victim.eps[rows] / length
        victim.margin(victim.project(victim.x[rows] + per_image(scale) * noise, rows), rows)
