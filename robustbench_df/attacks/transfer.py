"""Transfer: adversarial images crafted on one detector and scored on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_df.attacks.runner import BATCH, Attacked, concatenate, measured, run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.memory import halving
from robustbench_df.models.detector import frozen
from robustbench_df.models.footprint import fitting_batch


def transfer_matrix(
    detectors: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Return bool ``[N]`` by source and target detector: the target is right on the image crafted on the source.

    Attacks run to their end (``early_stop=False``), because an image just across the boundary of its source fools no
    other detector. All images are attacked and scored, including those that either detector gets wrong when clean;
    compare with the row ``(clean)``. ``progress`` is called with the number of images of each crafted batch, N per
    detector in all.
    """
    spec = spec.replaced(early_stop=False)
    out: dict[str, dict[str, Tensor]] = {"(clean)": _right(detectors, x, y, batch_size)}
    options: dict[str, Any] = {"ids": ids, "seed": seed, "batch_size": batch_size, "progress": progress}
    for name, detector in detectors.items():
        crafted = run_attack(detector, x, y, spec, only_correct=False, **options).x_adv
        out[name] = _right(detectors, crafted, y, batch_size)
    return out


def transferred(
    detector: nn.Module,
    source: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: AttackSpec,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
) -> Attacked:
    """Craft on ``source`` to the end of the attack, then query ``detector`` once for each image it gets right clean."""
    whole = spec.replaced(early_stop=False)
    crafted = run_attack(source, x, y, whole, ids=ids, seed=seed, only_correct=False, batch_size=batch_size).x_adv
    return judged(detector, x, y, crafted, spec, batch_size=batch_size)


def judged(
    detector: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, spec: AttackSpec, *, batch_size: int = BATCH
) -> Attacked:
    """Measure externally crafted images ``x_adv`` ``[N, C, H, W]`` as `run_attack` does, under the spec's threat."""

    def judge(part: Tensor) -> Attacked:
        budgets = torch.full((len(part),), spec.eps, device=x.device)
        victim = Victim(detector, x[part], y[part], part, spec.norm, budgets, eot=spec.eot)
        victim.open(gradient=False)
        rows = victim.rows()
        if len(rows):
            victim.margin(x_adv[part][rows], rows)
        result = victim.result() if spec.early_stop else (victim.last, victim.last_logits)
        return measured(victim, *result)

    most = fitting_batch(batch_size, detector, tuple(x.shape[2:]), x.device, gradient=False)
    every = torch.arange(len(x), device=x.device)
    with frozen(detector):
        return halving(most, lambda few: concatenate([judge(part) for part in every.split(few)]))


def right_on(detector: nn.Module, x: Tensor, y: Tensor, size: int = BATCH) -> Tensor:
    """Return bool ``[N]``: whether the detector is right on ``x``."""
    most = fitting_batch(size, detector, tuple(x.shape[2:]), x.device, gradient=False)
    with frozen(detector), torch.no_grad():
        logits = halving(most, lambda few: torch.cat([detector(part) for part in x.split(few)]))
    return (logits[:, 1] >= logits[:, 0]).long() == y  # a tie is fake, as `Decision.apply` says


def _right(detectors: Mapping[str, nn.Module], x: Tensor, y: Tensor, size: int) -> dict[str, Tensor]:
    return {name: right_on(detector, x, y, size) for name, detector in detectors.items()}
