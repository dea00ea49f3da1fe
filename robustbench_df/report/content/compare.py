"""The page that compares several runs: paired tests on common images, a leaderboard, and trade-offs with cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustbench_df.errors import UsageError
from robustbench_df.metrics.compare import Comparison
from robustbench_df.report.content.alerts import ORDER, alerts_of
from robustbench_df.report.content.comparable import (
    ALPHA,
    Common,
    Entry,
    common_attacks,
    common_cells,
    entry_of,
    fought_out,
    judged_out,
    rank,
    under,
)
from robustbench_df.report.content.compare_sections import differ, figures_of, leaderboard, tests_of
from robustbench_df.report.content.facts import Facts, facts_of
from robustbench_df.report.content.words import rounded, said
from robustbench_df.report.document import Alert, Document
from robustbench_df.wording import counted, listed


def compare_of(runs: Sequence[Path]) -> Document:
    """Read several runs and return one page that compares their shipped ensembles.

    Paired tests compare runs about the same set of images, on the images that both were judged on, in each case by
    detectors that had not seen them.

    Raises:
        UsageError: there are fewer than two runs.
        RunError: a folder is no run, or one of its files is damaged, of another version or about other images.
    """
    if len(runs) < 2:
        raise UsageError(f"{counted(len(runs), 'run')} cannot be compared; name two or more")
    all_facts = dict(zip(_names(runs), map(facts_of, runs), strict=True))
    unweighed = [name for name, facts in all_facts.items() if facts.shipped is None]
    ready = {name: facts for name, facts in all_facts.items() if facts.shipped is not None}
    common = common_attacks(list(ready.values()))
    cells = common_cells(list(ready.values()))
    entries = [entry_of(name, facts, common, cells) for name, facts in ready.items()]
    entries.sort(key=rank)
    alerts = _alerts(all_facts, entries, unweighed, common)
    document = Document(
        title=f"{counted(len(all_facts), 'run')} compared",
        subtitle=", ".join(all_facts),
        verdict=_verdict(entries, common, alerts),
        alerts=alerts,
        sections=[
            leaderboard(entries, common, cells),
            *tests_of(entries, common),
            figures_of(entries, common),
            differ(all_facts),
        ],
        pictures={},
        provenance={name: dict(facts.material.provenance) for name, facts in all_facts.items()},
        exports={},
    )
    return rounded(document)


def _names(runs: Sequence[Path]) -> list[str]:
    """Name runs by their folders; equal names get a number to distinguish them."""
    found: list[str] = []
    for run in runs:
        name, number = run.resolve().name, 2
        while name in found:
            name, number = f"{run.resolve().name} ({number})", number + 1
        found.append(name)
    return found


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
        beside = _unsure({entry.name: fought_out(first, entry, common) for entry in entries[1:]})
        left = f"{said(first.attacked)} under {under(common)}, {accuracy} clean"
        head = f"{first.name} bears attacks best{beside}: {left}."
    else:
        head = f"No attack was met by all; by what is known {first.name} leads, with {accuracy} on clean images."
    best = max(entries, key=lambda entry: entry.whole.numbers["accuracy"].value or 0.0)
    beside = _unsure({entry.name: judged_out(best, entry) for entry in entries if entry is not best})
    second = f"On clean images {best.name} is best{beside}: {said(best.whole.numbers['accuracy'])}."
    serious = [alert.title for alert in alerts if alert.severity in ("fail", "warn")]
    caution = listed(serious) if serious else "the difference between two training seeds is in no interval"
    return [head, second, f"Beware: {caution}."]


def _unsure(tests: Mapping[str, Comparison | None]) -> str:
    """Say over which runs the first one's lead is not significant or not tested; empty if there are none."""
    equal = [name for name, test in tests.items() if test is not None and test.p_value >= ALPHA]
    untested = [name for name, test in tests.items() if test is None]
    words = [f"not told apart from {listed(equal)}"] if equal else []
    words += [f"not tested against {listed(untested)}, which met other images"] if untested else []
    return f" ({'; '.join(words)})" if words else ""
