"""Calls timed in turn: what another process does meanwhile slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import agreement
import peers
import torch
from agreement import pgd_spec, right, settings
from torch import Tensor

import robustbench_df as rdf


def compare(
    ours: Callable[[], object], them: dict[str, Callable[[], object]], pairs: int, warm: bool
) -> dict[str, Any]:
    """Median seconds of each, taken in turn, and the median over the pairs of the fastest peer's ratio to ours.

    ``warm``: a round that is not timed goes first, for the first call of anything chooses kernels and fetches memory.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *them)}
    for pair in range(-1 if warm else 0, pairs):
        for name, call in (("ours", ours), *them.items()):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if pair >= 0:
                seconds[name].append(time.perf_counter() - start)
    ratios = [min(seconds[name][k] for name in them) / own for k, own in enumerate(seconds["ours"])]
    return {**{f"{k} s": statistics.median(v) for k, v in seconds.items()}, "peer / ours": statistics.median(ratios)}


def fgsm_sweep(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, grid = x[: config["fgsm_images"]], y[: config["fgsm_images"]], config["fgsm_epsilons"]

    def ours() -> object:
        return rdf.run_sweep(d, x, y, rdf.AttackSpec(name="fgsm"), grid, cumulative=False)

    # Success is not what libraries report: each must still score what it made, as any user has to.
    them = {k: lambda f=f: [right(d, f(d, x, y, eps), y) for eps in grid] for k, f in peers.FGSM.items()}
    return compare(ours, them, config["pairs"], warm=True)


def pgd(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, spec = x[: config["pgd_images"]], y[: config["pgd_images"]], pgd_spec(config["pgd_eps"], config["pgd_steps"])
    them = {k: lambda f=f: right(d, f(d, x, y, *settings(spec)), y) for k, f in peers.PGD.items()}
    return compare(lambda: rdf.run_attack(d, x, y, spec), them, min(config["pairs"], 3), warm=False)


def standard(config: dict[str, Any], d: rdf.Detector, x: Tensor, y: Tensor) -> dict[str, Any]:
    x, y, budget = x[: config["standard_images"]], y[: config["standard_images"]], standard_budget(config)
    them = {"autoattack": lambda: right(d, peers.autoattack(d, x, y, *budget), y)}
    return compare(lambda: agreement.ours(d, x, y, *budget), them, 1, warm=False)


def standard_budget(config: dict[str, Any]) -> tuple[float, int, int]:
    return config["standard_eps"], config["standard_steps"], config["standard_queries"]
