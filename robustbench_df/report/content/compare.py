"""The same page for several runs: paired tests on common images, a leaderboard, and what costs what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_df.attacks.summary import robust
from robustbench_df.corruption_summary import CLEAN, Key
from robustbench_df.errors import UsageError
from robustbench_df.metrics.compare import Comparison, holm, mcnemar, paired_delong
from robustbench_df.metrics.intervals import wilson
from robustbench_df.report.content.alerts import ORDER, alerts_of
from robustbench_df.report.content.detectors import milliseconds_of, parameters_of
from robustbench_df.report.content.evaluation import roc_of
from robustbench_df.report.content.facts import AttackRow, Facts, facts_of
from robustbench_df.report.content.judging import Subject
from robustbench_df.report.content.pieces import Tab, tabbed
from robustbench_df.report.content.reproduce import settings_of
from robustbench_df.report.content.words import counted, defined, difference, estimate, keys_of, listed, said, threat
from robustbench_df.report.document import (
    Alert,
    Block,
    Cell,
    Column,
    Curves,
    Document,
    Estimate,
    Points,
    Section,
    Series,
    Table,
    Text,
)

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


def compare_of(runs: Sequence[Path]) -> Document:
    """Read several runs and return one page that compares what they ship.

    Paired tests are made between runs about the same images, on the images that both were judged on; each was judged
    there by detectors that had not seen them.

    Raises:
        UsageError: fewer than two runs.
        RunError: see `front.document_of`.
    """
    if len(runs) < 2:
        raise UsageError(f"{counted(len(runs), 'run')} cannot be compared; name two or more")
    all_facts = dict(zip(_names(runs), map(facts_of, runs), strict=True))
    unweighed = [name for name, facts in all_facts.items() if facts.shipped is None]
    ready = {name: facts for name, facts in all_facts.items() if facts.shipped is not None}
    common = _common_attacks(list(ready.values()))
    cells = _common_cells(list(ready.values()))
    entries = [_entry(name, facts, common, cells) for name, facts in ready.items()]
    entries.sort(key=_rank)
    alerts = _alerts(all_facts, entries, unweighed, common)
    return Document(
        title=f"{counted(len(all_facts), 'run')} compared",
        subtitle=", ".join(all_facts),
        verdict=_verdict(entries, common, alerts),
        alerts=alerts,
        sections=[
            _leaderboard(entries, common, cells),
            *_tests(entries, common),
            _figures(entries, common),
            _differ(all_facts),
        ],
        pictures={},
        provenance={name: dict(facts.material.provenance) for name, facts in all_facts.items()},
        exports={},
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """Name runs by their folders; two of one name are told apart by a number."""
    found: list[str] = []
    for run in runs:
        name, number = run.resolve().name, 2
        while name in found:
            name, number = f"{run.resolve().name} ({number})", number + 1
        found.append(name)
    return found


# --- what can be compared -------------------------------------------------------------------------

Common = tuple[str, float, tuple[str, ...]]
"""Norm, budget, and the attacks that all runs met at it."""


def _attacks(facts: Facts) -> dict[tuple[str, float, str], AttackRow]:
    if facts.shipped is None:
        return {}
    own = [row for row in facts.attacks if row.pair == ("ensemble", facts.shipped.phase) and row.cell.eps > 0]
    return {(row.cell.norm, row.cell.eps, row.cell.attack): row for row in own}


def _common_attacks(all_facts: Sequence[Facts]) -> Common | None:
    """The smallest budget that all runs met, L∞ before other norms, and the attacks that all met at it."""
    if not all_facts:
        return None
    shared = set.intersection(*(set(_attacks(facts)) for facts in all_facts))
    if not shared:
        return None
    norm, eps, _ = min(shared, key=lambda key: (key[0] != "linf", key[1], key[0]))
    return norm, eps, tuple(sorted(attack for n, e, attack in shared if (n, e) == (norm, eps)))


def _common_cells(all_facts: Sequence[Facts]) -> frozenset[tuple[str, int]]:
    """Corruptions and severities that every run's ensemble was judged under."""
    found = []
    for facts in all_facts:
        phase = facts.shipped.phase if facts.shipped else ""
        own = {key[2:] for key in facts.scores if key[:2] == ("ensemble", phase) and key.corruption != CLEAN}
        found.append(own)
    return frozenset(set.intersection(*found)) if found else frozenset()


def _worst(facts: Facts, common: Common | None) -> AttackRow | None:
    if common is None:
        return None
    norm, eps, attacks = common
    own = _attacks(facts)
    return min((own[norm, eps, attack] for attack in attacks), key=lambda row: row.accuracy.value or 0.0)


