"""`audit_images`: all checks of a set of images, a second set, a run and a submission, in one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_df.audit.copies import Copies, find_copies
from robustbench_df.audit.duplicates import against_finding, duplicate_findings
from robustbench_df.audit.finding import Audit, AuditFinding
from robustbench_df.audit.groups import group_findings
from robustbench_df.audit.health import health_findings
from robustbench_df.audit.labels import black_box_finding, conflict_finding, polarity_finding
from robustbench_df.audit.leakage import audit_run
from robustbench_df.audit.noise import label_noise
from robustbench_df.audit.predictions import audit_predictions
from robustbench_df.audit.runparts import require_own_images
from robustbench_df.audit.shortcuts import shortcuts
from robustbench_df.data.imageset import ImageSet

if TYPE_CHECKING:
    from robustbench_df.run import Run

FAST_IMAGES = 4_000
"""Most images that ``fast`` checks for shortcuts: enough for an AUROC within ± 0.026."""

Findings = tuple[AuditFinding, ...]


def audit_images(
    images: ImageSet,
    against: ImageSet | None = None,
    *,
    run: Run | None = None,
    predictions: Path | str | None = None,
    truth: Path | str | None = None,
    fake_is: int | None = None,
    fast: bool = False,
    copies: Copies | None = None,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Check for everything that would make a score on these images misleading.

    Args:
        images: the set.
        against: another set: what do they share, and do their labels agree?
        run: a run made with ``images``: did anything leak? Its predictions also judge the labels.
        predictions: a submission about ``images``, in any form of `robustbench_df.prediction_files`.
        truth: the true labels of the submission's images; None uses the set's own labels, where it has them.
        fake_is: which of the numeric labels 0 and 1 in ``truth`` means fake; 1 when None.
        fast: leave out the checks that fit a classifier: label noise, the shallow classifier of shortcuts, an opinion
            on the order of a submission.
        copies: the result of `find_copies` for the set, if it is known already.
        progress: called with the name of each part before it is checked.

    Returns:
        The findings in the order of the checks; ``audit[id]`` is one of them.

    Raises:
        RunError: the run is about other images.
        DataError: a submission that cannot be read.
    """
    say = progress or (lambda _: None)
    if run is not None:
        require_own_images(run, images)  # before any work is done
    findings: list[AuditFinding] = []
    if predictions is not None:  # first, since an unreadable file ends the audit
        say("audit: submission")
        findings += audit_predictions(predictions, images, truth, fake_is=fake_is, opinion=not fast)
    if copies is None:
        say(f"audit: copies among {len(images):,} images")
        copies = find_copies(images)
    findings += (*duplicate_findings(images, copies), conflict_finding(images, copies))
    if against is not None:
        say(f"audit: copies in {against.origin or 'the other set'}")
        findings += _against(images, against)
    say("audit: groups, sizes, black box")
    findings += (*group_findings(images), *health_findings(images), black_box_finding(images))
    say("audit: shortcuts")
    findings += shortcuts(images, most=FAST_IMAGES, classifier=False) if fast else shortcuts(images)
    if not fast:
        say("audit: label noise")
        findings.append(label_noise(images, run))
    if run is not None:
        say("audit: the run's own files")
        findings += audit_run(run, images, copies.pairs())
    return Audit(
        findings=tuple(findings),
        origin=images.origin,
        fingerprint=images.fingerprint,
        images=len(images),
        against=against.origin if against is not None else "",
        against_fingerprint=against.fingerprint if against is not None else "",
    )


audit = audit_images
"""The name that `experiments/bench_audit` imports. Its results are keyed by its code, so that import can change only
when it is measured again."""


def _against(images: ImageSet, other: ImageSet) -> Findings:
    shared: Copies = find_copies(images, other)
    return against_finding(images, other, shared), polarity_finding(images, other, shared)
