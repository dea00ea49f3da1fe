"""Checks that compare finished cells: one step with many, small budgets with large, phase 2 with phase 1.

Their only input is one detector's accuracy under attack on the same images, by attack and threat.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from robustbench_df.attacks.grading import Check, graded
from robustbench_df.attacks.strength import FGSM_GAP
from robustbench_df.attacks.threat import Threat

Rates = Mapping[tuple[str, Threat], float]

RISEN = 0.05
"""Largest rise of the accuracy with the budget that is still a warning; beyond it the attack counts as broken."""

RAISED = 0.05
"""Rise of the accuracy that counts as catastrophic overfitting when phase 2 causes it under FGSM but not under the
stronger attack (Wong et al. 2020, arXiv:2001.03994, figure 1: the former rises while the latter falls to 0)."""


def one_step(rates: Rates) -> list[Check]:
    """Check that no other attack at the same threat leaves far less accuracy than FGSM; a gap only warns."""
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
    """Check that accuracy under the same attack does not rise with the budget."""
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
    """Check that phase 2 has not raised accuracy under FGSM only.

    If it has, the detector has learnt that attack, not how to withstand attacks.
    """
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