def _entry(name: str, facts: Facts, common: Common | None, cells: frozenset[tuple[str, int]]) -> Entry:
    whole = facts.shipped
    assert whole is not None
    worst = _worst(facts, common)
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


def _rank(entry: Entry) -> tuple[float, float, float, str]:
    """Under attack first, then under corruptions, then clean; what was not run counts last."""

    def last(value: Estimate | None) -> float:
        return -value.value if value is not None and value.value is not None else 1.0

    return last(entry.attacked), last(entry.corrupted), last(entry.whole.numbers["accuracy"]), entry.name


# --- sections -------------------------------------------------------------------------------------


def _under(common: Common | None) -> str:
    return f"{' and '.join(common[2])}, {threat(common[0], common[1])}" if common else "no attack that all runs met"


def _leaderboard(entries: Sequence[Entry], common: Common | None, cells: frozenset[tuple[str, int]]) -> Section:
    rows: list[Mapping[str, Cell]] = [
        {
            "rank": k + 1,
            "run": entry.name,
            "attacked": entry.attacked,
            "corrupted": entry.corrupted,
            "accuracy": entry.whole.numbers["accuracy"],
            "auc": entry.whole.numbers["auc"],
            "ms": entry.milliseconds,
            "parameters": entry.parameters,
            "detectors": ", ".join(entry.facts.models),
            "part": entry.whole.part,
            "n": len(entry.whole.labels),
        }
        for k, entry in enumerate(entries)
    ]
    damage = (
        f"Mean over the {counted(len(cells), 'cell')} that all runs have." if cells else "No cell that all runs have."
    )
    columns = [
        Column("run", "Run"),
        Column("rank", "Rank", "count"),
        Column("attacked", "Under attack", "percent", f"Worst of {_under(common)}; Wilson interval.", "higher"),
        Column("corrupted", "Under corruptions", "percent", damage, "higher"),
        Column("accuracy", "Clean", "percent", "At the calibrated threshold; Wilson interval.", "higher"),
        Column("auc", "AUC", "number", "Clean; DeLong interval.", "higher"),
        Column("ms", "ms per image", "number", better="lower"),
        Column("parameters", "Parameters", "count", better="lower"),
        Column("detectors", "Detectors"),
        Column("part", "Part"),
        Column("n", "Images", "count"),
    ]
    note = "Sorted by accuracy under attack, then under corruptions, then clean. Rows may be about different images."
    table = Table("leaderboard", "What each run ships", columns, rows, note)
    lead = "The shipped ensemble of every run, by what matters to somebody who must rely on it."
    return tabbed("ranking", "Leaderboard", lead, [Tab("", [table])])


def _tests(entries: Sequence[Entry], common: Common | None) -> list[Section]:
    """Every two runs about the same images, on the images both were judged on."""
    clean: list[tuple[Entry, Entry, Comparison, Comparison | None]] = []
    attacked: list[tuple[Entry, Entry, Comparison, Comparison | None]] = []
    for a, b in combinations(entries, 2):
        if a.facts.material.fingerprint == b.facts.material.fingerprint:
            here, there = _aligned(a.whole.ids, b.whole.ids)
            if len(here):
                area = paired_delong(a.whole.judged.margin[here], b.whole.judged.margin[there], a.whole.labels[here])
                clean.append((a, b, mcnemar(a.whole.right[here], b.whole.right[there]), area))
            first, second = _worst(a.facts, common), _worst(b.facts, common)
            if first is not None and second is not None:
                tables = first.cell.table, second.cell.table
                here, there = _aligned(*([str(name) for name in table["image_id"]] for table in tables))
                if len(here):
                    test = mcnemar(robust(tables[0])[here], robust(tables[1])[there])
                    attacked.append((a, b, test, None))
    blocks: list[Block] = []
    if clean:
        blocks.append(_test_table("paired-clean", "Clean images", clean))
    if attacked:
        blocks.append(_test_table("paired-attacked", f"Under the worst of {_under(common)}", attacked))
    if not blocks:
        blocks.append(
            Text("No two of these runs were judged on a common image, so none can be tested against another.")
        )
    lead = (
        "The same images decide, so that easy and hard ones cancel. p is adjusted for the number of comparisons in its "
        f"table (Holm); from {ALPHA:g} on two runs cannot be told apart."
    )
    return [tabbed("paired", "Paired tests", lead, [Tab("", blocks)])]


