"""Checks of the attacks: is each as strong as it should be, by itself and compared with other attacks?

Sources and structure are those of `robustbench_df.attacks.judging`.
"""

from __future__ import annotations

import math

import torch

from robustbench_df.attacks import probes
from robustbench_df.attacks.grading import DELTA, SAME, Check, by_share, graded, limit, share_of
from robustbench_df.attacks.probes import Evidence
from robustbench_df.attacks.victim import TOLERANCE, reach

FGSM_GAP, FGSM_GAP_FAR = 0.2, 0.3
"""Gap between the accuracies under FGSM and under PGD above which a check warns, and fails. In L∞ up to eps 0.12 the
gap was at most 0.19 for small undefended and for PGD-trained detectors on the 2,000 images of synergy25, and 0.38 to
0.53 after training on 30% FGSM images."""

STILL_FALLING = 0.05
"""Largest share of the margin's total decrease that may happen in the last tenth of the steps (the indicator
'incomplete optimization' in the code that Pintor et al. 2022 released)."""


def bounds(name: str, e: Evidence) -> Check:
    """Verify every claimed success: norm and pixel range computed again in float64, the verdict by a plain forward."""
    order = {"linf": math.inf, "l2": 2.0, "l1": 1.0}[e.norm]
    allowed = float(reach(torch.tensor(e.eps, dtype=torch.float64)))
    longest, outside, claimed, unheld = 0.0, 0.0, 0, 0
    for attacked in (e.pgd, e.fgsm[-1], *e.found.values()):
        won = attacked.success
        if not bool(won.any()):
            continue
        moved = (attacked.x_adv.double() - e.x.double()).flatten(1)[won]
        longest = max(longest, float(torch.linalg.vector_norm(moved, order, dim=1).max()))
        kept = attacked.x_adv[won]
        outside = max(outside, -float(kept.min()), float(kept.max()) - 1)
        claimed += int(won.sum())
        unheld += int((won & (e.margin(attacked.x_adv) > SAME * e.scale)).sum())
    share = unheld / max(claimed, 1)
    wrong = longest > allowed or outside > TOLERANCE or unheld > 0
    detail = (
        f"of {claimed} successes the longest is {longest:.4g} of {e.eps:.4g}, the worst pixel {outside:.1g} outside "
        f"[0, 1], and {unheld} do not hold when asked again"
    )
    figures = {"longest": longest, "outside": outside, "claimed": float(claimed), "unheld": share}
    remedy = "do not report these attacks: measure their images with run_attack, with early_stop, in float32"
    return graded(name, float(wrong), 0, 0, detail, figures, remedy)


def beats_fgsm(name: str, e: Evidence) -> Check:
    """Check that PGD fools the images that FGSM fools."""
    share = share_of(e.fgsm[-1].success & ~e.pgd.success)
    detail = f"FGSM fools {share:.1%} of the images that PGD with {probes.STEPS} steps does not"
    remedy = "give PGD more steps, restarts and a random start; a weaker attack must not win"
    return by_share(name, share, len(e), detail, {"fgsm_only": share}, remedy)


def overfitting(name: str, e: Evidence) -> Check:
    """Check for catastrophic overfitting to one-step attacks (Wong et al. 2020, section 5): only FGSM fails to fool.

    Its sign is images that a part of the FGSM step fools and the whole step does not (Kim et al. 2021,
    arXiv:2010.01799, section 3). Unless there are significantly many of them, a gap only warns; in L1 and L2, where one
    step is weak anyway, it then passes.
    """
    whole, pgd = e.fgsm[-1].robust_accuracy, e.pgd.robust_accuracy
    parts = torch.stack([attacked.success for attacked in e.fgsm[:-1]]).any(0)
    gap, back, n = whole - pgd, share_of(parts & ~e.fgsm[-1].success), len(e)
    come_back = back > limit(DELTA, n)
    warn = limit(FGSM_GAP, n) if e.norm == "linf" or come_back else 1.0
    fail = limit(FGSM_GAP_FAR, n) if come_back else 1.0
    detail = f"accuracy {whole:.1%} under FGSM, {pgd:.1%} under PGD; {back:.1%} are fooled by a part of the step alone"
    remedy = "report PGD or a suite, never FGSM alone; train with several steps instead of one"
    return graded(name, gap, warn, fail, detail, {"fgsm": whole, "pgd": pgd, "gap": gap, "back": back}, remedy)


