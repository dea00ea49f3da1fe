"""Section 3: the accuracy that is left under attack, before and after adversarial fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustbench_df.attacks.summary import fooled_by
from robustbench_df.metrics.calibration import Decision
from robustbench_df.metrics.scores import margins
from robustbench_df.report.content.attack_checks import black_boxes, checks, transfer
from robustbench_df.report.content.attack_images import attacked, saved
from robustbench_df.report.content.facts import AttackRow, Facts
from robustbench_df.report.content.judging import groups_in, measured
from robustbench_df.report.content.pieces import Piece, Shelf, Tab, tabbed
from robustbench_df.report.content.reading import PHASES, Pair
from robustbench_df.report.content.words import (
    NOT_APPLICABLE,
    PARTS,
    PHASE,
    PHASE_HINT,
    SYMBOLS,
    WILSON,
    label_of,
    said,
    threat,
)
from robustbench_df.report.document import Block, Cell, Column, Curves, Estimate, Heat, Series, Table, Text
from robustbench_df.summary import judge


def attacks_section(facts: Facts) -> Piece:
    """Build the section and the composed figures of the recipe."""
    shelf = Shelf()
    curves, shown = _curves(facts), attacked(facts, shelf)
    exports: dict[str, list[str]] = {}
    for (model, phase), id in [(pair, block.id) for pair, block in curves] + [
        (pair, block.id) for pair, block in shown
    ]:
        exports.setdefault(f"{facts.keys[model]}_adv_{_WHEN[phase]}", []).append(id)
    tables: list[Block] = [_table(facts)] if facts.attacks else []
    if not facts.attacks:
        command = facts.material.command("attack --suite standard --eps 8/255")
        tables.append(Text(f"Not run. Make it with: {command}"))
    tabs = [
        Tab("Accuracy over ε", [*_overview(facts), *_by_detector(curves)]),
        Tab("Every attack", [*tables, *_one_step(facts), *_parts(facts)]),
        Tab("Transfer", transfer(facts)),
        Tab("Checks", checks(facts)),
        Tab("Images", [*(gallery for _, gallery in shown), *saved(facts, shelf)]),
        Tab("Black box", black_boxes(facts)),
    ]
    lead = (
        "Detectors are attacked as deployed, with their threshold; the ensemble as one. Only images that are right "
        "when clean are attacked, each ends at its first success, and any image that the attack asked about counts. ε "
        "is in pixels of [0, 1]."
    )
    return Piece(tabbed("attacks", "Attacks", lead, tabs), shelf.pictures, exports)


_WHEN = {"base": "BEFORE", "final": "AFTER"}
"""The recipe's names of the phases."""


def worst_at_least_budget(facts: Facts) -> AttackRow | None:
    """The worst attack on the shipped ensemble at the smallest budget that was tried; in L∞ if any was."""
    if facts.shipped is None:
        return None
    own = [row for row in facts.attacks if row.pair == ("ensemble", facts.shipped.phase) and row.cell.eps > 0]
    own = [row for row in own if row.cell.norm == "linf"] or own
    least = min((row.cell.eps for row in own), default=0.0)
    return min((row for row in own if row.cell.eps == least), key=_strength, default=None)


def _strength(row: AttackRow) -> tuple[float, bool]:
    """Sort key: by the accuracy that is left; among equal ones FGSM comes last, because it says least."""
    return row.accuracy.value or 0.0, row.cell.attack == "fgsm"


def _overview(facts: Facts) -> list[Heat]:
    """Heat maps of all results: detector × attack and budget."""
    if not facts.attacks:
        return []
    pairs = list(dict.fromkeys(row.pair for row in facts.attacks))
    kinds = sorted({_kind(row) for row in facts.attacks}, key=lambda kind: (kind[0], kind[1] != "fgsm", *kind[1:]))
    found = {(row.pair, _kind(row)): row.accuracy.value for row in facts.attacks}
    several = len({norm for norm, _, _ in kinds}) > 1
    names = [
        f"{attack} {SYMBOLS.get(norm, norm)} {eps:g}" if several else f"{attack} {eps:g}" for norm, attack, eps in kinds
    ]
    values = [[found.get((pair, kind)) for kind in kinds] for pair in pairs]
    known = [(v, label_of(*pair), name) for pair, own in zip(pairs, values, strict=True)
             for name, v in zip(names, own, strict=True) if v is not None]  # fmt: skip
    lowest = min(known)
    return [
        Heat(
            id="attack-accuracy",
            title="Accuracy under every attack, by ε",
            alt=f"Accuracy under attack. The lowest is that of {lowest[1]} under {lowest[2]}: {lowest[0]:.1%}.",
            rows=[label_of(*pair) for pair in pairs],
            columns=names,
            values=values,
            label="accuracy",
        )
    ]


