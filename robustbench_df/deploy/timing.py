"""Time several ways of the same computation in turn, so that disturbances of the machine affect all of them alike."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

Call = Callable[[], object]

ROUNDS = (3, 30)
"""Fewest and most rounds; each way is visited once per round. A median needs three; more than thirty add nothing."""
VISIT, CALLS = 0.1, 20
"""Target duration of one visit in seconds, and the most calls in it."""
TAIL_CALLS = 20
"""Fewest calls for a 95th percentile; that of fewer calls would be their maximum."""


@dataclass(frozen=True)
class Timed:
    """Seconds per call of one way of computing, one list per round."""

    rounds: list[list[float]]

    @property
    def median(self) -> float:
        """Median over all calls, in seconds."""
        return statistics.median(self._all())

    @property
    def p95(self) -> float | None:
        """95th percentile over all calls, in seconds; None for fewer than `TAIL_CALLS`."""
        calls = self._all()
        return float(np.quantile(calls, 0.95)) if len(calls) >= TAIL_CALLS else None

    @property
    def calls(self) -> int:
        """Number of timed calls."""
        return len(self._all())

    def times_faster_than(self, other: Timed) -> float:
        """Return the median over the rounds of the ratio of ``other``'s to this one's median time in the round."""
        pairs = zip(other.rounds, self.rounds, strict=True)
        return statistics.median(statistics.median(theirs) / statistics.median(own) for theirs, own in pairs)

    def _all(self) -> list[float]:
        return [seconds for visit in self.rounds for seconds in visit]


def time_in_turn(calls: Mapping[str, Call], seconds: float) -> dict[str, Timed] | float:
    """Time every way in turn, round after round in rotating order, for about ``seconds`` in total.

    A visit with short calls begins with an untimed call, which refills the caches that the previous way has evicted.

    Returns the times or, if not even the fewest rounds would fit, the total seconds that these would need.
    """
    names = list(calls)
    started = time.perf_counter()
    for name in names:
        calls[name]()  # the first call also allocates memory and chooses kernels, which can take most of its time
    once = {name: _seconds(calls[name]) for name in names}
    repeats = {name: max(1, min(CALLS, int(VISIT / once[name]))) for name in names}
    untimed = {name: int(once[name] < VISIT) for name in names}
    a_round = sum((untimed[name] + repeats[name]) * once[name] for name in names)
    left = seconds - (time.perf_counter() - started)
    if ROUNDS[0] * a_round > left:
        return seconds - left + ROUNDS[0] * a_round
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for k in range(min(ROUNDS[1], int(left / a_round))):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            if untimed[name]:
                calls[name]()
            rounds[name].append([_seconds(calls[name]) for _ in range(repeats[name])])
    return {name: Timed(visits) for name, visits in rounds.items()}


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def working_memory(call: Call, device: torch.device) -> int | None:
    """Return the peak memory of ``call`` in bytes beyond what was in use before; None if it cannot be measured.

    On a GPU it is the peak of torch's allocator. On Linux it is the peak resident memory (``VmHWM``), which is reset
    first, after freed memory was returned to the system. Measure the first call of this size, because some ways keep
    the memory that they allocated.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    except (AttributeError, OSError):
        return None
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
