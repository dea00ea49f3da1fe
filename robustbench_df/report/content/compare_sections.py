"""The sections of a page that compares runs: leaderboard, paired tests, trade-offs, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from robustbench_df.metrics.compare import Comparison, holm, mcnemar, paired_delong
from robustbench_df.report.content.comparable import (
    ALPHA,
    Common,
    Entry,
    aligned,
    attacks_on,
    fought_out,
    same_images,
    under,
)
from robustbench_df.report.content.evaluation import roc_of
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.pieces import Tab, tabbed
from robustbench_df.report.content.reproduce import default_settings, settings_of
from robustbench_df.report.content.words import DELONG, SYMBOLS, WILSON, defined, difference, keys_of, said
from robustbench_df.report.document import (
    Block,
    Cell,
    Column,
    Curves,
    Estimate,
    Points,
    Section,
    Series,
    Table,
    Text,
)
from robustbench_df.report.formatting import slug
from robustbench_df.wording import counted


def leaderboard(entries: Sequence[Entry], common: Common | None, cells: frozenset[tuple[str, int]]) -> Section:
    """Build the section of the leaderboard; the entries are already ranked."""
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
        Column("attacked", "Under attack", "percent", f"Worst of {under(common)}; {WILSON}.", "higher"),
        Column("corrupted", "Under corruptions", "percent", damage, "higher"),
        Column("accuracy", "Clean", "percent", f"At the calibrated threshold; {WILSON}.", "higher"),
        Column("auc", "AUC", "number", f"Clean; {DELONG}.", "higher"),
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


def tests_of(entries: Sequence[Entry], common: Common | None) -> list[Section]:
    """Test every pair of runs about the same set of images, on the images that both were judged on."""
    clean: list[tuple[Entry, Entry, Comparison, Comparison | None]] = []
    attacked: list[tuple[Entry, Entry, Comparison, Comparison | None]] = []
    for a, b in combinations(entries, 2):
        here, there = aligned(a.whole.ids, b.whole.ids)
        if len(here) and same_images(a, b):
            area = paired_delong(a.whole.judged.margin[here], b.whole.judged.margin[there], a.whole.labels[here])
            clean.append((a, b, mcnemar(a.whole.right[here], b.whole.right[there]), area))
        fought = fought_out(a, b, common)
        if fought is not None:
            attacked.append((a, b, fought, None))
    blocks: list[Block] = []
    if clean:
        blocks.append(_test_table("paired-clean", "Clean images", clean))
    if attacked:
        blocks.append(_test_table("paired-attacked", f"Under the worst of {under(common)}", attacked))
    if not blocks:
        blocks.append(
            Text("No two of these runs were judged on a common image, so none can be tested against another.")
        )
    lead = (
        "The same images decide, so that easy and hard ones cancel. p is adjusted for the number of comparisons in its "
        f"table (Holm); from {ALPHA:g} on two runs cannot be told apart."
    )
    return [tabbed("paired", "Paired tests", lead, [Tab("", blocks)])]


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


def figures_of(entries: Sequence[Entry], common: Common | None) -> Section:
    """Build the section of trade-offs: Pareto fronts, ROC, accuracy over the budget."""
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
    """Accuracy over the budget under each attack that all runs have."""
    if common is None:
        return []
    norm, _, attacks = common
    figures = []
    for attack in attacks:
        series = []
        for entry in entries:
            rows = [row for (n, _, name), row in attacks_on(entry.facts).items() if (n, name) == (norm, attack)]
            rows.sort(key=lambda row: row.cell.eps)
            points = [(0.0, rows[0].clean), *((row.cell.eps, row.accuracy) for row in rows)]
            x, known = [eps for eps, _ in points], [value for _, value in points]
            ends = [e.low for e in known], [e.high for e in known]
            series.append(Series(entry.name, x, [e.value for e in known], *ends))
        figures.append(
            Curves(
                id=f"compare-eps-{slug(attack)}",
                title=f"Accuracy under {attack}",
                alt=f"Accuracy of what each run ships under {attack}, over ε.",
                x_label=f"ε, {SYMBOLS.get(norm, norm)}, pixels of [0, 1]",
                y_label="accuracy under attack",
                series=series,
                percent=True,
            )
        )
    return figures


def differ(all_facts: Mapping[str, Facts]) -> Section:
    """Build the section with the commands, and the settings that differ between the runs."""
    keys = keys_of(all_facts)
    settings = {name: dict(settings_of(facts.material.config)) for name, facts in all_facts.items()}
    default = default_settings()
    rows: list[Mapping[str, Cell]] = []
    for key in sorted({key for own in settings.values() for key in own}):
        values = {name: own.get(key, default.get(key, "")) for name, own in settings.items()}
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
