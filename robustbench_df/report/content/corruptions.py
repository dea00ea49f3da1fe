"""Section 4: the accuracy that is left under corruptions, and whether the ranking or the threshold fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustbench_df import corruption_summary
from robustbench_df.corruption_summary import CLEAN, COMMON, Row
from robustbench_df.errors import DataError
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.families import CHAINS, FAMILIES, families, family_of
from robustbench_df.report.content.pieces import Piece, Rows, Shelf, Shot, Tab, picture_path, tabbed, wrapped
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import NOT_APPLICABLE, PARTS, PHASE_HINT, defined, estimate, label_of
from robustbench_df.report.document import Block, Cell, Column, Estimate, Heat, Table, Text
from robustbench_df.wording import counted

MOST_MAPS = 4
"""Most detectors that get heat maps of their own: two maps with some 150 cells each."""


def corruptions_section(facts: Facts) -> Piece:
    """Build the section."""
    shelf = Shelf()
    gallery = _gallery(facts, shelf)
    images = [Tab("Images", gallery)]
    if not facts.scores:
        text = Text(f"Not run. Make it with: {facts.material.command('corrupt')}")
        return Piece(tabbed("corruptions", "Corruptions", "", [Tab("Numbers", [text]), *images]), shelf.pictures)
    rows = corruption_summary.rows(facts.scores)
    pairs = corruption_summary.detectors(facts.scores)
    clean = next(facts.damaged[key] for key in facts.scores if key.corruption == CLEAN)
    lead = (
        f"Judged as deployed on {len(clean.table):,} {PARTS.get(clean.part, clean.part)}, the same under every "
        "corruption. A large threshold gap beside a high AUC: the threshold failed, the ranking stands. A small gap "
        "beside a low AUC: the ranking failed."
    )
    shown = _mapped(facts, pairs)
    heats: list[Block] = []
    for pair in shown:
        heats += [Text(label_of(*pair), head=True), *_heats(facts, pair)]
    if len(shown) < len(pairs):
        left = ", ".join(label_of(*pair) for pair in pairs if pair not in shown)
        heats.append(Text(f"Not drawn, to keep the page small: {left}. The table beside this has their means."))
    tabs = [
        Tab("Overview", [*_overview(facts, rows, pairs), *_errors(facts), _family_table(facts, pairs)]),
        Tab("By severity", heats),
        Tab("Threshold or ranking", [_table(facts, rows)]),
        *images,
    ]
    return Piece(tabbed("corruptions", "Corruptions", lead, tabs), shelf.pictures)


def _mapped(facts: Facts, pairs: Sequence[Pair]) -> list[Pair]:
    """The detectors that get their own heat maps: the ensemble and those best on clean images, in the run's order."""

    def place(pair: Pair) -> tuple[bool, float]:
        subject = facts.subjects.get(pair)
        return pair[0] != "ensemble", -(subject.numbers["accuracy"].value or 0.0) if subject else 0.0

    kept = sorted(pairs, key=place)[:MOST_MAPS]
    return [pair for pair in pairs if pair in kept]


def _names(facts: Facts) -> list[str]:
    """Corruptions that were run, family by family."""
    run = list(dict.fromkeys(key.corruption for key in facts.scores if key.corruption != CLEAN))
    order = [*FAMILIES, "other", CHAINS]
    return sorted(run, key=lambda name: (order.index(family_of(name)), name))


