"""What several runs have in common: images, attacks and corruptions, on which alone they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_df.attacks.summary import robust
from robustbench_df.corruption_summary import CLEAN, Key
from robustbench_df.metrics.compare import Comparison, mcnemar
from robustbench_df.metrics.intervals import wilson
from robustbench_df.report.content.detectors import milliseconds_of, parameters_of
from robustbench_df.report.content.facts import AttackRow, Facts
from robustbench_df.report.content.judging import Subject
from robustbench_df.report.content.words import estimate, threat
from robustbench_df.report.document import Estimate

ALPHA = 0.05
"""A difference with a larger p is not told apart from chance."""

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Entry:
    """One run under the name it goes by here, and its shipped ensemble measured as all the others are.

    ``attacked`` is accuracy under the worst of the attacks that all runs met at one budget, ``corrupted`` the mean over
    the corruption cells that all have; None where there is no such thing.
    """

    name: str
    facts: Facts
    whole: Subject
    attacked: Estimate | None
    corrupted: Estimate | None
    milliseconds: float | None
    parameters: int | None


Common = tuple[str, float, tuple[str, ...]]
"""Norm, budget, and the attacks that all runs met at it."""


def attacks_on(facts: Facts) -> dict[tuple[str, float, str], AttackRow]:
    """Return the attacks on what a run ships, by norm, budget and name."""
    if facts.shipped is None:
        return {}
    own = [row for row in facts.attacks if row.pair == ("ensemble", facts.shipped.phase) and row.cell.eps > 0]
    return {(row.cell.norm, row.cell.eps, row.cell.attack): row for row in own}


def common_attacks(all_facts: Sequence[Facts]) -> Common | None:
    """The smallest budget that all runs met, L∞ before other norms, and the attacks that all met at it."""
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
    """Return the worst of the common attacks on what a run ships."""
    if common is None:
        return None
    norm, eps, attacks = common
    own = attacks_on(facts)
    return min((own[norm, eps, attack] for attack in attacks), key=lambda row: row.accuracy.value or 0.0)


def entry_of(name: str, facts: Facts, common: Common | None, cells: frozenset[tuple[str, int]]) -> Entry:
    """Measure what a run ships on what all runs have in common."""
    whole = facts.shipped
    assert whole is not None
    worst = worst_of(facts, common)
    corrupted = None
    if cells:
        scores = [facts.scores[Key("ensemble", whole.phase, *cell)] for cell in sorted(cells)]
        mean, n = sum(score.accuracy.value for score in scores) / len(scores), scores[0].accuracy.n
        ends = estimate(wilson(round(mean * n), n))
        corrupted = Estimate(mean, ends.low, ends.high, n)
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
    """Under attack first, then under corruptions, then clean; what was not run counts last."""

    def last(value: Estimate | None) -> float:
        return -value.value if value is not None and value.value is not None else 1.0

    return last(entry.attacked), last(entry.corrupted), last(entry.whole.numbers["accuracy"]), entry.name


def under(common: Common | None) -> str:
    """Name the common attacks and their budget."""
    return f"{' and '.join(common[2])}, {threat(common[0], common[1])}" if common else "no attack that all runs met"


def aligned(here: Sequence[str], there: Sequence[str]) -> tuple[Rows, Rows]:
    """Rows of the images that both lists name, in the order of the first."""
    place = {name: k for k, name in enumerate(there)}
    pairs = [(k, place[name]) for k, name in enumerate(here) if name in place]
    rows = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def judged_out(a: Entry, b: Entry) -> Comparison | None:
    """Compare two runs by clean accuracy on the images that both were judged on; None without any."""
    here, there = aligned(a.whole.ids, b.whole.ids)
    if not (len(here) and same_images(a, b)):
        return None
    return mcnemar(a.whole.right[here], b.whole.right[there])


def same_images(a: Entry, b: Entry) -> bool:
    """Say whether two runs are about the same images."""
    return a.facts.material.fingerprint == b.facts.material.fingerprint


def fought_out(a: Entry, b: Entry, common: Common | None) -> Comparison | None:
    """Compare two runs under the worst common attack on the images that both were attacked on; None without any."""
    first, second = worst_of(a.facts, common), worst_of(b.facts, common)
    if first is None or second is None or not same_images(a, b):
        return None
    tables = first.cell.table, second.cell.table
    here, there = aligned(*([str(name) for name in table["image_id"]] for table in tables))
    return mcnemar(robust(tables[0])[here], robust(tables[1])[there]) if len(here) else None
