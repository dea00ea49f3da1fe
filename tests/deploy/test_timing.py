"""Timing in turn: fair, paired, and honest about what did not fit."""

from __future__ import annotations

import itertools
import sys

import pytest
import torch

from robustbench_df.deploy.timing import ROUNDS, TAIL_CALLS, Timed, time_in_turn, working_memory


def test_every_way_gets_the_same_rounds_and_none_is_always_first() -> None:
    log: list[str] = []
    calls = {name: (lambda name=name: log.append(name)) for name in ("a", "b", "c")}
    found = time_in_turn(calls, 5.0)
    assert isinstance(found, dict)
    assert {len(timed.rounds) for timed in found.values()} == {ROUNDS[1]}
    assert {timed.calls for timed in found.values()} == {found["a"].calls}
    visits = [name for k, name in enumerate(log) if k == 0 or log[k - 1] != name]
    follows = set(itertools.pairwise(visits))
    assert {("a", "b"), ("b", "c"), ("c", "a")} <= follows  # the order turns with the rounds


def test_what_does_not_fit_is_not_run() -> None:
    found = time_in_turn({"a": lambda: sum(range(20_000))}, 0.0)
    assert isinstance(found, float)
    assert found > 0


def test_ratios_are_paired_by_round() -> None:
    """The machine got ten times slower in the second round; the ratio does not notice."""
    slow = Timed([[2.0, 2.0], [20.0, 20.0], [2.0, 2.0]])
    fast = Timed([[1.0, 1.0], [10.0, 10.0], [1.0, 9.0, 1.0]])
    assert fast.times_faster_than(slow) == pytest.approx(2.0)
    assert slow.times_faster_than(fast) == pytest.approx(0.5)
    assert fast.times_faster_than(fast) == 1.0


def test_no_percentile_of_a_handful() -> None:
    assert Timed([[1.0] * (TAIL_CALLS - 1)]).p95 is None
    assert Timed([[1.0] * (TAIL_CALLS - 1) + [2.0]]).p95 == pytest.approx(1.05)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_the_peak_is_seen_though_it_is_freed_again() -> None:
    mebibytes = 64
    peak = working_memory(lambda: torch.ones(mebibytes * 2**18).sum(), torch.device("cpu"))
    if peak is None:
        pytest.skip("/proc/self/clear_refs cannot be written here")
    assert 0.9 * mebibytes < peak / 2**20 < 2 * mebibytes
