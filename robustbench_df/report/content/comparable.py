"""What several runs have in common: they can only be compared on the same images, attacks and corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_df.attacks.summary import robust
from robustbench_df.corruption_summary import CLEAN, Key, mean_accuracy
from robustbench_df.metrics.compare import Comparison, mcnemar
from robustbench_df.report.content.detectors import milliseconds_of, parameters_of
from robustbench_df.report.content.facts import AttackRow, Facts
from robustbench_df.report.content.judging import Subject
from robustbench_df.report.content.words import estimate, threat
from robustbench_df.report.document import Estimate

ALPHA = 0.05
"""A difference with a p-value of at least this is not significant."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Entry:
    """One run under its name in the comparison, with its shipped ensemble measured in the same way as all others.

    ``attacked`` is the accuracy under the worst of the attacks that all runs have at the common budget. ``corrupted``
    is the mean over the corruption cells that all runs have. Each is None if there is nothing in common.
    """

    name: str
    facts: Facts
    whole: Subject
    attacked: Estimate | None
    corrupted: Estimate | None
    milliseconds: float | None
    parameters: int | None


Common = tuple[str, float, tuple[str, ...]]
"""Norm, budget, and the attacks that all runs have at this budget."""


def attacks_on(facts: Facts) -> dict[tuple[str, float, str], AttackRow]:
    """Return the attacks on a run's shipped ensemble, by norm, budget and label."""
    if facts.shipped is None:
        return {}
    own = [row for row in facts.attacks if row.pair == ("ensemble", facts.shipped.phase) and row.cell.eps > 0]
    return {(row.cell.norm, row.cell.eps, row.cell.label): row for row in own}


def common_attacks(all_facts: Sequence[Facts]) -> Common | None:
    """Find the smallest budget that all runs have (in L∞ if possible), and the attacks that all have at it."""
    if not all_facts:
        return None
    shared = set.intersection(*(set(attacks_on(facts)) for facts in all_facts))
    if not shared:
        return None
    norm, eps, _ = min(shared, key=lambda key: (key[0] != "linf", key[1], key[0]))
    return norm, eps, tuple(sorted(attack for n, e, attack in shared if (n, e) == (norm, eps)))


def common_cells(all_facts: Sequence[Facts]) -> frozenset[tuple[str, int]]:
    """Corruptions and severities that every run's ensemble was judged under."""
    found = []
    for facts in all_facts:
        phase = facts.shipped.phase if facts.shipped else ""
        own = {key[2:] for key in facts.scores if key[:2] == ("ensemble", phase) and key.corruption != CLEAN}
        found.append(own)
    return frozenset(set.intersection(*found)) if found else frozenset()


def worst_of(facts: Facts, common: Common | None) -> AttackRow | None:
    """Return the worst of the common attacks on a run's shipped ensemble."""
    if common is None:
        return None
    norm, eps, attacks = common
    own = attacks_on(facts)
    return min((own[norm, eps, attack] for attack in attacks), key=lambda row: row.accuracy.value or 0.0)


def entry_of(name: str, facts: Facts, common: Common | None, cells: frozenset[tuple[str, int]]) -> Entry:
    """Measure a run's shipped ensemble on what all runs have in common."""
    whole = facts.shipped
    assert whole is not None
    worst = worst_of(facts, common)
    corrupted = None
    if cells:
        corrupted = estimate(mean_accuracy([[facts.scores[Key("ensemble", whole.phase, *c)]] for c in sorted(cells)]))
    return Entry(
        name,
        facts,
        whole,
        attacked=worst.accuracy if worst else None,
        corrupted=corrupted,
        milliseconds=milliseconds_of(facts, "ensemble", whole.phase),
        parameters=parameters_of(facts, "ensemble", whole.phase),
    )


def rank(entry: Entry) -> tuple[float, float, float, str]:
    """Sort key: accuracy under attack, then under corruptions, then clean; what was not run comes last."""

    def last(value: Estimate | None) -> float:
        return -value.value if value is not None and value.value is not None else 1.0

    return last(entry.attacked), last(entry.corrupted), last(entry.whole.numbers["accuracy"]), entry.name


def under(common: Common | None) -> str:
    """Name the common attacks and their budget."""
    return f"{' and '.join(common[2])}, {threat(common[0], common[1])}" if common else "no attack that all runs met"


def aligned(here: Sequence[str], there: Sequence[str]) -> tuple[Rows, Rows]:
    """Row numbers, in either list, of the images that both lists contain, in the order of the first."""
    place = {name: k for k, name in enumerate(there)}
    pairs = [(k, place[name]) for k, name in enumerate(here) if name in place]
    rows = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def judged_out(a: Entry, b: Entry) -> Comparison | None:
    """Compare two runs by clean accuracy on the images that both were judged on; None if there are none."""
    here, there = aligned(a.whole.ids, b.whole.ids)
    if not (len(here) and same_images(a, b)):
        return None
    return mcnemar(a.whole.right[here], b.whole.right[there])


def same_images(a: Entry, b: Entry) -> bool:
    """Whether two runs are about the same set of images."""
    return a.facts.material.fingerprint == b.facts.material.fingerprint


def fought_out(a: Entry, b: Entry, common: Common | None) -> Comparison | None:
    """Compare two runs, each under its worst common attack, on the images attacked in both; None if there are none."""
    first, second = worst_of(a.facts, common), worst_of(b.facts, common)
    if first is None or second is None or not same_images(a, b):
        return None
    tables = first.cell.table, second.cell.table
    here, there = aligned(*([str(name) for name in table["image_id"]] for table in tables))
    return mcnemar(robust(tables[0])[here], robust(tables[1])[there]) if len(here) else None
