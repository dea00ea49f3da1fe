"""What the reader must know before quoting a number, worst first."""

from __future__ import annotations

from collections.abc import Iterator

from robustbench_df.metrics.intervals import wilson
from robustbench_df.report.content.attacks import worst_at_least_budget
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import disagreements
from robustbench_df.report.content.words import OPTIMISTIC, PARTS, said, threat
from robustbench_df.report.document import Alert, Severity
from robustbench_df.wording import counted, listed

ORDER = ("fail", "warn", "info")

FEW = 200
"""With fewer images than this, the interval of a share of about 90% is wider than ± 4 points (Wilson)."""


def alerts_of(facts: Facts) -> list[Alert]:
    """Collect all alerts, worst first; those of one severity are in the order of the page."""
    found = [*_unfinished(facts), *_audit(facts), *_files(facts), *_numbers(facts), *_checks(facts), *_missing(facts)]
    return sorted(found, key=lambda alert: ORDER.index(alert.severity))


def _unfinished(facts: Facts) -> Iterator[Alert]:
    material = facts.material
    if material.run.finished:
        return
    wanted = [(name, phase) for name in facts.models for phase in ("base", "final")]
    missing = [f"{name} ({phase})" for name, phase in wanted if (name, phase) not in material.clean]
    what = f"Not judged yet: {listed(missing, 6)}." if missing else "Training is over, the rest is not."
    text = f"{what} Go on with: {material.command('train-all --resume')}"
    yield Alert("warn", "The run is not finished", text, "detectors")


def _audit(facts: Facts) -> Iterator[Alert]:
    audit = facts.material.audit
    recorded = facts.material.provenance.get("audit", {}).get("allowed", [])
    allowed = set(recorded) | set(audit.allowed if audit else ())
    if allowed:
        text = "--allow-findings was given: what the audit failed still stands in these numbers."
        yield Alert("fail", f"Trained in spite of a failing audit: {', '.join(sorted(allowed))}", text, "audit-table")
    elif facts.material.config.allow_findings:
        yield Alert("info", "Trained with --allow-findings", "Nothing failed when the run began.", "data")
    for finding in audit.findings if audit else ():
        if finding.severity in ("fail", "warn"):
            cured = audit is not None and finding.id in audit.cured
            severity: Severity = "info" if cured else finding.severity
            taken = "The run's own split takes care of it" if cured else finding.remedy
            text = f"{_ended(finding.detail)} {_ended(taken)}"
            # Not the finding's title: it says what should hold, and beside "Fails" one would read that it does hold.
            yield Alert(severity, f"Audit: {finding.id.replace('-', ' ')}", text, "audit-table")
    if facts.material.findings:
        count = len(facts.material.findings)
        kinds = listed(sorted({str(f["kind"]) for f in facts.material.findings}), 4)
        yield Alert("warn", f"{counted(count, 'finding')} in the source", f"{kinds}: listed below.", "findings-table")