def _overview(facts: Facts, rows: Sequence[Row], pairs: Sequence[Pair]) -> list[Block]:
    found = {(row.corruption, row.model, row.phase): row for row in rows}
    names = _names(facts)
    columns = [label_of(*pair) for pair in pairs]
    clean = [next(s for k, s in facts.scores.items() if k[:2] == pair and k.corruption == CLEAN) for pair in pairs]
    if not names:
        return []

    def heat(id: str, title: str, label: str, values: list[list[float | None]], own: list[float | None]) -> Heat:
        worst = min(
            ((v, name, column) for name, row in zip(names, values, strict=True)
             for column, v in zip(columns, row, strict=True) if v is not None), default=None)  # fmt: skip
        alt = f"{title}. Lowest: {worst[2]} under {worst[1]}, {worst[0]:.1%}." if worst else title
        return Heat(id, title, alt, [CLEAN, *names], columns, [own, *values], label)

    def of(name: str, attribute: str) -> list[float | None]:
        own = [found.get((name, *pair)) for pair in pairs]
        if attribute == "auc":
            return [defined(row.auc) if row else None for row in own]
        return [row.accuracy.value if row else None for row in own]

    mean = "mean over the severities"
    accuracy = [of(name, "accuracy") for name in names]
    auc = [of(name, "auc") for name in names]
    return [
        heat("corrupted-accuracy", f"Accuracy, {mean}", "accuracy", accuracy, [s.accuracy.value for s in clean]),
        heat("corrupted-auc", f"AUC, {mean}", "AUC", auc, [defined(s.auc.value) for s in clean]),
    ]


def _heats(facts: Facts, pair: Pair) -> list[Heat]:
    """Heat maps of a detector's accuracy and AUC by corruption × severity; chains have no severity, so no cell."""
    cells = {key[2:]: score for key, score in facts.scores.items() if key[:2] == pair and key.severity}
    severities = sorted({severity for _, severity in cells})
    names = [name for name in _names(facts) if any((name, s) in cells for s in severities)]
    if not names:
        return []
    heats = []
    for label in ("accuracy", "AUC"):
        values = [
            [
                None if score is None else defined((score.accuracy if label == "accuracy" else score.auc).value)
                for score in (cells.get((name, severity)) for severity in severities)
            ]
            for name in names
        ]
        lowest = min((v for row in values for v in row if v is not None), default=None)
        heats.append(
            Heat(
                id=f"severity-{label.lower()}-{facts.keys[pair[0]]}-{pair[1]}",
                title=f"{label[0].upper()}{label[1:]} of {label_of(*pair)} by severity",
                alt=f"{label} by corruption and severity"
                + (f"; the lowest is {lowest:.1%}." if lowest is not None else ""),
                rows=names,
                columns=[str(severity) for severity in severities],
                values=values,
                label=label,
            )
        )
    return heats


def _errors(facts: Facts) -> list[Block]:
    """Mean error and mCE against the first detector."""
    reference = corruption_summary.detectors(facts.scores)[0]
    try:
        found = corruption_summary.errors(facts.scores, reference)
    except DataError as error:
        return [Text(f"mCE: not run, for not every detector has the same cells ({error}).")]
    if not found:
        return []
    names = corruption_summary.counted(facts.scores)
    which = "the 15 of ImageNet-C" if tuple(names) == COMMON else counted(len(names), "corruption")
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": row.model,
            "phase": row.phase,
            "clean": row.clean_error,
            "mean": estimate(row.mean_error) if row.mean_error else row.errors.mean_error,
            "mce": estimate(row.mce) if row.mce else Estimate(defined(row.errors.mce)),
            "relative": Estimate(defined(row.errors.relative_mce)),
        }
        for row in found
    ]
    name = label_of(*reference)
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("clean", "Clean error", "percent", better="lower"),
        Column("mean", "Mean error", "percent", better="lower"),
        Column("mce", "mCE", "percent", f"Errors as a share of those of {name}: 100% is as bad as it.", "lower"),
        Column("relative", "Relative mCE", "percent", "The same for the rise of the errors over clean.", "lower"),
    ]
    note = "Published mCE is relative to AlexNet on ImageNet and cannot be compared."
    if found[0].errors.undefined:
        left = ", ".join(found[0].errors.undefined)
        note += f" Left out of the relative mCE, for they do not hurt the reference: {left}."
    return [Table("mce-table", f"Errors over {which}; reference: {name}", columns, rows, note)]