def _aligned(here: Sequence[str], there: Sequence[str]) -> tuple[Rows, Rows]:
    """Rows of the images that both lists name, in the order of the first."""
    place = {name: k for k, name in enumerate(there)}
    pairs = [(k, place[name]) for k, name in enumerate(here) if name in place]
    rows = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _test_table(id: str, title: str, tests: Sequence[tuple[Entry, Entry, Comparison, Comparison | None]]) -> Table:
    adjusted = holm([test.p_value for _, _, test, _ in tests]).tolist()
    rows: list[Mapping[str, Cell]] = []
    for (a, b, test, area), p in zip(tests, adjusted, strict=True):
        row: dict[str, Cell] = {
            "a": a.name,
            "b": b.name,
            "difference": difference(test),
            "p": test.p_value,
            "holm": Estimate(defined(p)),
            "n": test.n,
        }
        if area is not None:
            row["auc"] = difference(area)
            row["auc_p"] = Estimate(defined(area.p_value))
        rows.append(row)
    columns = [
        Column("a", "Run"),
        Column("b", "against"),
        Column("difference", "Accuracy, first minus second", "percent", "Points; Agresti-Min interval."),
        Column("p", "p", "number", "Exact McNemar test, two-sided."),
        Column("holm", "p, Holm", "number"),
    ]
    if any(area is not None for *_, area in tests):
        columns.append(Column("auc", "AUC, first minus second", "number", "DeLong, paired."))
        columns.append(Column("auc_p", "p (AUC)", "number", "Not adjusted."))
    return Table(id, title, [*columns, Column("n", "Common images", "count")], rows)


def _figures(entries: Sequence[Entry], common: Common | None) -> Section:
    blocks: list[Block] = []
    known = [entry for entry in entries if entry.attacked is not None]
    if known:
        x = [entry.whole.numbers["accuracy"] for entry in known]
        y = [entry.attacked for entry in known if entry.attacked is not None]
        blocks.append(
            _points("pareto-robust", "Clean against robust", "clean accuracy", "accuracy under attack", known, x, y)
        )
    timed = [entry for entry in entries if entry.milliseconds is not None]
    if timed:
        cost = [Estimate(entry.milliseconds) for entry in timed]
        under = [entry.attacked for entry in timed if entry.attacked is not None]
        robust_too = len(under) == len(timed)
        y = under if robust_too else [entry.whole.numbers["accuracy"] for entry in timed]
        label = "share right under attack" if robust_too else "share right, clean"
        blocks.append(
            _points("pareto-cost", "What robustness costs", "ms per image", label, timed, cost, y, cheaper=True)
        )
    if entries:
        blocks.append(roc_of("compare-roc", "ROC of what ships", {entry.name: entry.whole for entry in entries}))
    blocks += _over_eps(entries, common)
    return tabbed(
        "figures", "Trade-offs", "A run on the dashed line is beaten by no other on both axes.", [Tab("", blocks)]
    )


def _points(
    id: str,
    title: str,
    x_label: str,
    y_label: str,
    entries: Sequence[Entry],
    x: Sequence[Estimate],
    y: Sequence[Estimate],
    *,
    cheaper: bool = False,
) -> Points:
    sign = -1 if cheaper else 1
    values = [(sign * (a.value or 0.0), b.value or 0.0) for a, b in zip(x, y, strict=True)]
    names = [entry.name for entry in entries]
    front = [
        name
        for name, (a, b) in zip(names, values, strict=True)
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in values)
    ]
    words = [f"{name}: {a.value:.3g}, {said(b)}" for name, a, b in zip(names, x, y, strict=True)]
    alt = f"{y_label} over {x_label}. {'; '.join(words)}. Beaten by none: {', '.join(front)}."
    return Points(id, title, alt, x_label, y_label, names, x, y, front, percent=not cheaper)


def _over_eps(entries: Sequence[Entry], common: Common | None) -> list[Curves]:
    """Accuracy over the budget under each attack that all runs met."""
    if common is None:
        return []
    norm, _, attacks = common
    figures = []
    for attack in attacks:
        series = []
        for entry in entries:
            rows = [row for (n, _, name), row in _attacks(entry.facts).items() if (n, name) == (norm, attack)]
            rows.sort(key=lambda row: row.cell.eps)
            points = [(0.0, rows[0].clean), *((row.cell.eps, row.accuracy) for row in rows)]
            x, known = [eps for eps, _ in points], [value for _, value in points]
            ends = [e.low for e in known], [e.high for e in known]
            series.append(Series(entry.name, x, [e.value for e in known], *ends))
        figures.append(
            Curves(
                id=f"compare-eps-{attack}",
                title=f"Accuracy under {attack}",
                alt=f"Accuracy of what each run ships under {attack}, over ε.",
                x_label=f"ε, {threat(norm, 0).split()[0]}, pixels of [0, 1]",
                y_label="accuracy under attack",
                series=series,
                percent=True,
            )
        )
    return figures


