"""Checks of the detector and its gradient: each is one small function with its threshold.

Sources: Carlini et al. 2019, "On evaluating adversarial robustness" (arXiv:1902.06705), sections 4 and 5; Athalye et
al. 2018, "Obfuscated gradients give a false sense of security" (arXiv:1802.00420), section 3.1; the flags of AutoAttack
(Croce & Hein 2020, arXiv:2003.01690, ``flags_doc.md``); Pintor et al. 2022, "Indicators of attack failure"
(arXiv:2106.09947); Wong et al. 2020, "Fast is better than free" (arXiv:2001.03994), on catastrophic overfitting.
The severity depends on the figures only. `robustbench_df.attacks.probes` makes the measurements that the checks need.
"""

from __future__ import annotations

import math

import torch

from robustbench_df.attacks import probes
from robustbench_df.attacks.grading import FAR, SAME, Check, Status, differ, graded, share_of
from robustbench_df.attacks.probes import Evidence

DARK = 0.1
"""The brightest pixel of a set of photographs is above this; that of images divided by 255 twice is at most 0.004."""

SUMS_TO_ONE = 1e-4
"""Largest distance from 1 of the sum of a row of probabilities: float32 rounding, with a margin for a half-precision
softmax that was converted to float32."""

SATURATED = 25 * math.log(2)
"""From this margin on, 1 - softmax is below 2^-25, so float32 rounds the softmax to 1 and the cross-entropy's gradient
is exactly zero (the distillation defence that Carlini & Wagner 2017 broke, arXiv:1608.04644)."""

DISAGREE, DISBELIEVE = 0.25, 0.5
"""Median disagreement of gradient and finite differences above which the check warns, and fails. Small trained networks
with kinks show 0.02 or less. A gradient that is scrambled, clipped to a half, or cut off from half of the pixels shows
0.5 or more."""

UNHELPFUL = 0.5
"""The gradient is useless if a random step does better than one along it on more than this share of the images."""


def eval_mode(name: str, e: Evidence) -> Check:
    """Check that no layer is in train mode, and that no answer depends on the rest of the batch."""
    given = 0.0 if e.given is None else share_of(differ(e, e.signed(e.given), e.clean))
    together = share_of(differ(e, e.by_halves, e.clean))
    random = bool(differ(e, e.repeats, e.clean).any())
    figures = {"layers": float(e.modal), "changed": given, "depend_on_batch": together}
    detail = (
        f"{e.modal} batch norm or dropout layers came in train mode, {given:.0%} of the answers differ from eval mode, "
        f"{together:.0%} depend on the other images of the batch"
    )
    # A random detector differs from itself in every comparison; `repeatable` reports that.
    value = e.modal + (0.0 if random else given + together)
    return graded(name, value, 0, 0, detail, figures, "call detector.eval(); give batch norm its running statistics")


def input_range(name: str, e: Evidence) -> Check:
    """Check that pixels lie in [0, 1] and were divided by 255 only once."""
    low, high = float(e.x.min()), float(e.x.max())
    status: Status = "fail" if not (low >= 0 and high <= 1) else "warn" if high < DARK else "pass"
    remedy = "pass pixels in [0, 1], divided by 255 once; normalisation belongs into the detector"
    detail = f"pixels lie in [{low:.3g}, {high:.3g}]"
    return Check(name, status, detail, {"low": low, "high": high}, "" if status == "pass" else remedy)


def logits(name: str, e: Evidence) -> Check:
    """Check that the detector returns logits, not probabilities."""
    rows = e.clean_logits[torch.isfinite(e.clean_logits).all(1)]
    inside = ((rows >= 0) & (rows <= 1)).all(1) & ((rows.sum(1) - 1).abs() < SUMS_TO_ONE)
    share = share_of(inside) if len(rows) else 0.0
    detail = f"{share:.0%} of the answers lie in [0, 1] and add up to 1"
    remedy = "return logits or log-probabilities: the gradient of a probability vanishes where the detector is sure"
    return graded(name, float(share == 1), 0, 0, detail, {"probabilities": share}, remedy)


def finite(name: str, e: Evidence) -> Check:
    """Check that the answers are finite, on clean images and on the iterates of PGD."""
    clean = 1 - share_of(torch.isfinite(e.clean_logits).all(1))
    attacked = share_of(e.pgd.not_finite > 0)
    detail = f"no finite answer on {clean:.1%} of the clean images, and on the way of PGD for {attacked:.1%}"
    figures = {"clean": clean, "attacked": attacked}
    return graded(name, max(clean, attacked), 0, 0, detail, figures, "find the division, log or overflow behind it")