def _family_table(facts: Facts, pairs: Sequence[Pair]) -> Table:
    by_pair = {pair: {family.name: family for family in families(facts, pair)} for pair in pairs}
    names = [name for name in (*FAMILIES, "other", CHAINS) if any(name in own for own in by_pair.values())]
    rows: list[Mapping[str, Cell]] = [
        {
            "family": name,
            "corruptions": ", ".join(next(own[name].corruptions for own in by_pair.values() if name in own)),
            **{_key(facts, pair): own[name].accuracy if name in own else None for pair, own in by_pair.items()},
        }
        for name in names
    ]
    columns = [
        Column("family", "Family"),
        *(Column(_key(facts, pair), label_of(*pair), "percent", better="higher") for pair in pairs),
        Column("corruptions", "Corruptions"),
    ]
    note = (
        "Means over a family's corruptions, each the mean of its severities. The interval is that of the number of "
        "images."
    )
    return Table("families-table", "Accuracy by family", columns, rows, note)


def _key(facts: Facts, pair: Pair) -> str:
    return f"{facts.keys[pair[0]]}-{pair[1]}"


def _table(facts: Facts, found: Sequence[Row]) -> Table:
    banded = any(row.covered == row.covered for row in found)
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": row.model,
            "phase": row.phase,
            "corruption": row.corruption,
            "family": family_of(row.corruption),
            "accuracy": estimate(row.accuracy),
            "lost": row.lost,
            "auc": Estimate(defined(row.auc)),
            "gap": Estimate(defined(row.threshold_gap)),
            "fails": row.failure or NOT_APPLICABLE,
            "covered": Estimate(defined(row.covered)),
        }
        for row in found
    ]
    clean = [(key, score) for key, score in facts.scores.items() if key.corruption == CLEAN]
    rows += [
        {
            "detector": key.model,
            "phase": key.phase,
            "corruption": CLEAN,
            "family": NOT_APPLICABLE,
            "accuracy": estimate(score.accuracy),
            "lost": 0.0,
            "auc": Estimate(defined(score.auc.value)),
            "gap": Estimate(defined(score.threshold_gap)),
            "fails": NOT_APPLICABLE,
            "covered": Estimate(defined(score.band.coverage) if score.band else None),
        }
        for key, score in clean
    ]
    alpha = facts.material.config.ensemble.alpha
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("corruption", "Corruption"),
        Column("family", "Family"),
        Column("accuracy", "Accuracy", "percent", "Mean over the severities.", "higher"),
        Column("lost", "Lost", "percent", "Points below clean.", "lower"),
        Column("auc", "AUC", "number", better="higher"),
        Column(
            "gap", "Threshold gap", "percent", "What the best threshold for this corruption would win back.", "lower"
        ),
        Column("fails", "What fails", hint="threshold: at least half of the loss comes back with another threshold."),
    ]
    if banded:
        hint = f"Images whose true class the abstention band leaves possible; asked for: {1 - alpha:g}."
        columns.append(Column("covered", "Not excluded", "percent", hint, "higher"))
    note = "The threshold gap is read off these very images, which flatters it: compare it with the clean row's."
    return Table("corruptions-table", "What fails, the threshold or the ranking?", columns, rows, note, "detector")


def _gallery(facts: Facts, shelf: Shelf) -> list[Block]:
    """Every corruption on one image, from `rdf explain`: at all severities, or at one if there is no room for all."""
    entries = (facts.material.specimens or {}).get("corruptions", ())
    if not entries:
        return [Text(f"Examples: not run. Make them with: {facts.material.command('explain')}")]
    folder = facts.material.run.file("explain", "pictures")
    severities = sorted({int(e["severity"]) for e in entries})
    found: dict[str, dict[int, Shot]] = {}
    for entry in entries:
        name, severity = str(entry["corruption"]), int(entry["severity"])
        shot = Shot(picture_path(folder, str(entry["picture"])), "", f"{name}, severity {severity}")
        found.setdefault(name, {})[severity] = shot
    rows = [(name, [own.get(severity) for severity in severities]) for name, own in found.items()]
    title = f"Every corruption, on {entries[0]['image_id']}"
    if shelf.holds([rows]):
        return list(shelf.gallery(Rows("corruption-examples", title, [f"severity {s}" for s in severities], rows)))
    middle = severities[len(severities) // 2]
    shots = [own[middle]._replace(caption=name) for name, own in found.items() if middle in own]
    note = "The other severities are in the run's explain/pictures."
    return list(
        shelf.gallery(Rows("corruption-examples", f"{title}, severity {middle}", (), wrapped([("", shots)]), note))
    )
