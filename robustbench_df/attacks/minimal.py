"""DeepFool and Carlini-Wagner: gradient attacks that seek the nearest adversarial image, at any distance."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError

DEEPFOOL_STEPS, OVERSHOOT = 50, 0.02
"""Most steps, and the overshoot beyond the boundary (the paper's η)."""

CW_STEPS, CW_RATE, CW_SEARCH = 200, 0.01, 9
"""Adam's steps and learning rate for one weight, and the number of weights tried (rate and number are the authors')."""

CW_WEIGHTS = (1e-10, 1e10)
"""Smallest and largest weight of the margin against the squared distance (the authors' largest, and its inverse)."""

CW_RAISE = 10.0
"""Factor by which the weight grows until the first success (the authors)."""

CW_FADE = 0.01
"""Share of the learning rate left at the last step: at a constant rate Adam circles the boundary. This is worth 1% of
the distance."""

ADAM = (0.9, 0.999, 1e-8)
"""Adam's decay rates β₁ and β₂, and ε of the denominator (Kingma & Ba 2015, arXiv:1412.6980)."""

EDGE = 1 - 1e-6
"""Factor that keeps pixels, mapped to [-1, 1], off black (-1) and white (1), where the inverse of tanh is infinite."""


def deepfool(victim: Victim, spec: AttackSpec) -> None:
    """Step to the boundary of the linearised detector until it is crossed (Moosavi-Dezfooli et al. 2016, 1511.04599).

    With two classes there is one hyperplane: the step is ``margin / ‖gradient‖_dual`` along the norm's steepest
    direction, in L2 and L∞. The accumulated step is multiplied by 1.02 and clipped to [0, 1]; only pixels that have
    room left take part. An image is done when it is fooled, or when its gradient vanishes. ``spec.steps`` (default 50)
    bounds the number of gradients.
    """
    total = torch.zeros_like(victim.x)
    rows = victim.rows()
    x_adv = victim.x[rows]
    for step in range(spec.steps or DEEPFOOL_STEPS):
        if not len(rows):
            return
        margin, gradient = victim.gradient(x_adv, rows) if step else _at_clean(victim, rows)
        # Pixels already at 0 or 1 cannot follow the step; leaving them out makes the next step exact again.
        gradient = gradient * torch.where(gradient > 0, x_adv < 1, x_adv > 0)
        direction = victim.geometry.ascent(gradient, x_adv, 1.0)
        slope = (gradient * direction).flatten(1).sum(1)
        # An image is done when it is fooled, when its gradient vanishes, or when the answer is NaN (all comparisons
        # are then False).
        left = victim.alive[rows] & (margin > 0) & (slope > 0)
        rows, direction = rows[left], direction[left]
        length = (margin[left] / slope[left]).clamp_max(victim.x[0].numel())  # farther than any point of the box
        x = victim.x[rows]
        total[rows] = (x + total[rows] + per_image(length) * direction).clamp(0, 1) - x
        x_adv = (x + (1 + OVERSHOOT) * total[rows]).clamp(0, 1)
    if len(rows):
        victim.margin(x_adv, rows)


def _at_clean(victim: Victim, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`Victim.gradient` of the clean images; it costs no pass if the victim has stored their gradient."""
    if victim.clean_gradient is None:
        return victim.gradient(victim.x[rows], rows)
    return victim.signed(victim.clean_logits[rows], rows), victim.clean_gradient[rows]


def carlini_wagner(victim: Victim, spec: AttackSpec) -> None:
    """Minimise ``‖x - x₀‖² + c · max(margin, -κ)`` over ``x = (tanh w + 1) / 2`` (Carlini & Wagner 2017, 1608.04644).

    L2 only. Adam optimises w. The weight c is searched per image: by bisection between a weight that failed and one
    that fooled, and times ten while none has fooled. The search begins at the weight that solves the linearised problem
    exactly, ``2 · margin / ‖gradient‖²``; from the authors' fixed 0.001, all nine searches ended 9% farther away on a
    small network. The learning rate falls linearly to a hundredth, because 200 steps are few.

    ``spec.steps`` (default 200) and ``spec.step_size`` (Adam's learning rate, default 0.01) apply to each weight.
    ``spec.params["search"]`` (default 9) is the number of weights. ``spec.params["kappa"]`` (default 0) is the margin
    by which the detector must be wrong, in logits.

    Raises:
        UsageError: ``search`` is not a whole number, or is below 1; ``kappa`` is not a number, or is below 0.
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
    """Take all steps with one weight per image; return which were fooled by a margin of ``kappa``, bool ``[N]``."""
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