def repeatable(name: str, e: Evidence) -> Check:
    """Check that the detector always gives the same answer to the same image."""
    share = share_of(differ(e, e.repeats, e.clean).any(0))
    flipped = share_of(((e.repeats > 0) != e.correct).any(0))
    detail = f"asked {1 + probes.REPEATS} times, {share:.0%} of the answers differ and {flipped:.0%} change sides"
    remedy = "attack the expectation: set eot to 10 or more (Athalye et al. 2018), and report the spread over seeds"
    return graded(name, share, 0, 0, detail, {"differ": share, "change_sides": flipped}, remedy)


def eps_zero(name: str, e: Evidence) -> Check:
    """Check that the accuracy under an attack with eps 0 equals the clean accuracy."""
    clear = e.clean.abs() > SAME * e.scale
    wrong = share_of((e.at_zero.robust != e.correct) & clear)
    clean, zero = share_of(e.correct), e.at_zero.robust_accuracy
    detail = f"accuracy {zero:.1%} under an attack of eps 0, {clean:.1%} when clean; {wrong:.1%} of the images differ"
    remedy = "clean and attacked images do not go the same way: look for other preprocessing, or randomness"
    return graded(name, wrong, 0, 0, detail, {"clean": clean, "at_zero": zero, "differ": wrong}, remedy)


def saturated(name: str, e: Evidence) -> Check:
    """Check that few margins are so large that the softmax saturates."""
    share, median = share_of(e.clean.abs() > SATURATED), float(e.clean.abs().nanmedian())
    detail = f"{share:.0%} of the margins are beyond {SATURATED:.1f}, where float32 probabilities are 0 or 1"
    remedy = "attack the margin, as this package does: the cross-entropy of other libraries has no gradient here"
    return graded(name, share, FAR, 1.0, f"{detail} (median {median:.3g})", {"share": share, "median": median}, remedy)


def gradients(name: str, e: Evidence) -> Check:
    """Check that the gradient is usable: neither zero nor non-finite."""
    flat = e.clean_gradient.flatten(1)
    broken, zero = 1 - share_of(torch.isfinite(flat).all(1)), share_of((flat == 0).all(1))
    detail = f"the gradient of the margin is zero on {zero:.0%} of the images and no number on {broken:.0%}"
    remedy = "replace what blocks the gradient by a smooth stand-in for the attack (BPDA), or report Square"
    value = 1.0 if broken else zero
    return graded(name, value, 0, FAR, detail, {"zero": zero, "not_finite": broken}, remedy)


def differences(name: str, e: Evidence) -> Check:
    """Check that the gradient predicts how small steps change the margin."""
    along, across = (min(e.differences[way], key=_nan_last) for way in ("along", "across"))
    detail = (
        f"at the best of {len(probes.DIFFERENCES)} steps the margin's change and the gradient disagree by {along:.2f} "
        f"along the gradient and {across:.2f} across (median; 0: agree, 1: unrelated)"
    )
    remedy = "the backward pass is not that of the forward: look for custom gradients, clipping, detached branches"
    figures = {"along": along, "across": across}
    return graded(name, max(along, across, key=_nan_last), DISAGREE, DISBELIEVE, detail, figures, remedy)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def quantised(name: str, e: Evidence) -> Check:
    """Check that the margin responds to tiny changes of the pixels, that is, that nothing rounds them.

    A step function only warns if its gradient still predicts its slope at the scale of an attack (straight-through).
    """
    share = share_of(e.unmoved)
    misled = max(e.differences[way][-1] for way in ("along", "across"))
    fail = 1.0 if misled <= DISBELIEVE else UNHELPFUL
    detail = f"{share:.0%} of the answers stay the same to the last bit when {probes.NUDGED} pixels move a little"
    remedy = "the input is rounded inside, or the arithmetic is: attack a smooth stand-in (BPDA), or report Square"
    return graded(name, share, FAR, fail, detail, {"unmoved": share, "disagreement": misled}, remedy)


def landscape(name: str, e: Evidence) -> Check:
    """Check that a step along the gradient is more effective than a random one."""
    ahead, random = (change[e.correct] for change in e.steps_compared)
    share = share_of(~(ahead < random))
    figures = {"random_better": share, "gradient": float(ahead.median()), "random": float(random.median())}
    detail = (
        f"one PGD step changes the margin by {figures['gradient']:.3g}, the best of {probes.RANDOM_STEPS} random ones "
        f"of that length by {figures['random']:.3g} (medians); a random one is better on {share:.0%}"
    )
    remedy = "the gradient leads nowhere (masking): report Square, transfer and noise beside it, or smooth the detector"
    return graded(name, share, FAR, UNHELPFUL, detail, figures, remedy)