def _kind(row: AttackRow) -> tuple[str, str, float]:
    return row.cell.norm, row.cell.label, row.cell.eps


# --- accuracy over epsilon ------------------------------------------------------------------------


def _curves(facts: Facts) -> list[tuple[Pair, Curves]]:
    """One figure per detector and phase, with a line per attack that begins at the clean accuracy."""
    found = []
    norms = list(dict.fromkeys(row.cell.norm for row in facts.attacks))
    for model in dict.fromkeys(row.cell.model for row in facts.attacks):
        for norm in norms:
            for phase in PHASES:
                rows = [row for row in facts.attacks if (row.pair, row.cell.norm) == ((model, phase), norm)]
                if rows:
                    key = f"over-eps-{facts.keys[model]}-{phase}" + (f"-{norm}" if norm != norms[0] else "")
                    found.append(((model, phase), _curve(key, model, phase, norm, rows)))
    return found


def _by_detector(curves: Sequence[tuple[Pair, Curves]]) -> list[Block]:
    """Put each detector's figures under its name, so that before and after are side by side."""
    found: list[Block] = []
    for model in dict.fromkeys(model for (model, _), _ in curves):
        found += [Text(model, head=True), *(curve for pair, curve in curves if pair[0] == model)]
    return found


def _curve(id: str, model: str, phase: str, norm: str, rows: Sequence[AttackRow]) -> Curves:
    series, words = [], []
    for attack in dict.fromkeys(row.cell.label for row in rows):
        own = sorted((row for row in rows if row.cell.label == attack), key=lambda row: row.cell.eps)
        points = [(row.cell.eps, row.accuracy) for row in own]
        if points[0][0] > 0:
            points.insert(0, (0.0, own[0].clean))  # at ε = 0: the clean accuracy on the same images
        known = [estimate for _, estimate in points]
        series.append(
            Series(
                attack,
                [eps for eps, _ in points],
                [e.value for e in known],
                [e.low for e in known],
                [e.high for e in known],
                dashed=attack == "fgsm",
            )
        )
        words.append(f"{attack}: " + ", ".join(f"{said(e)} at {eps:g}" for eps, e in points))
    n = sorted({row.accuracy.n or 0 for row in rows})
    return Curves(
        id=id,
        title=f"{model} {PHASE[phase]}",
        alt=f"Accuracy of {model} {PHASE[phase]} over ε. {'; '.join(words)}.",
        x_label=f"ε, {SYMBOLS.get(norm, norm)}, pixels of [0, 1]",
        y_label="accuracy under attack",
        series=series,
        percent=True,
        note=f"{' to '.join(f'{k:,}' for k in dict.fromkeys((n[0], n[-1])))} images; bands are 95%.",
    )


# --- tables ---------------------------------------------------------------------------------------


