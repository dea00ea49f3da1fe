"""What the checks make of the figures: one small function and one threshold each (`robustbench_df.attacks.checks`).

Sources: Carlini et al. 2019, "On evaluating adversarial robustness" (arXiv:1902.06705), sections 4 and 5; Athalye et
al. 2018, "Obfuscated gradients give a false sense of security" (arXiv:1802.00420), section 3.1; the flags of AutoAttack
(Croce & Hein 2020, arXiv:2003.01690, ``flags_doc.md``); Pintor et al. 2022, "Indicators of attack failure"
(arXiv:2106.09947); Wong et al. 2020, "Fast is better than free" (arXiv:2001.03994), on catastrophic overfitting.
Severity is read off the figures alone. What a check needs is measured in `robustbench_df.attacks.probes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_df.attacks import probes
from robustbench_df.attacks.probes import Evidence
from robustbench_df.attacks.victim import TOLERANCE, reach

Status = Literal["pass", "warn", "fail", "not run"]

DELTA = 0.02
"""Share of images by which one attack may fall behind another, or a number move, before it is worth a warning: about
what repeats of an attack differ by (the project's δ)."""

FAR = 0.10
"""The same share for a failure: a tenth of the images changes any conclusion."""

QUANTILE = 1.645
"""One-sided 95% of the normal distribution: a true share of δ shows up as more than this in one set of 20."""

SAME = 1e-3
"""Margins that differ by less than this share of the mean clean margin are the same: TF32 keeps 10 bits."""

DARK = 0.1
"""No photograph has its brightest pixel below this; images divided by 255 twice end at 0.004."""

SUMS_TO_ONE = 1e-4
"""How near to 1 a row of probabilities adds up: float32 rounding, with room for half precision's softmax in float32."""

SATURATED = 25 * math.log(2)
"""From this margin on, 1 - softmax is below 2^-25, so float32 rounds the softmax to 1 and the cross-entropy's gradient
is exactly zero (the distillation defence that Carlini & Wagner 2017 broke, arXiv:1608.04644)."""

DISAGREE, DISBELIEVE = 0.25, 0.5
"""Median disagreement of gradient and finite differences that warns and fails. Small trained networks with kinks show
0.02 or less; a gradient scrambled, clipped to a half, or cut off from half of the pixels 0.5 and more."""

UNHELPFUL = 0.5
"""Share of images on which a random step does better than one along the gradient: then the gradient leads nowhere."""

FGSM_GAP, FGSM_GAP_FAR = 0.2, 0.3
"""How far FGSM's accuracy lies above PGD's. In L∞ up to eps 0.12 it was at most 0.19 for small undefended and for
PGD-trained detectors on the 2,000 images of synergy25, and 0.38 to 0.53 after training on 30% FGSM images."""

STILL_FALLING = 0.05
"""Share of the whole fall of the loss that may fall into the last tenth of the steps (the released indicator
'incomplete optimization' of Pintor et al. 2022)."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check: ``detail`` is one line with the figures, ``remedy`` what to do unless it passed.

    ``about`` tells several outcomes of the same check of a detector apart: the attack or the threat looked at.
    """

    id: str
    status: Status
    detail: str
    figures: dict[str, float]
    remedy: str = ""
    about: str = ""


def limit(share: float, n: int) -> float:
    """Largest share among ``n`` images that a true ``share`` explains (one-sided 95%, normal approximation)."""
    return share + QUANTILE * math.sqrt(share * (1 - share) / n)


def _graded(
    name: str, value: float, warn: float, fail: float, detail: str, figures: dict[str, float], remedy: str
) -> Check:
    """Grade a value that is better when smaller; what is no number fails."""
    status: Status = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Check(name, status, detail, figures, "" if status == "pass" else remedy)


def _by_share(name: str, share: float, n: int, detail: str, figures: dict[str, float], remedy: str) -> Check:
    return _graded(name, share, limit(DELTA, n), limit(FAR, n), detail, figures, remedy)


def _share(flags: Tensor) -> float:
    return float(flags.float().mean())


def _differ(e: Evidence, one: Tensor, other: Tensor) -> Tensor:
    """bool: margins that differ by more than arithmetic does."""
    return ~torch.isclose(one, other, rtol=0.0, atol=SAME * e.scale, equal_nan=True)


def _eval_mode(name: str, e: Evidence) -> Check:
    given = 0.0 if e.given is None else _share(_differ(e, e.signed(e.given), e.clean))
    together = _share(_differ(e, e.by_halves, e.clean))
    random = bool(_differ(e, e.repeats, e.clean).any())
    figures = {"layers": float(e.modal), "changed": given, "depend_on_batch": together}
    detail = (
        f"{e.modal} batch norm or dropout layers came in train mode, {given:.0%} of the answers differ from eval mode, "
        f"{together:.0%} depend on the other images of the batch"
    )
    # A random detector differs from itself in every comparison: `repeatable` says so.
    value = e.modal + (0.0 if random else given + together)
    return _graded(name, value, 0, 0, detail, figures, "call detector.eval(); give batch norm its running statistics")


def _input_range(name: str, e: Evidence) -> Check:
    low, high = float(e.x.min()), float(e.x.max())
    status: Status = "fail" if not (low >= 0 and high <= 1) else "warn" if high < DARK else "pass"
    remedy = "pass pixels in [0, 1], divided by 255 once; normalisation belongs into the detector"
    detail = f"pixels lie in [{low:.3g}, {high:.3g}]"
    return Check(name, status, detail, {"low": low, "high": high}, "" if status == "pass" else remedy)


def _logits(name: str, e: Evidence) -> Check:
    rows = e.clean_logits[torch.isfinite(e.clean_logits).all(1)]
    inside = ((rows >= 0) & (rows <= 1)).all(1) & ((rows.sum(1) - 1).abs() < SUMS_TO_ONE)
    share = _share(inside) if len(rows) else 0.0
    detail = f"{share:.0%} of the answers lie in [0, 1] and add up to 1"
    remedy = "return logits or log-probabilities: the gradient of a probability vanishes where the detector is sure"
    return _graded(name, float(share == 1), 0, 0, detail, {"probabilities": share}, remedy)


def _finite(name: str, e: Evidence) -> Check:
    clean = 1 - _share(torch.isfinite(e.clean_logits).all(1))
    attacked = _share(e.pgd.not_finite > 0)
    detail = f"no finite answer on {clean:.1%} of the clean images, and on the way of PGD for {attacked:.1%}"
    figures = {"clean": clean, "attacked": attacked}
    return _graded(name, max(clean, attacked), 0, 0, detail, figures, "find the division, log or overflow behind it")


def _repeatable(name: str, e: Evidence) -> Check:
    share = _share(_differ(e, e.repeats, e.clean).any(0))
    flipped = _share(((e.repeats > 0) != e.correct).any(0))
    detail = f"asked {1 + probes.REPEATS} times, {share:.0%} of the answers differ and {flipped:.0%} change sides"
    remedy = "attack the expectation: set eot to 10 or more (Athalye et al. 2018), and report the spread over seeds"
    return _graded(name, share, 0, 0, detail, {"differ": share, "change_sides": flipped}, remedy)


def _bounds(name: str, e: Evidence) -> Check:
    """Norm, box and verdict of every claimed success, computed anew in float64 and by a plain forward."""
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
    return _graded(name, float(wrong), 0, 0, detail, figures, remedy)


def _gradients(name: str, e: Evidence) -> Check:
    flat = e.clean_gradient.flatten(1)
    broken, zero = 1 - _share(torch.isfinite(flat).all(1)), _share((flat == 0).all(1))
    detail = f"the gradient of the margin is zero on {zero:.0%} of the images and no number on {broken:.0%}"
    remedy = "replace what blocks the gradient by a smooth stand-in for the attack (BPDA), or report Square"
    value = 1.0 if broken else zero
    return _graded(name, value, 0, FAR, detail, {"zero": zero, "not_finite": broken}, remedy)


def _differences(name: str, e: Evidence) -> Check:
    along, across = (min(e.differences[way], key=_nan_last) for way in ("along", "across"))
    detail = (
        f"at the best of {len(probes.DIFFERENCES)} steps the margin's change and the gradient disagree by {along:.2f} "
        f"along the gradient and {across:.2f} across (median; 0: agree, 1: unrelated)"
    )
    remedy = "the backward pass is not that of the forward: look for custom gradients, clipping, detached branches"
    figures = {"along": along, "across": across}
    return _graded(name, max(along, across, key=_nan_last), DISAGREE, DISBELIEVE, detail, figures, remedy)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _quantised(name: str, e: Evidence) -> Check:
    """A staircase whose gradient still predicts its slope at the scale of an attack (straight-through) only warns."""
    share = _share(e.unmoved)
    misled = max(e.differences[way][-1] for way in ("along", "across"))
    fail = 1.0 if misled <= DISBELIEVE else UNHELPFUL
    detail = f"{share:.0%} of the answers stay the same to the last bit when {probes.NUDGED} pixels move a little"
    remedy = "the input is rounded inside, or the arithmetic is: attack a smooth stand-in (BPDA), or report Square"
    return _graded(name, share, FAR, fail, detail, {"unmoved": share, "disagreement": misled}, remedy)


def _saturated(name: str, e: Evidence) -> Check:
    share, median = _share(e.clean.abs() > SATURATED), float(e.clean.abs().nanmedian())
    detail = f"{share:.0%} of the margins are beyond {SATURATED:.1f}, where float32 probabilities are 0 or 1"
    remedy = "attack the margin, as this package does: the cross-entropy of other libraries has no gradient here"
    return _graded(name, share, FAR, 1.0, f"{detail} (median {median:.3g})", {"share": share, "median": median}, remedy)


def _landscape(name: str, e: Evidence) -> Check:
    ahead, random = (change[e.correct] for change in e.steps_compared)
    share = _share(~(ahead < random))
    figures = {"random_better": share, "gradient": float(ahead.median()), "random": float(random.median())}
    detail = (
        f"one PGD step changes the margin by {figures['gradient']:.3g}, the best of {probes.RANDOM_STEPS} random ones "
        f"of that length by {figures['random']:.3g} (medians); a random one is better on {share:.0%}"
    )
    remedy = "the gradient leads nowhere (masking): report Square, transfer and noise beside it, or smooth the detector"
    return _graded(name, share, FAR, UNHELPFUL, detail, figures, remedy)


def _beats_fgsm(name: str, e: Evidence) -> Check:
    share = _share(e.fgsm[-1].success & ~e.pgd.success)
    detail = f"FGSM fools {share:.1%} of the images that PGD with {probes.STEPS} steps does not"
    remedy = "give PGD more steps, restarts and a random start; a weaker attack must not win"
    return _by_share(name, share, len(e), detail, {"fgsm_only": share}, remedy)


def _overfitting(name: str, e: Evidence) -> Check:
    """Catastrophic overfitting to one-step attacks (Wong et al. 2020, section 5): only FGSM fails.

    Its mark are images fooled by a part of the step and right again at the whole (Kim et al. 2021, arXiv:2010.01799,
    section 3). Where there are none, a gap only warns, and in L1 and L2, where one step is weak anyway, not even that.
    """
    whole, pgd = e.fgsm[-1].robust_accuracy, e.pgd.robust_accuracy
    parts = torch.stack([attacked.success for attacked in e.fgsm[:-1]]).any(0)
    gap, back, n = whole - pgd, _share(parts & ~e.fgsm[-1].success), len(e)
    come_back = back > limit(DELTA, n)
    warn = limit(FGSM_GAP, n) if e.norm == "linf" or come_back else 1.0
    fail = limit(FGSM_GAP_FAR, n) if come_back else 1.0
    detail = f"accuracy {whole:.1%} under FGSM, {pgd:.1%} under PGD; {back:.1%} are fooled by a part of the step alone"
    remedy = "report PGD or a suite, never FGSM alone; train with several steps instead of one"
    return _graded(name, gap, warn, fail, detail, {"fgsm": whole, "pgd": pgd, "gap": gap, "back": back}, remedy)


def _beats_black_box(name: str, e: Evidence) -> Check:
    figures = {attack: _share(fooled) for attack, fooled in e.black.items()}
    each = ", ".join(f"{attack} {share:.1%}" for attack, share in figures.items())
    missing = "" if "square" in figures else "; square was not run"
    detail = f"fooled without gradients, but not with them: {each}{missing}"
    remedy = "the gradient is masked: report the worst case over all attacks, with Square's full queries"
    return _by_share(name, max(figures.values()), len(e), detail, figures, remedy)


def _monotone(name: str, e: Evidence) -> Check:
    rates = {eps: _share(attacked.success) for eps, attacked in e.sweep.items()}
    budgets = list(rates)
    drop = max(rates[low] - rates[high] for k, low in enumerate(budgets) for high in budgets[k + 1 :])
    each = ", ".join(f"{eps:.4g}: {rate:.1%}" for eps, rate in rates.items())
    detail = f"success by eps, each by itself, is {each}; it falls by at most {max(drop, 0):.1%}"
    remedy = "the attack loses its way at larger budgets: use more steps, smaller ones, or warm starts"
    return _by_share(name, drop, len(e), detail, {"drop": drop, **{f"{k:g}": v for k, v in rates.items()}}, remedy)


def _chance(name: str, e: Evidence) -> Check:
    accuracy = e.sweep[e.largest].robust_accuracy
    chance = max(_share(e.y == 1), _share(e.y == 0))
    if chance == 1:
        return Check(name, "not run", "all images are of one class, so one answer is right for all", {})
    detail = f"accuracy {accuracy:.1%} at eps {e.largest:.4g}, which takes any image to grey; guessing has {chance:.1%}"
    remedy = "no detector withstands this budget, so the attack fails: look at the gradient checks, then at Square"
    return _graded(name, accuracy, chance, chance, detail, {"accuracy": accuracy, "chance": chance}, remedy)


def _more_steps(name: str, e: Evidence) -> Check:
    share = _share(e.doubled)
    detail = f"twice the steps ({2 * probes.STEPS}) and 2 restarts fool {share:.1%} more of the images"
    remedy = "report an attack with more steps and restarts, until the number stays where it is"
    return _by_share(name, share, len(e), detail, {"more": share}, remedy)


def _flat_loss(name: str, e: Evidence) -> Check:
    clean, before, after = (margins.sum() for margins in e.late)
    n, fall = len(e.late[0]), float(clean - after)
    if not n:
        return Check(name, "pass", "PGD leaves no image standing", {"standing": 0.0, "late": 0.0})
    late = max(float(before - after), 0.0) / fall if fall > 0 else 1.0
    detail = f"on {n} images left standing, the last tenth of PGD's steps brings {late:.1%} of the margin's fall"
    detail = detail if fall > 0 else f"PGD does not lower the margin of the {n} images left standing at all"
    remedy = "use more steps, or APGD, which adapts them; where nothing moves, look at the gradient checks"
    # Beyond the warning only a margin that never fell fails: running on cannot make an attack weaker.
    return _graded(name, late, STILL_FALLING, 1 - SAME, detail, {"standing": float(n), "late": late}, remedy)


def _eps_zero(name: str, e: Evidence) -> Check:
    clear = e.clean.abs() > SAME * e.scale
    wrong = _share((e.at_zero.robust != e.correct) & clear)
    clean, zero = _share(e.correct), e.at_zero.robust_accuracy
    detail = f"accuracy {zero:.1%} under an attack of eps 0, {clean:.1%} when clean; {wrong:.1%} of the images differ"
    remedy = "clean and attacked images do not go the same way: look for other preprocessing, or randomness"
    return _graded(name, wrong, 0, 0, detail, {"clean": clean, "at_zero": zero, "differ": wrong}, remedy)


CHECKS: dict[str, tuple[Callable[[str, Evidence], Check], str]] = {
    "eval-mode": (_eval_mode, "nothing"),
    "input-range": (_input_range, "nothing"),
    "logits": (_logits, "nothing"),
    "repeatable": (_repeatable, "nothing"),
    "finite": (_finite, "range"),
    "eps-zero": (_eps_zero, "right"),
    "saturated": (_saturated, "nothing"),
    "gradients": (_gradients, "range"),
    "differences": (_differences, "range"),
    "quantised": (_quantised, "range"),
    "landscape": (_landscape, "right"),
    "bounds": (_bounds, "right"),
    "fgsm": (_beats_fgsm, "right"),
    "overfitting": (_overfitting, "right"),
    "black-box": (_beats_black_box, "right"),
    "monotone": (_monotone, "right"),
    "chance": (_chance, "right"),
    "more-steps": (_more_steps, "right"),
    "flat-loss": (_flat_loss, "right"),
}
"""The checks by name, with what each needs: ``nothing``, images in ``range``, some that the detector gets ``right``."""