def _ended(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else f"{text}."


def _files(facts: Facts) -> Iterator[Alert]:
    lines = disagreements(facts.material, facts.subjects)
    if lines:
        again = facts.material.command("train-all --resume")
        text = f"This page shows the predictions' numbers. {listed(lines, 2)}. Delete results.json, then: {again}"
        yield Alert("fail", "results.json and the predictions disagree", text, "detectors-table")
    if facts.stale:
        names = sorted(path.name for path in facts.stale)
        text = (
            f"Left out: {listed(names, 2)}. Their clean answers are not those of the detectors, weights and thresholds "
            "that ship now; delete them and run rdf attack or rdf corrupt again."
        )
        title = f"{counted(len(names), 'cell')} made with another detector or threshold"
        yield Alert("warn", title, text, "attacks")
    if facts.superseded:
        names = sorted(path.name for path in facts.superseded)
        text = f"Left out: {listed(names, 2)}. Other cells are of a better part, judged more images, or fit the rest."
        yield Alert("info", f"{counted(len(names), 'cell')} left out", text, "attacks")


def _checks(facts: Facts) -> Iterator[Alert]:
    """Yield one alert per kind of failed or warned check, those that concern the shipped ensemble first.

    An alert has the detail of its first detector, the shipped ensemble if possible, and names the others.
    """
    shipped = f"ensemble · {facts.shipped.phase}" if facts.shipped else ""
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for name, checks in facts.material.checks.items():
        for check in checks:
            if check["status"] in ("fail", "warn"):
                kind = (str(check["status"]), str(check["id"]))
                found.setdefault(kind, []).append((name, str(check["detail"]), str(check["remedy"])))
    for seen in found.values():
        seen.sort(key=lambda one: one[0] != shipped)
    for (status, id), seen in sorted(found.items(), key=lambda item: item[1][0][0] != shipped):
        first, detail, remedy = seen[0]
        others = [name for name in dict.fromkeys(name for name, _, _ in seen) if name != first]
        also = f" Also: {listed(others)}." if others else ""
        text = f"{first}: {_ended(detail)} {_ended(remedy)}{also}"
        yield Alert(status, f"Attack check: {id}", text, "checks-table")  # type: ignore[arg-type]


def _numbers(facts: Facts) -> Iterator[Alert]:
    shipped = facts.shipped
    if shipped is None:
        return
    if shipped.part in OPTIMISTIC:
        text = f"The numbers are of {PARTS[shipped.part]}, on which something was fitted or chosen."
        yield Alert("warn", "No test part: the numbers are optimistic", text, "detectors-table")
    if len(shipped.labels) < FEW:
        half = wilson(round(0.9 * len(shipped.labels)), len(shipped.labels))
        text = f"A share of 90% would lie anywhere from {half.low:.0%} to {half.high:.0%}."
        yield Alert("warn", f"Judged on {counted(len(shipped.labels), 'image')} only", text, "detectors-table")
    worst = worst_at_least_budget(facts)
    if worst is not None and (worst.accuracy.high or 1.0) < 0.5:
        text = (
            f"Under {worst.cell.label}, {threat(worst.cell.norm, worst.cell.eps)}, {said(worst.accuracy)} are still "
            "right: a coin does better. Do not use it where somebody may attack it."
        )
        yield Alert("fail", "No defence against an attacker", text, "attacks-table")
    yield from _maps(facts)


def _maps(facts: Facts) -> Iterator[Alert]:
    """Yield the alerts about maps that must not be read as reasons for a verdict."""
    detectors = (facts.material.explained or {}).get("detectors", ())
    insane = [str(d["model"]) for d in detectors if not d["sanity"]["passed"]]
    if insane:
        text = f"{listed(insane)}: the map hardly depends on what the network has learnt. Do not read it as a reason."
        yield Alert("warn", "Maps that prove nothing", text, "trust-table")
    lows = {str(d["model"]): d["faithfulness"]["low"] for d in detectors}
    unfaithful = [name for name, low in lows.items() if low is None or not low > 0]
    if unfaithful:
        text = f"{listed(unfaithful)}: where the map is hot is not shown to matter more for the verdict than elsewhere."
        yield Alert("warn", "Maps that may mislead", text, "trust-table")


def _missing(facts: Facts) -> Iterator[Alert]:
    """Yield an alert for everything that has not been run, with the command that runs it."""
    material = facts.material
    if not material.run.finished:
        return
    wanted = [
        (bool(facts.attacks), "attacks", "attack --suite standard --eps 8/255", "attacks"),
        (bool(facts.scores), "corruptions", "corrupt", "corruptions"),
        (material.explained is not None, "where it looks", "explain", "looks"),
        (material.audit is not None, "the audit", "audit", "data"),
    ]
    if facts.attacks:
        wanted.append((bool(material.checks), "the checks of the attacks", "attack --checks all", "attacks"))
        wanted.append((material.transfer is not None, "transfer", "attack --transfer", "attacks"))
        worst_case = {row.cell.attack for row in facts.attacks} - {"fgsm"}
        wanted.append((bool(worst_case), "an attack stronger than FGSM", "attack --suite standard", "attacks"))
    for there, what, command, section in wanted:
        if not there:
            yield Alert("info", f"Not run: {what}", f"Run it with: {material.command(command)}", section)
