"""Calls timed in turn: what another process does meanwhile slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def compare(ours: Callable[[], object], them: dict[str, Callable[[], object]], pairs: int) -> dict[str, Any]:
    """Median seconds of each, taken in turn, and the median over the pairs of the fastest peer's ratio to ours."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *them)}
    for _ in range(pairs):
        for name, call in (("ours", ours), *them.items()):
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    ratios = [min(seconds[name][k] for name in them) / own for k, own in enumerate(seconds["ours"])]
    return {**{f"{k} s": statistics.median(v) for k, v in seconds.items()}, "peer / ours": statistics.median(ratios)}
