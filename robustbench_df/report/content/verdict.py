"""The verdict at the top of the page: what to ship, how far to trust it, what to beware of.

Every number in it is also in a table.
"""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_df.metrics.compare import mcnemar
from robustbench_df.report.content.attacks import after_one_step, worst_at_least_budget
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.families import worst_family
from robustbench_df.report.content.judging import Subject
from robustbench_df.report.content.words import PARTS, PHASE, pixels, said, threat
from robustbench_df.report.document import Alert
from robustbench_df.wording import counted, listed

SUITES = {"standard": "AutoAttack for two classes", "quick": "FGSM and 20 steps of PGD"}
"""The suites' names as written in sentences."""

ALPHA = 0.05
"""A difference with a p-value of at least this is not significant."""


def verdict_of(facts: Facts, alerts: Sequence[Alert]) -> list[str]:
    """Write the three sentences."""
    shipped = facts.shipped
    if shipped is None:
        missing = f"finish the run with: {facts.material.command('train-all --resume')}"
        return [
            f"Nothing can be shipped yet: no ensemble has been weighed; {missing}.",
            _so_far(facts),
            _beware(alerts),
        ]
    return [_ship(facts, shipped), _trust(facts, shipped), _beware(alerts)]


def _so_far(facts: Facts) -> str:
    if not facts.subjects:
        return "No detector has been judged."
    best = max(facts.subjects.values(), key=lambda s: s.numbers["auc"].value or 0.0)
    n = counted(len(best.labels), "image")
    return (
        f"So far the best is {best.model} ({best.phase}): AUC {said(best.numbers['auc'], 'number')} on {n}, before "
        "calibration."
    )


def _ship(facts: Facts, shipped: Subject) -> str:
    numbers = shipped.numbers
    kind = facts.material.shipped[0] if facts.material.shipped else ""
    names = facts.models
    what = f"{names[0]}" if len(names) == 1 else f"the ensemble of {len(names)} detectors ({kind} weights)"
    where = f"{len(shipped.labels):,} {PARTS.get(shipped.part, shipped.part)}"
    text = (
        f"Ship {what}, {PHASE[shipped.phase]}: it calls {said(numbers['accuracy'])} of {where} rightly, with an AUC of "
        f"{said(numbers['auc'], 'number')}"
    )
    return f"{text}{_beside(facts, shipped)}."


def _beside(facts: Facts, shipped: Subject) -> str:
    """Say whether the ensemble is better than its best member."""
    best = facts.best
    if best is None:
        return ""
    test = mcnemar(shipped.right, best.right)
    accuracy = said(best.numbers["accuracy"])
    p = f"exact McNemar p = {test.p_value:.2g}"
    if test.p_value >= ALPHA:
        return (
            f"; its accuracy cannot be told apart from that of its best member, {best.model} ({accuracy}; {p}), which "
            "costs less"
        )
    better = "better" if test.difference > 0 else "worse"
    return f"; that is {better} than its best member, {best.model} ({accuracy}; {p})"


def _trust(facts: Facts, shipped: Subject) -> str:
    under = worst_family(facts, (shipped.model, shipped.phase))
    damage = under or "how it bears corruptions was not run"
    return f"{_attacked(facts)}; {damage}."


def _attacked(facts: Facts) -> str:
    worst = worst_at_least_budget(facts)
    if worst is None:
        return _one_step(facts)
    cell = worst.cell
    may = f"who may change every pixel by up to {pixels(cell.eps)}"
    who = f"An attacker {may if cell.norm == 'linf' else f'within {threat(cell.norm, cell.eps)}'}"
    how = f"{cell.attack} ({SUITES[cell.attack]})" if cell.attack in SUITES else cell.label
    n = counted(worst.accuracy.n or 0, "image")
    return f"{who} leaves {said(worst.accuracy)} of {n} right, {said(worst.clean)} when clean, with {how}"


def _one_step(facts: Facts) -> str:
    """Say what is known about attacks without `rdf attack`."""
    numbers = after_one_step(facts, ("ensemble", facts.shipped.phase)) if facts.shipped else None
    if numbers is None:
        return "How it stands up to an attacker was not run"
    budget = threat("linf", facts.material.config.phase2.select_epsilon)
    left = said(numbers["accuracy"])
    return f"One gradient step of {budget} leaves {left} right, and an attack that takes more steps was not run"


def _beware(alerts: Sequence[Alert]) -> str:
    serious = [alert.title for alert in alerts if alert.severity in ("fail", "warn")]
    if serious:
        fails = sum(alert.severity == "fail" for alert in alerts)
        count = f"{counted(fails, 'finding')} {'fails' if fails == 1 else 'fail'}: " if fails else ""
        chosen = [alert.title for alert in alerts if alert.severity == "fail"] if fails else serious
        return f"Beware: {count}{listed(chosen)}."
    missing = [alert.title.removeprefix("Not run: ") for alert in alerts if alert.title.startswith("Not run: ")]
    if missing:
        return f"Beware: nothing failed, but {listed(missing, 5)} {'was' if len(missing) == 1 else 'were'} not run."
    return (
        "Beware: nothing that was looked at failed; another data set may be harder, and another training run differs."
    )
