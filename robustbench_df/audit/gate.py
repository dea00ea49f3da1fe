"""The audit before training: it refuses images that must be fixed first, and is recorded with the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from robustbench_df.audit.copies import Copies
from robustbench_df.audit.finding import Audit
from robustbench_df.audit.front import audit_images
from robustbench_df.config import RunConfig
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import DataError
from robustbench_df.rundir import write_json

if TYPE_CHECKING:
    from robustbench_df.run import Run

FILE = "audit.json"


def audit_before_training(
    images: ImageSet, copies: Copies, config: RunConfig, progress: Callable[[str], None] | None = None
) -> Audit:
    """Do the fast part of the audit, and refuse to train if it fails.

    Findings that the run itself resolves are no reason to stop (`cured`): copies and groups that the given split
    divides, since our own split keeps them together; and a black box that contradicts the folders, if the folder labels
    are learnt.

    Args:
        images: the images to train and to evaluate on.
        copies: the result of `find_copies` for them.
        config: the run's settings; with ``allow_findings`` nothing is refused.
        progress: called with the name of each part before it is checked.

    Returns:
        The audit, with ``allowed`` and ``cured`` filled in.

    Raises:
        DataError: a finding fails that is neither cured nor allowed.
    """
    found = audit_images(images, copies=copies, fast=True, progress=progress)
    failing = [finding.id for finding in found.of("fail")]
    allowed = tuple(name for name in failing if name not in cured(config))
    if allowed and not config.allow_findings:
        more = f" ({len(allowed) - 1} more: {', '.join(allowed[1:])})" if len(allowed) > 1 else ""
        first = found[allowed[0]]
        raise DataError(
            f"the audit of '{images.origin}' fails {first.id}: {first.detail}{more}; {first.remedy}, or train "
            "in spite of it with --allow-findings"
        )
    return replace(found, allowed=allowed, cured=tuple(name for name in failing if name in cured(config)))


def cured(config: RunConfig) -> set[str]:
    """Return the ids of the findings that a run with these settings resolves."""
    names = {"groups-declared"}
    names |= {"duplicates-across-splits"} if config.split.near_copies else set()
    return names | ({"black-box-labels"} if config.data.labels == "folder" else set())


def record_audit(run: Run, found: Audit) -> None:
    """Write the audit that a run begins with, and its outcome into ``provenance.json``."""
    outcome = {"found": found.said(), "allowed": list(found.allowed), "cured": list(found.cured)}
    write_json(run.file("provenance.json"), {**run.read_json("provenance.json"), "audit": outcome})
    write_json(run.file(FILE), found.to_json())


def keep_audit(run: Run, found: Audit) -> None:
    """Write a later audit of a run; the earlier ``allowed`` and ``cured`` findings stay on record."""
    if run.file(FILE).exists():
        before = kept_audit(run)
        found = replace(found, allowed=before.allowed, cured=before.cured)
    write_json(run.file(FILE), found.to_json())


def kept_audit(run: Run) -> Audit:
    """Read a run's ``audit.json``.

    Raises:
        RunError: there is none, or it is damaged.
        DataError: it was written by another version.
    """
    return Audit.from_json(run.read_json(FILE))