def _table(facts: Facts) -> Table:
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": row.cell.model,
            "phase": row.cell.phase,
            "attack": row.cell.label,
            "norm": SYMBOLS.get(row.cell.norm, row.cell.norm),
            "eps": row.cell.eps,
            "clean": row.clean,
            "accuracy": row.accuracy,
            "auc": row.auc,
            "fake_to_real": row.fake_to_real,
            "real_to_fake": row.real_to_fake,
            "work": f"{row.forwards:.1f} + {row.backwards:.1f}",
            "not_finite": row.not_finite,
            "seconds": row.cell.notes.get("seconds"),
            "n": row.accuracy.n,
        }
        for row in facts.attacks
    ]
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("attack", "Attack", hint="standard: binary AutoAttack (APGD, FAB, Square); quick: FGSM and PGD-20."),
        Column("norm", "Norm"),
        Column("eps", "ε", "text", "Budget in pixels of [0, 1]; times 255 for grey levels."),
        Column("clean", "Clean accuracy", "percent", "On the same images.", "higher"),
        Column("accuracy", "Accuracy under attack", "percent", f"Share of all images; {WILSON}.", "higher"),
        Column("auc", "AUC after", "number", "Of the scores after the attack; 0.5 is chance.", "higher"),
        Column("fake_to_real", "Fake → real", "percent", "Rightly recognised fakes that were passed off.", "lower"),
        Column("real_to_fake", "Real → fake", "percent", "Rightly recognised reals that were discredited.", "lower"),
        Column(
            "work",
            "F + B",
            hint="Forward and backward passes per image; what budgets share is counted at the first, as is its time.",
        ),
        Column("not_finite", "Not finite", "count", "Images on which the detector answered with no number.", "lower"),
        Column("seconds", "Time", "seconds"),
        Column("n", "Images", "count"),
    ]
    part = facts.attacks[0].cell.part
    title = f"Every detector under every attack ({PARTS.get(part, part)})"
    return Table("attacks-table", title, columns, rows, group="attack")


def _parts(facts: Facts) -> list[Block]:
    """Number of images that each attack of a suite fooled and the previous ones had not."""
    rows: list[Mapping[str, Cell]] = []
    suites: dict[str, None] = {}
    for row in facts.attacks:
        names = [str(spec.get("name")) for spec in row.cell.notes.get("attacks", ())]
        if len(names) > 1 and "by" in row.cell.table:
            suites |= dict.fromkeys(names)
            fooled = fooled_by(row.cell.table[row.cell.table["success"]], names)
            head: dict[str, Cell] = {
                "detector": row.cell.model,
                "phase": row.cell.phase,
                "suite": row.cell.attack,
                "eps": row.cell.eps,
            }
            rows.append({**head, **{name: fooled.get(name, NOT_APPLICABLE) for name in names}})
    rows = [{**dict.fromkeys(suites, NOT_APPLICABLE), **row} for row in rows]
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase"),
        Column("suite", "Suite"),
        Column("eps", "ε", "text"),
        *(
            Column(name, name, "count", "Images fooled that the attacks before it had left standing.")
            for name in suites
        ),
    ]
    title = "What each attack of a suite added"
    return [Table("suite-table", title, columns, rows, group="suite")] if rows else []


def after_one_step(facts: Facts, pair: Pair) -> dict[str, Estimate] | None:
    """A detector's numbers under the FGSM that `train_all` runs, with its decision; None if it was not run."""
    predictions, subject = facts.material.stepped.get(pair), facts.subjects.get(pair)
    if predictions is None or subject is None:
        return None
    own = predictions.part(subject.part)
    decision = subject.decision or Decision()
    if not len(own.table):
        return None
    return measured(judge(margins(own.logits), decision), own.labels, groups_in(facts.material, own.table))


def _one_step(facts: Facts) -> list[Block]:
    """The FGSM that `train_all` runs on every detector: one gradient step with the ε that also chose checkpoints."""
    found = {pair: after_one_step(facts, pair) for pair in facts.material.stepped}
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": model,
            "phase": phase,
            "accuracy": numbers["accuracy"],
            "auc": numbers["auc"],
            "n": numbers["accuracy"].n,
        }
        for (model, phase), numbers in found.items()
        if numbers is not None
    ]
    eps = facts.material.config.phase2.select_epsilon
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase", hint=PHASE_HINT),
        Column("accuracy", "Accuracy", "percent", better="higher"),
        Column("auc", "AUC", "number", better="higher"),
        Column("n", "Images", "count"),
    ]
    title = f"One gradient step (FGSM, {threat('linf', eps)}), as training tried it"
    note = "Every image is attacked, also those that are wrong when clean. Surviving one step makes no detector robust."
    return [Table("one-step-table", title, columns, rows, note, "phase")] if rows else []