def _differ(all_facts: Mapping[str, Facts]) -> Section:
    """Commands, and settings that are not the same in all runs."""
    keys = keys_of(all_facts)
    settings = {name: dict(settings_of(facts.material.config)) for name, facts in all_facts.items()}
    rows: list[Mapping[str, Cell]] = []
    for key in sorted({key for own in settings.values() for key in own}):
        values = {name: own.get(key, "") for name, own in settings.items()}
        if len(set(values.values())) > 1:
            rows.append({"key": key, **{keys[name]: value for name, value in values.items()}})
    columns = [Column("key", "Setting"), *(Column(keys[name], name) for name in all_facts)]
    commands: list[Mapping[str, Cell]] = [
        {
            "run": name,
            "command": facts.material.provenance.get("command"),
            "started": facts.material.provenance.get("started"),
            "fingerprint": facts.material.fingerprint or None,
        }
        for name, facts in all_facts.items()
    ]
    head = [Column("run", "Run"), Column("command", "Command"), Column("started", "Started")]
    tables: list[Block] = [
        Table("compared-settings", "Settings that differ", columns, rows),
        Table("compared-runs", "Runs", [*head, Column("fingerprint", "Images")], commands),
    ]
    return tabbed("reproduce", "What differs", "", [Tab("", tables)])


# --- words ----------------------------------------------------------------------------------------


def _alerts(
    all_facts: Mapping[str, Facts], entries: Sequence[Entry], unweighed: Sequence[str], common: Common | None
) -> list[Alert]:
    found: list[Alert] = []
    for name in unweighed:
        text = f"It ships nothing yet. {all_facts[name].material.command('train-all --resume')}"
        found.append(Alert("warn", f"{name} is left out", text, "compared-runs"))
    prints = {entry.facts.material.fingerprint for entry in entries}
    if len(prints) > 1:
        text = "Their rows stand side by side, but a difference may be one of the images; only runs about the same "
        found.append(Alert("warn", "Not all runs are about the same images", f"{text}images are tested.", "paired"))
    if entries and common is None:
        text = (
            "There is no attack and budget that the shipped ensembles of all runs met; run the same rdf attack on each."
        )
        found.append(Alert("info", "Not run: a common attack", text, "leaderboard"))
    for name, facts in all_facts.items():
        serious = [alert for alert in alerts_of(facts) if alert.severity == "fail"]
        found += [Alert("fail", f"{name}: {alert.title}", alert.text) for alert in serious]
    return sorted(found, key=lambda alert: ORDER.index(alert.severity))


def _verdict(entries: Sequence[Entry], common: Common | None, alerts: Sequence[Alert]) -> list[str]:
    if not entries:
        return [
            "None of these runs ships anything yet.",
            "Nothing can be compared.",
            "Finish them with rdf train-all --resume.",
        ]
    first = entries[0]
    accuracy = said(first.whole.numbers["accuracy"])
    if first.attacked is not None:
        head = f"{first.name} bears attacks best: {said(first.attacked)} under {_under(common)}, {accuracy} clean."
    else:
        head = f"No attack was met by all; on clean images {first.name} comes first with {accuracy}."
    best = max(entries, key=lambda entry: entry.whole.numbers["accuracy"].value or 0.0)
    others = [entry for entry in entries if entry is not best]
    close = [entry.name for entry in others if _tied(best, entry)]
    second = f"On clean images {best.name} is best with {said(best.whole.numbers['accuracy'])}"
    second += f", not told apart from {listed(close)}." if close else "."
    serious = [alert.title for alert in alerts if alert.severity in ("fail", "warn")]
    beware = (
        f"Beware: {listed(serious)}."
        if serious
        else "Beware: the difference between two training seeds is in no interval."
    )
    return [head, second, beware]


def _tied(a: Entry, b: Entry) -> bool:
    """Say whether two runs about the same images cannot be told apart by accuracy on them."""
    if a.facts.material.fingerprint != b.facts.material.fingerprint:
        return False
    here, there = _aligned(a.whole.ids, b.whole.ids)
    return bool(len(here)) and mcnemar(a.whole.right[here], b.whole.right[there]).p_value >= ALPHA
