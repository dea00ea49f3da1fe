"""The results of an audit: `AuditFinding`, one checked claim about a set of images, and `Audit`, all of them."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any, Literal, cast, get_args

from robustbench_df.errors import DataError

SCHEMA = 1
"""Version of an audit's JSON; another one is refused."""

Severity = Literal["pass", "warn", "fail", "not run"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

WORST_FIRST: tuple[Severity, ...] = ("fail", "warn", "not run", "pass")

EXAMPLES = 50
"""Most images or pairs that a finding keeps as examples; their total number is one of its figures."""

Figure = float | int | str
Example = str | tuple[str, str]
"""An image id, or the ids of two; with ``against``, the audited set's first and the other set's second."""


@dataclass(frozen=True)
class AuditFinding:
    """One check and its result. Frozen; built with keywords.

    Attributes:
        id: stable short name in kebab case, such as ``duplicates-across-splits``; a report links to it.
        severity: ``pass`` (checked, nothing found), ``warn``, ``fail`` (no score can be trusted until it is fixed) or
            ``not run`` (could not be checked; ``detail`` says why; it never counts as a pass).
        title: what was checked, in a few words.
        detail: what was found, one line with its figures.
        figures: name -> number or word; counts are int, shares are in [0, 1], undefined is nan. Plain Python types
            (numpy scalars are converted).
        images: the first `EXAMPLES` examples, worst first.
        remedy: what to do, one line; empty for a pass.

    Raises:
        DataError: an unknown severity, a text that is empty or not one line, or a ``warn`` or ``fail`` without a
            remedy.
    """

    id: str
    severity: Severity
    title: str
    detail: str
    figures: Mapping[str, Figure] = field(default_factory=dict)
    images: tuple[Example, ...] = ()
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise DataError(f"finding '{self.id}' has severity '{self.severity}'; use {', '.join(SEVERITIES)}")
        for name in ("id", "title", "detail", "remedy"):
            text = getattr(self, name)
            if len(text.splitlines()) > 1 or not (text or name == "remedy"):
                raise DataError(f"finding '{self.id}' has {name} {text!r}; it must be one line")
        if not self.remedy and self.severity in ("warn", "fail"):
            raise DataError(f"finding '{self.id}' is a {self.severity} without a remedy; say what to do")
        object.__setattr__(self, "figures", {name: plain(value) for name, value in self.figures.items()})
        object.__setattr__(self, "images", tuple(_example(image) for image in self.images[:EXAMPLES]))


@dataclass(frozen=True)
class AuditCheck:
    """One check: the id and title of its findings, see `AuditFinding`."""

    id: str
    title: str

    def found(
        self,
        severity: Severity,
        detail: str,
        figures: Mapping[str, Figure] | None = None,
        images: Sequence[Example] = (),
        remedy: str = "",
    ) -> AuditFinding:
        """Return the finding of this check; the remedy is kept only for ``warn`` and ``fail``.

        Raises:
            DataError: an unknown severity, a text that is empty or not one line, or a missing remedy.
        """
        return AuditFinding(
            id=self.id,
            severity=severity,
            title=self.title,
            detail=detail,
            figures=figures or {},
            images=tuple(images),
            remedy=remedy if severity in ("warn", "fail") else "",
        )


@dataclass(frozen=True)
class Audit:
    """The findings about one set of images, in the order of the checks.

    Attributes:
        findings: all of them, passes and ``not run`` too.
        origin, fingerprint, images: the audited set, and how many images it has.
        against, against_fingerprint: the set it was compared with; empty without one.
        allowed, cured: for an audit kept with a run, the ids of the failing findings in spite of which it was trained,
            and of those that its own split and settings resolve.
    """

    findings: tuple[AuditFinding, ...]
    origin: str = ""
    fingerprint: str = ""
    images: int = 0
    against: str = ""
    against_fingerprint: str = ""
    allowed: tuple[str, ...] = ()
    cured: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        """The worst severity: ``fail``, else ``warn``, else ``pass``; ``not run`` if nothing was checked."""
        counts = self.counts()
        return next((s for s in cast(Sequence[Severity], ("fail", "warn", "pass")) if counts[s]), "not run")

    def counts(self) -> dict[Severity, int]:
        """Count the findings by severity, the absent ones as 0."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def said(self) -> str:
        """Say in a few words how many findings there are of each severity, the worst first."""
        counts = self.counts()
        return ", ".join(f"{counts[s]} {s}" for s in WORST_FIRST if counts[s]) or "nothing was looked at"

    def of(self, severity: Severity) -> tuple[AuditFinding, ...]:
        """Return the findings of one severity, in order."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def __getitem__(self, id: str) -> AuditFinding:
        """Return the finding with this id.

        Raises:
            DataError: there is none.
        """
        for finding in self.findings:
            if finding.id == id:
                return finding
        raise DataError(f"no finding '{id}' in the audit; it has {', '.join(f.id for f in self.findings) or 'none'}")

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold, for `rundir.write_json` (which writes nan as null)."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, raw: Any) -> Audit:
        """Read what `to_json` returned, also after a trip through a file: lists become tuples, null becomes nan.

        Raises:
            DataError: another schema, or not an audit.
        """
        if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
            schema = raw.get("schema") if isinstance(raw, Mapping) else None
            raise DataError(f"an audit of schema {schema}, this version reads {SCHEMA}; run rdf audit again")
        try:
            findings = tuple(AuditFinding(**finding) for finding in raw["findings"])
            rest: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k not in ("schema", "findings")
            }
            return cls(findings, **rest)
        except (TypeError, KeyError, AttributeError) as error:
            raise DataError(f"the audit is damaged ({error}); run rdf audit again") from error


def plain(value: Any) -> Figure:
    """Return a figure as a Python int, float or str; None (JSON's null) is nan.

    Raises:
        DataError: anything else.
    """
    if value is None:
        return float("nan")
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise DataError(f"a figure is {value!r}; it must be a number or a word")


def called(origin: str, otherwise: str = "the set") -> str:
    """Return the last part of a set's origin, in quotes: ``'synergy25.zip'``."""
    return f"'{PurePath(origin).name or otherwise}'"


def _example(image: Any) -> Example:
    if isinstance(image, str):
        return image
    first, second = image
    return str(first), str(second)
