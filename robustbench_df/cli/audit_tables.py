"""Tables of ``rdf audit`` for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from robustbench_df.audit.finding import WORST_FIRST, Audit, AuditFinding, Example
from robustbench_df.cli.console import out
from robustbench_df.run import Run

_STYLES = {"fail": "bold red", "warn": "yellow", "pass": "green", "not run": "dim"}
_EXAMPLES = 3


def worst_first(audit: Audit) -> list[AuditFinding]:
    """Return the findings by severity, worst first; those of one severity are in the order of the audit."""
    return sorted(audit.findings, key=lambda finding: WORST_FIRST.index(finding.severity))


def audit_json(audit: Audit) -> dict[str, Any]:
    """Return the audit in the form that `Audit.from_json` reads, worst finding first, for `console.print_json`."""
    raw = audit.to_json()
    raw["findings"] = sorted(raw["findings"], key=lambda finding: WORST_FIRST.index(finding["severity"]))
    return raw


def print_audit(audit: Audit) -> None:
    """Print every finding, worst first, with its remedy and a few images."""
    against = f" against {audit.against}" if audit.against else ""
    title = f"{audit.origin or 'images'}{against}: {audit.images:,} images, fingerprint {audit.fingerprint}"
    table = Table(title=Text(title), title_justify="left", show_lines=False)
    table.add_column("", no_wrap=True)
    table.add_column("finding", no_wrap=True)
    table.add_column("what was seen", overflow="fold")
    for finding in worst_first(audit):
        style = _STYLES[finding.severity]
        table.add_row(Text(finding.severity, style=style), Text(finding.id), _said(finding))
    out.print(table)
    out.print(Text(audit.said(), style=_STYLES[audit.severity]))


def print_allowed(run: Run) -> None:
    """Print, below a run's numbers, the failing findings in spite of which it was trained, if there are any."""
    for name in run.allowed_findings:
        said = f"Trained in spite of a failing audit ({name}): these numbers are not to be trusted, see"
        out.print(Text(f"{said} {run.file('audit.json')}", style=_STYLES["fail"]))


def _said(finding: AuditFinding) -> Text:
    text = Text(finding.detail)
    if finding.remedy:
        text.append(f"\n→ {finding.remedy}", style="italic")
    if finding.images and finding.severity in ("fail", "warn"):
        more = f" … ({len(finding.images)} in --json)" if len(finding.images) > _EXAMPLES else ""
        text.append(f"\n  {'; '.join(_named(image) for image in finding.images[:_EXAMPLES])}{more}", style="dim")
    return text


def _named(image: Example) -> str:
    return image if isinstance(image, str) else f"{image[0]} ~ {image[1]}"