def beats_black_box(name: str, e: Evidence) -> Check:
    """Check that attacks with gradients fool the images that attacks without gradients fool."""
    figures = {attack: share_of(fooled) for attack, fooled in e.black.items()}
    each = ", ".join(f"{attack} {share:.1%}" for attack, share in figures.items())
    missing = "" if "square" in figures else "; square was not run"
    detail = f"fooled without gradients, but not with them: {each}{missing}"
    remedy = "the gradient is masked: report the worst case over all attacks, with Square's full queries"
    return by_share(name, max(figures.values()), len(e), detail, figures, remedy)


def monotone(name: str, e: Evidence) -> Check:
    """Check that a larger budget fools at least as many images."""
    rates = {eps: share_of(attacked.success) for eps, attacked in e.sweep.items()}
    budgets = list(rates)
    drop = max(rates[low] - rates[high] for k, low in enumerate(budgets) for high in budgets[k + 1 :])
    each = ", ".join(f"{eps:.4g}: {rate:.1%}" for eps, rate in rates.items())
    detail = f"success by eps, each by itself, is {each}; it falls by at most {max(drop, 0):.1%}"
    remedy = "the attack loses its way at larger budgets: use more steps, smaller ones, or warm starts"
    return by_share(name, drop, len(e), detail, {"drop": drop, **{f"{k:g}": v for k, v in rates.items()}}, remedy)


def chance(name: str, e: Evidence) -> Check:
    """Check that accuracy at the largest budget is no better than constant guessing."""
    accuracy = e.sweep[e.largest].robust_accuracy
    luck = max(share_of(e.y == 1), share_of(e.y == 0))
    if luck == 1:
        return Check(name, "not run", "all images are of one class, so one answer is right for all", {})
    detail = f"accuracy {accuracy:.1%} at eps {e.largest:.4g}, which takes any image to grey; guessing has {luck:.1%}"
    remedy = "no detector withstands this budget, so the attack fails: look at the gradient checks, then at Square"
    return graded(name, accuracy, luck, luck, detail, {"accuracy": accuracy, "chance": luck}, remedy)


def more_steps(name: str, e: Evidence) -> Check:
    """Check that twice the steps and restarts fool hardly any further images."""
    share = share_of(e.doubled)
    detail = f"twice the steps ({2 * probes.STEPS}) and 2 restarts fool {share:.1%} more of the images"
    remedy = "report an attack with more steps and restarts, until the number stays where it is"
    return by_share(name, share, len(e), detail, {"more": share}, remedy)


def flat_loss(name: str, e: Evidence) -> Check:
    """Check that the last tenth of PGD's steps hardly lowers the margin any further."""
    clean, before, after = (margins.sum() for margins in e.late)
    n, fall = len(e.late[0]), float(clean - after)
    if not n:
        return Check(name, "pass", "PGD leaves no image standing", {"standing": 0.0, "late": 0.0})
    late = max(float(before - after), 0.0) / fall if fall > 0 else 1.0
    detail = f"on {n} images left standing, the last tenth of PGD's steps brings {late:.1%} of the margin's fall"
    detail = detail if fall > 0 else f"PGD does not lower the margin of the {n} images left standing at all"
    remedy = "use more steps, or APGD, which adapts them; where nothing moves, look at the gradient checks"
    # Only a margin that did not fall before the last tenth fails; else more steps could only strengthen the attack.
    return graded(name, late, STILL_FALLING, 1 - SAME, detail, {"standing": float(n), "late": late}, remedy)
