"""Do the labels contradict each other or another set, or say nothing beyond the folders?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.copies import Copies
from robustbench_df.audit.duplicates import LEAKED, given_parts
from robustbench_df.audit.finding import EXAMPLES, AuditCheck, AuditFinding, Figure, Severity, called
from robustbench_df.audit.neighbours import Index
from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, ImageSet, Labels
from robustbench_df.metrics.intervals import Interval, wilson
from robustbench_df.wording import interval

ALIKE = 0.9
"""Share of shared pictures with the same label from which two sets agree (or with opposite labels, from which one set
is inverted). The rest is label noise, which is up to a tenth of the labels in well-known test sets (10.1% of QuickDraw,
Northcutt et al. 2021, arXiv:2103.14749, table 1).
"""

REPEATS = 0.95
"""Agreement of a black box with the folders from which a clone's fidelity says little: a clone that learnt only the
folders, and nothing of the black box, reaches it too."""

_CONFLICTS = AuditCheck("label-conflicts", "No picture is both real and fake")
_POLARITY = AuditCheck("label-polarity", "The two sets call the same pictures by the same labels")
_BLACK_BOX = AuditCheck("black-box-labels", "The black box's labels say more than the folders")


def conflict_finding(images: ImageSet, copies: Copies) -> AuditFinding:
    """Look for pictures that are called real once and fake once: the finding ``label-conflicts``.

    Args:
        images: the set.
        copies: `find_copies` of that set.

    Returns:
        A ``fail`` if images whose exact pixels carry both labels, one of which is wrong, make up at least `LEAKED` of
        any given part: a large train part does not excuse a test part with wrong labels. A ``warn`` below that, because
        one wrong label in a thousand changes no score by a point. A ``warn`` also for near copies with both labels:
        they may be a wrong label, or a fake made from a real picture of the set. Near pairs of one declared group are
        counted as ``declared`` and do not count against the set.
    """
    labels = images.labels
    a, b = copies.first, copies.second
    opposite = (labels[a] != labels[b]) & (labels[a] != UNLABELLED) & (labels[b] != UNLABELLED)
    declared = copies.declared(images)
    exact, near = opposite & copies.exact, opposite & ~copies.exact & ~declared
    concerned = np.unique(np.concatenate([a[exact | near], b[exact | near]]))
    labelled = int((labels != UNLABELLED).sum())
    figures: dict[str, Figure] = {
        "exact_pairs": int(exact.sum()),
        "near_pairs": int(near.sum()),
        "images": len(concerned),
        "share": len(concerned) / labelled if labelled else float("nan"),
        "declared": int((opposite & ~copies.exact & declared).sum()),
    }
    if not labelled:
        return _CONFLICTS.found("not run", "no image carries a label", figures)
    if not len(concerned):
        detail = f"none of {labelled:,} labelled images has a copy with the opposite label"
        if figures["declared"]:
            detail += f" outside its own group ({figures['declared']:,} pairs within)"
        return _CONFLICTS.found("pass", detail, figures)
    detail = (
        f"{len(concerned):,} of {labelled:,} labelled images have a copy with the opposite label: "
        f"{figures['exact_pairs']:,} pixel-identical pairs, {figures['near_pairs']:,} near ones"
    )
    contradicted = np.isin(np.flatnonzero(labels != UNLABELLED), np.concatenate([a[exact], b[exact]]))
    parts = given_parts(images)[labels != UNLABELLED]
    wrong = max(float(contradicted[parts == part].mean()) for part in set(parts))
    return _CONFLICTS.found(
        "fail" if wrong >= LEAKED else "warn",
        detail,
        figures,
        copies.examples(images, images, np.concatenate([np.flatnonzero(exact), np.flatnonzero(near)])),
        "look at the pairs; mend or drop the wrong labels, or declare a fake and its original as one group",
    )


def polarity_finding(images: ImageSet, other: ImageSet, copies: Copies) -> AuditFinding:
    """Compare the labels of two sets on the pictures they share: the finding ``label-polarity``.

    Args:
        images, other: the two sets.
        copies: `find_copies` of the first against the second.

    Returns:
        ``figures['verdict']`` is ``agree`` (pass), ``inverted`` (fail), ``disagree`` (warn: neither) or ``undecided``
        (warn: the 95% Wilson interval of the agreement does not exclude one half). Each image of ``images`` with a
        labelled copy counts once, by an exact copy rather than a near one. ``not run`` if there is no such image.
    """
    rows = _one_each(copies, (images.labels[copies.first] >= 0) & (other.labels[copies.second] >= 0))
    same = images.labels[copies.first[rows]] == other.labels[copies.second[rows]]
    share = wilson(int(same.sum()), len(rows))
    verdict = _verdict(share)
    figures: dict[str, Figure] = {
        "verdict": verdict,
        "shared": share.n,
        "exact": int(copies.exact[rows].sum()),
        "agree": int(same.sum()),
        "disagree": int((~same).sum()),
        "share": share.value,
        "low": share.low,
        "high": share.high,
    }
    if not share.n:
        detail = f"no labelled picture is in both {called(images.origin)} and {called(other.origin)}"
        return _POLARITY.found("not run", detail, figures)
    detail = (
        f"{verdict}: {figures['agree']:,} of {share.n:,} shared pictures have the same label "
        f"({interval(share.value, share.low, share.high, '.1%')})"
    )
    severity, remedy = _ON_VERDICT[verdict]
    return _POLARITY.found(severity, detail, figures, copies.examples(images, other, rows[~same]), remedy)


def _one_each(copies: Copies, wanted: NDArray[np.bool_]) -> Index:
    """Choose, of the wanted pairs, one per first image: the exact ones first, then the most alike."""
    order = np.lexsort((-copies.score, ~copies.exact, copies.first))
    order = order[wanted[order]]
    chosen: Index = order[np.diff(copies.first[order], prepend=-1) != 0]
    return chosen


def _verdict(share: Interval) -> str:
    if not share.n:
        return "unknown"
    if share.low <= 0.5 <= share.high:
        return "undecided"
    if share.value >= ALIKE:
        return "agree"
    return "inverted" if share.value <= 1 - ALIKE else "disagree"


_ON_VERDICT: dict[str, tuple[Severity, str]] = {
    "agree": ("pass", ""),
    "inverted": (
        "fail",
        "one set means real where the other means fake: find out which is right, then swap the other's folders, or "
        "read its labels of 0 and 1 with --fake-is 0",
    ),
    "disagree": ("warn", "look at the pairs; the two sets do not mean the same by real and fake"),
    "undecided": ("warn", "too few shared pictures to tell; compare what the sets' authors say of their labels"),
}


def black_box_finding(images: ImageSet) -> AuditFinding:
    """Compare a black box's ``predictions`` with the folders: the finding ``black-box-labels``.

    Returns:
        ``agree`` and ``share`` with its 95% Wilson interval, the same by class, and ``fidelity_for_nothing``: the
        fidelity of the better of two clones that learnt nothing from the black box, one that repeats the folder and one
        that always gives the more frequent verdict. The examples are the disagreements. ``fail`` if the verdicts are
        inverted, ``warn`` if they almost repeat the folders (lower end at least `REPEATS`) or are all the same,
        ``not run`` if there are none.
    """
    both = (images.folder_labels != UNLABELLED) & (images.predictions != UNLABELLED)
    if not both.any():
        return _BLACK_BOX.found("not run", "no image has both a black box's prediction and a folder label")
    said, folder = images.predictions[both], images.folder_labels[both]
    share = _agreement(said, folder)
    most = max(float(np.mean(said == label)) for label in (REAL, FAKE))
    figures: dict[str, Figure] = {
        "n": share.n,
        "agree": int((said == folder).sum()),
        "disagree": int((said != folder).sum()),
        "share": share.value,
        "low": share.low,
        "high": share.high,
        "real_share": _agreement(said[folder == REAL], folder[folder == REAL]).value,
        "fake_share": _agreement(said[folder == FAKE], folder[folder == FAKE]).value,
        "fidelity_for_nothing": max(share.value, most),
    }
    detail = (
        f"the black box repeats the folder on {figures['agree']:,} of {share.n:,} images "
        f"({interval(share.value, share.low, share.high, '.1%')}): a clone that learnt nothing of it reaches a "
        f"fidelity of {figures['fidelity_for_nothing']:.1%}"
    )
    severity, remedy = _judge_black_box(share, most)
    apart = np.flatnonzero(both)[said != folder]
    examples = [str(name) for name in images.ids[apart[:EXAMPLES]]]
    return _BLACK_BOX.found(severity, detail, figures, examples, remedy)


def _agreement(said: Labels, folder: Labels) -> Interval:
    return wilson(int((said == folder).sum()), len(said))


def _judge_black_box(share: Interval, most: float) -> tuple[Severity, str]:
    if most == 1.0:
        return "warn", "the black box gives one verdict only: nothing can be cloned from it, use --labels folder"
    if share.high < 0.5:
        return (
            "fail",
            "the verdicts are the opposite of the folders: find out which are right and turn the others round",
        )
    if share.low >= REPEATS:
        return "warn", "judge a clone on the images where the black box and the folder disagree, not on all"
    return "pass", ""
