"""What finished cells say of each other: one step against many, budgets in order, before against after phase 2.

All that is looked at is the accuracy under attack of one detector, on the same images, by attack and threat.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from robustbench_df.attacks.grading import Check, graded
from robustbench_df.attacks.strength import FGSM_GAP
from robustbench_df.attacks.threat import Threat

Rates = Mapping[tuple[str, Threat], float]

RISEN = 0.05
"""By how much the accuracy may rise with the budget before the attack counts as broken."""

RAISED = 0.05
"""What phase 2 must add to the accuracy under FGSM, and not to that under the stronger attack, to be called
catastrophic overfitting (Wong et al. 2020, arXiv:2001.03994, figure 1: the one rises while the other falls to 0)."""


def one_step(rates: Rates) -> list[Check]:
    """FGSM's accuracy is not far above any other attack's at the same threat; a gap only warns."""
    checks = []
    for (name, threat), many in rates.items():
        one = rates.get(("fgsm", threat))
        if name != "fgsm" and one is not None:
            detail = f"{threat}: {one:.1%} survive FGSM, {many:.1%} {name}"
            remedy = "FGSM says little of this detector: quote the other number"
            figures, about = {"fgsm": one, name: many}, f"{name}, {threat}"
            checks.append(graded("cells-one-step", one - many, FGSM_GAP, 1.0, detail, figures, remedy, about))
    return checks


def monotone(rates: Rates) -> list[Check]:
    """A larger budget of the same attack leaves no more images standing than a smaller one."""
    curves: dict[tuple[str, str], dict[float, float]] = {}
    for (name, threat), rate in rates.items():
        curves.setdefault((name, threat.norm), {})[threat.eps] = rate
    checks = []
    for (name, norm), curve in curves.items():
        if len(curve) > 1:
            by_eps = {eps: curve[eps] for eps in sorted(curve)}
            rise = max(after - before for before, after in pairwise(by_eps.values()))
            detail = f"accuracy under {name} by eps: " + ", ".join(
                f"{eps:g}: {rate:.1%}" for eps, rate in by_eps.items()
            )
            remedy = "a larger budget holds every smaller one: the attack is too weak or its gradient is masked"
            figures, about = {f"{eps:g}": rate for eps, rate in by_eps.items()}, f"{name}, {norm}"
            checks.append(graded("cells-monotone", rise, 0, RISEN, detail, figures, remedy, about))
    return checks


def overfitting(before: Rates, after: Rates) -> list[Check]:
    """Phase 2 has not raised the accuracy under FGSM alone: then it learnt the attack, not how to withstand it."""
    checks = []
    for (name, threat), strong_after in after.items():
        weak = ("fgsm", threat)
        if name == "fgsm" or weak not in before or weak not in after or (name, threat) not in before:
            continue
        strong_before, weak_before, weak_after = before[name, threat], before[weak], after[weak]
        only_fgsm = weak_after - weak_before > RAISED and strong_after - strong_before <= RAISED
        caught = only_fgsm and weak_after - strong_after > FGSM_GAP
        detail = (
            f"{threat}, before → after: FGSM {weak_before:.1%} → {weak_after:.1%}, "
            f"{name} {strong_before:.1%} → {strong_after:.1%}"
        )
        figures = {"fgsm before": weak_before, "fgsm after": weak_after, "before": strong_before, "after": strong_after}
        remedy = "phase 2 has learnt the attack itself: train with --objective pgd or trades"
        about = f"{name}, {threat}"
        checks.append(graded("cells-overfitting", float(caught), 0, 0, detail, figures, remedy, about))
    return checks
