"""DeepFool and Carlini-Wagner: the nearest adversarial image by gradients, at any distance."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError

DEEPFOOL_STEPS, OVERSHOOT = 50, 0.02
"""Steps at most, and how far beyond the boundary to go (the paper's η)."""

CW_STEPS, CW_RATE, CW_SEARCH = 200, 0.01, 9
"""Adam's steps and rate for one weight, and how many weights are tried (rate and search of the authors)."""

CW_WEIGHTS = (1e-10, 1e10)
"""Least and largest weight of the margin against the squared distance (the authors' largest, and its inverse)."""

CW_RAISE = 10.0
"""By what a weight that failed grows until one succeeds (the authors)."""

CW_FADE = 0.01
"""Share of the rate left at the last step: at a constant rate Adam circles the boundary. Worth 1% of the distance."""

ADAM = (0.9, 0.999, 1e-8)
"""Decays of the two moments and the guard of the quotient (Kingma & Ba 2015, arXiv:1412.6980)."""

EDGE = 1 - 1e-6
"""Pixels are drawn this far into (-1, 1) before the inverse of tanh, which is infinite at black and white."""


def deepfool(victim: Victim, spec: AttackSpec) -> None:
    """Step to the boundary of the linearised detector until it is crossed (Moosavi-Dezfooli et al. 2016, 1511.04599).

    With two classes there is one hyperplane: the step is ``margin / ‖gradient‖_dual`` along the norm's steepest
    direction, in L2 and L∞. Steps add up and are taken 1.02 times, within [0, 1], where only pixels with room left take
    part. An image is done when it is fooled, or where its gradient vanishes. ``spec.steps`` (default 50) bounds the
    gradients.
    """
    total = torch.zeros_like(victim.x)
    rows = victim.rows()
    x_adv = victim.x[rows]
    for step in range(spec.steps or DEEPFOOL_STEPS):
        if not len(rows):
            return
        margin, gradient = victim.gradient(x_adv, rows) if step else _at_clean(victim, rows)
        # Pixels already black or white cannot follow the step; without them the next one is exact again.
        gradient = gradient * torch.where(gradient > 0, x_adv < 1, x_adv > 0)
        direction = victim.geometry.ascent(gradient, x_adv, 1.0)
        slope = (gradient * direction).flatten(1).sum(1)
        # Done: fooled, nothing to follow, or (all comparisons are then False) an answer that is no number.
        left = victim.alive[rows] & (margin > 0) & (slope > 0)
        rows, direction = rows[left], direction[left]
        length = (margin[left] / slope[left]).clamp_max(victim.x[0].numel())  # farther than any point of the box
        x = victim.x[rows]
        total[rows] = (x + total[rows] + per_image(length) * direction).clamp(0, 1) - x
        x_adv = (x + (1 + OVERSHOOT) * total[rows]).clamp(0, 1)
    if len(rows):
        victim.margin(x_adv, rows)


def _at_clean(victim: Victim, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`Victim.gradient` of the clean images, without a pass where the victim has been there."""
    if victim.clean_gradient is None:
        return victim.gradient(victim.x[rows], rows)
    return victim.signed(victim.clean_logits[rows], rows), victim.clean_gradient[rows]


def carlini_wagner(victim: Victim, spec: AttackSpec) -> None:
    """Minimise ``‖x - x₀‖² + c · max(margin, -κ)`` over ``x = (tanh w + 1) / 2`` (Carlini & Wagner 2017, 1608.04644).

    L2 only. Adam on w; the weight c is searched per image: halved intervals between one that failed and one that
    fooled, ten times more while none has fooled. It begins at the weight for which the linearised problem is solved
    exactly, ``2 · margin / ‖gradient‖²``; from the authors' fixed 0.001 all nine searches ended 9% farther away on a
    small network. The rate fades linearly to its hundredth part, for 200 steps are few.

    ``spec.steps`` (default 200) and ``spec.step_size`` (Adam's rate, default 0.01) hold for each weight,
    ``spec.params["search"]`` (default 9) is the number of weights and ``spec.params["kappa"]`` (default 0) the margin
    by which the detector must be wrong, in logits.

    Raises:
        UsageError: ``search`` is no whole number, or below 1; ``kappa`` is no number, or below 0.
    """
    search, kappa = _cw_params(spec)
    rows = victim.rows()
    if not len(rows):
        return
    weight = _first_weight(victim, rows)
    low, high = torch.zeros_like(weight), torch.full_like(weight, float("inf"))
    for _ in range(search):
        if not len(victim.rows()):
            return
        fooled = _cw_descend(victim, spec, weight, kappa)
        low, high = torch.where(fooled, low, weight), torch.where(fooled, weight, high)
        weight = torch.where(high.isinf(), weight * CW_RAISE, (low + high) / 2).clamp(*CW_WEIGHTS)


def _cw_params(spec: AttackSpec) -> tuple[int, float]:
    search, kappa = spec.params.get("search", CW_SEARCH), spec.params.get("kappa", 0.0)
    if type(search) is not int or search < 1:
        raise UsageError(f"search must be a whole number ≥ 1, not {search}")
    if isinstance(kappa, bool | str) or not kappa >= 0:
        raise UsageError(f"kappa must be a number of logits ≥ 0, not {kappa}")
    return search, float(kappa)


def _first_weight(victim: Victim, rows: Tensor) -> Tensor:
    """The weight ``[N]`` at which the optimum of the detector linearised at the clean image lies on its boundary."""
    weight = torch.ones_like(victim.eps)
    margin, gradient = _at_clean(victim, rows)
    square = gradient.flatten(1).square().sum(1)
    weight[rows] = torch.nan_to_num(2 * margin / square, nan=1.0, posinf=CW_WEIGHTS[1]).clamp(*CW_WEIGHTS)
    return weight


def _cw_descend(victim: Victim, spec: AttackSpec, weight: Tensor, kappa: float) -> Tensor:
    """All steps with one weight per image; returns whether each was fooled by ``kappa``, bool ``[N]``."""
    steps, rate = spec.steps or CW_STEPS, spec.step_size or CW_RATE
    w = torch.atanh((victim.x * 2 - 1) * EDGE)
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    fooled = torch.zeros_like(victim.alive)
    for step in range(steps):
        rows = victim.rows()
        if not len(rows):
            break
        bent = torch.tanh(w[rows])
        x_adv = (bent + 1) / 2
        margin, gradient = victim.gradient(x_adv, rows)
        fooled[rows] |= margin <= -kappa
        pull = per_image(weight[rows] * (margin > -kappa))
        slope = (2 * (x_adv - victim.x[rows]) - pull * gradient) * (1 - bent.square()) / 2
        first[rows] = ADAM[0] * first[rows] + (1 - ADAM[0]) * slope
        second[rows] = ADAM[1] * second[rows] + (1 - ADAM[1]) * slope.square()
        mean, spread = first[rows] / (1 - ADAM[0] ** (step + 1)), second[rows] / (1 - ADAM[1] ** (step + 1))
        pace = rate * (1 - (1 - CW_FADE) * step / max(steps - 1, 1))
        w[rows] -= pace * mean / (spread.sqrt() + ADAM[2])
    return fooled
