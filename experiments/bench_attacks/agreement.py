"""Robust accuracies on the same images under the same threat: ours must not be above a peer's."""

from __future__ import annotations

from typing import Any

import peers
import torch
from torch import Tensor

import robustbench_df as rdf


def pgd(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    spec = pgd_spec(config["agreement_eps"], config["agreement_steps"])
    theirs = right(d, peers.foolbox_pgd(d, x, y, *settings(spec)), y)
    return {"ours, robust": rdf.run_attack(d, x, y, spec).robust_accuracy, "foolbox, robust": share(theirs)}


def standard(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    budget = (config["agreement_eps"], config["agreement_steps"], config["agreement_queries"])
    theirs = right(d, peers.autoattack(d, x, y, *budget), y)
    return {"ours, robust": share(ours(d, x, y, *budget)), "autoattack, robust": share(theirs)}


def ours(d: rdf.Detector, x: Tensor, y: Tensor, eps: float, steps: int, queries: int) -> Tensor:
    """Which images the suite `standard` leaves standing, with other numbers of steps and queries than its own."""
    standing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    suite = ({"name": "apgd", "restarts": 2, "steps": steps}, {"name": "fab", "steps": steps})
    for attack in (*suite, {"name": "square", "queries": queries}):
        rows = standing.nonzero().squeeze(1)
        if len(rows):
            standing[rows] = rdf.run_attack(d, x[rows], y[rows], rdf.AttackSpec(eps=eps, **attack), ids=rows).robust
    return standing


def pgd_spec(eps: float, steps: int) -> rdf.AttackSpec:
    return rdf.AttackSpec(name="pgd", eps=eps, steps=steps, step_size=2.5 * eps / steps)


def settings(spec: rdf.AttackSpec) -> tuple[float, int, float]:
    return spec.eps, spec.steps, spec.step_size


def share(flags: Tensor) -> float:
    return float(flags.float().mean())


@torch.no_grad()
def right(d: rdf.Detector, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([d(part).argmax(1) for part in x.split(64)]) == y
