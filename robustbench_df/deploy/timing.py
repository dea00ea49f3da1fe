"""Ways of computing the same thing, timed in turn: what disturbs the machine disturbs all of them alike."""

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
"""Fewest and most visits to each way: a median wants three, and thirty tell no more."""
VISIT, CALLS = 0.1, 20
"""Aim of seconds, and most calls, of one visit."""
TAIL_CALLS = 20
"""A 95th percentile of fewer calls would be their maximum."""


@dataclass(frozen=True)
class Timed:
    """Seconds per call of one way, one list per round."""

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
        """How many calls were timed."""
        return len(self._all())

    def times_faster_than(self, other: Timed) -> float:
        """Return the median over the rounds of ``other``'s time over this one's, each the median of its visit."""
        pairs = zip(other.rounds, self.rounds, strict=True)
        return statistics.median(statistics.median(theirs) / statistics.median(own) for theirs, own in pairs)

    def _all(self) -> list[float]:
        return [seconds for visit in self.rounds for seconds in visit]


def time_in_turn(calls: Mapping[str, Call], seconds: float) -> dict[str, Timed] | float:
    """Time every way in turn, round after round in rotating order, for about ``seconds`` in all.

    A visit of short calls begins with one that is not timed: it refills the caches that the way before has emptied.

    Returns the times, or, where not even the fewest rounds would fit, the seconds that they would take.
    """
    names = list(calls)
    started = time.perf_counter()
    for name in names:
        calls[name]()  # the first call allocates and chooses kernels: with many networks that is most of it
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
    """Return the bytes that ``call`` needs at its peak, beyond what was held before; None where it cannot be told.

    On a GPU the peak of torch's allocator; on Linux the peak of the resident memory (``VmHWM``), which is reset first,
    with freed memory handed back to the system. Use a way's first call of this size: some keep what they took.
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
