"""Suites: several attacks, each on the images that the previous ones did not fool; the result is the worst case."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustbench_df.attacks.catalogue import attack_named
from robustbench_df.attacks.clean import CleanPasses
from robustbench_df.attacks.runner import BATCH, Attacked, merge, run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.errors import UsageError, nearest

SUITES: dict[str, tuple[AttackSpec, ...]] = {
    "quick": (AttackSpec(name="fgsm"), AttackSpec(name="pgd", steps=20)),
    # AutoAttack (Croce & Hein 2020, arXiv:2003.01690) for two classes. There DLR is undefined, and the cross-entropy's
    # gradient has the margin's direction. So: APGD on the margin with two restarts for AutoAttack's two APGDs, FAB
    # towards the only other class, and Square; steps and queries as published.
    "standard": (
        AttackSpec(name="apgd", steps=100, restarts=2),
        AttackSpec(name="fab", steps=100),
        AttackSpec(name="square", queries=5000),
    ),
}


def suite_specs(name: str, eps: float, norm: str) -> list[AttackSpec]:
    """Return a suite's attacks at one budget, without those that do not support the norm.

    Raises:
        UsageError: the suite is unknown.
    """
    if name not in SUITES:
        raise UsageError(f"unknown suite '{name}'{nearest(name, SUITES)}; choose from {', '.join(SUITES)}")
    chosen = [spec for spec in SUITES[name] if norm in attack_named(spec.name).norms]
    return [spec.replaced(eps=eps, norm=norm) for spec in chosen]


def run_suite(
    detector: nn.Module,
    x: Tensor,
    y: Tensor,
    suite: str = "standard",
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> Attacked:
    """Run a suite at one budget and return the worst case per image; arguments as in `run_attack`.

    ``by`` is the position in `suite_specs` of the attack that fooled an image. ``progress`` is called with the number
    of images that no further attack will see, so that these numbers add up to ``len(x)``.
    """
    total: Attacked | None = None
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    clean = CleanPasses(io.BytesIO())
    specs = suite_specs(suite, eps, norm)
    for number, spec in enumerate(specs):
        last = number == len(specs) - 1
        rows = torch.arange(len(x), device=x.device) if total is None else total.robust.nonzero().squeeze(1)
        if not len(rows):
            break
        found = run_attack(
            detector,
            x[rows],
            y[rows],
            spec,
            ids=ids[rows],
            seed=seed,
            clean=clean if attack_named(spec.name).from_clean(spec) else None,
            batch_size=batch_size,
            progress=progress if last else None,
        )
        total = found if total is None else merge(total, found, rows, number)
        if progress is not None and not last:
            progress(len(rows) - int(found.robust.sum()))
    if total is None:
        raise UsageError(f"no attack of suite '{suite}' knows the norm {norm}")
    return total
