"""Findings about copies: pixel-identical and near, within one set or between two, and where they lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.copies import Copies
from robustbench_df.audit.finding import AuditCheck, AuditFinding, Figure, Severity, called
from robustbench_df.data.imageset import SPLIT_NAMES, UNLABELLED, ImageSet, Strings
from robustbench_df.data.info import duplicates
from robustbench_df.metrics.intervals import wilson
from robustbench_df.wording import counted

Mask = NDArray[np.bool_]

LEAKED = 0.01
"""Share of judged images with a copy among the images learnt from (lower end of the 95% Wilson interval) from which
scores cannot be trusted: the copies may change the accuracy by one point, which is how much good detectors differ. A
smaller share is a warning, because CIFAR-10 itself has such pairs: 3.3% of its test images (Barz & Denzler 2020, J.
Imaging 6(6):41)."""

_PARTS = (*SPLIT_NAMES, "unlabelled")
"""The parts in order from training to evaluation: an image leaks into the parts after its own."""

_EXACT = AuditCheck("duplicates-exact", "No two images have the same pixels")
_NEAR = AuditCheck("duplicates-near", "No image is a near copy of another")
_ACROSS_SPLITS = AuditCheck(
    "duplicates-across-splits", "No image to be judged on has a copy among the images learnt from"
)
_ACROSS_SOURCES = AuditCheck("duplicates-across-sources", "No image has a copy from another source")
_AGAINST = AuditCheck("duplicates-against", "The two sets share no picture")


def duplicate_findings(images: ImageSet, copies: Copies, parts: Strings | None = None) -> tuple[AuditFinding, ...]:
    """Judge the copies within one set.

    Args:
        images: the set.
        copies: `find_copies` of it.
        parts: the part of each image: ``""`` (none), train, val, cal, test or unlabelled. When None, the source's own
            split, where labelled images without a part count as train and unlabelled ones as a part of their own.

    Returns:
        ``duplicates-exact``, ``duplicates-near``, ``duplicates-across-splits`` and ``duplicates-across-sources``. Near
        copies within one declared group are counted as ``declared`` and do not count against the set.
    """
    parts = given_parts(images) if parts is None else parts
    return (
        _exact(images, copies),
        _near(images, copies),
        _across_splits(images, copies, parts),
        _across_sources(images, copies),
    )


def given_parts(images: ImageSet) -> Strings:
    """Return each image's part: the one that the source gives, otherwise train if it is labelled, else unlabelled."""
    free = np.where(images.labels == UNLABELLED, "unlabelled", "train").astype(object)
    return np.where(images.given == "", free, images.given).astype(object)


def leaked_images(images: ImageSet, copies: Copies, parts: Strings) -> tuple[Mask, Mask]:
    """Tell which images have a copy in an earlier part: an exact one, and an exact or near one, bool ``[N]`` each.

    Pictures are compared, not pairs, because `find_copies` does not list every pair of many identical images.
    """
    rank = _ranks(parts)
    _, picture = np.unique(images.hashes, return_inverse=True)
    first = np.full(len(images) + 1, len(_PARTS))  # of each picture, the first part that has it
    inside = rank >= 0
    np.minimum.at(first, picture[inside], rank[inside])
    near = first.copy()
    a, b = picture[copies.first], picture[copies.second]
    np.minimum.at(near, np.concatenate([a, b]), first[np.concatenate([b, a])])
    return rank > first[picture], rank > near[picture]


def twins_of_test(images: ImageSet, copies: Copies) -> NDArray[np.intp]:
    """Rows of the given test part that have a copy, exact or near, in a part that is learnt or chosen from."""
    parts = given_parts(images)
    return np.flatnonzero(leaked_images(images, copies, parts)[1] & (parts == "test"))


def _ranks(parts: Strings) -> NDArray[np.intp]:
    """Return the place of each image's part in `_PARTS`; -1 for none."""
    rank = np.full(len(parts), -1)
    for place, part in enumerate(_PARTS):
        rank[parts == part] = place
    return rank


def against_finding(images: ImageSet, other: ImageSet, copies: Copies) -> AuditFinding:
    """Judge what two sets share, in both directions: ``duplicates-against``.

    Args:
        images, other: the two sets.
        copies: `find_copies` of the first against the second.
    """
    figures: dict[str, Figure] = {"pairs": len(copies.first), "exact_pairs": int(copies.exact.sum())}
    said, worst = [], 0.0
    for side, whole, rows in (("here", images, copies.first), ("there", other, copies.second)):
        exact, either = _at(rows[copies.exact], len(whole)), _at(rows, len(whole))
        share = wilson(int(either.sum()), len(whole))
        figures |= {
            f"{side}_images": share.n,
            f"{side}_exact": int(exact.sum()),
            f"{side}_near": int((either & ~exact).sum()),
            f"{side}_share": share.value,
        }
        worst = max(worst, share.low)
        said.append(
            f"{int(either.sum()):,} of {share.n:,} images of {called(whole.origin, side)} ({share.value:.2%}, "
            f"{int(exact.sum()):,} of them pixel-identical)"
        )
    if not len(copies.first):
        return _AGAINST.found("pass", f"none of {len(images):,} and {len(other):,} images", figures)
    return _AGAINST.found(
        "fail" if worst >= LEAKED else "warn",
        f"shared: {said[0]}; {said[1]}",
        figures,
        copies.examples(images, other, np.arange(len(copies.first))),
        "learn from one set and judge on the other only after taking the shared pictures out of one of them",
    )


def _exact(images: ImageSet, copies: Copies) -> AuditFinding:
    found = duplicates(images)
    figures: dict[str, Figure] = {name: count for name, count in found.items() if name != "examples"}
    if not found["groups"]:
        return _EXACT.found("pass", f"none of {len(images):,} images", figures)
    detail = (
        f"{counted(found['groups'], 'picture')} there more than once, {counted(found['extra'], 'image')} too many; "
        f"{found['across_class']:,} of them both real and fake"
    )
    rows = np.flatnonzero(copies.exact)
    a, b = copies.first[rows], copies.second[rows]
    harmless = (images.labels[a] == images.labels[b]) & (images.given[a] == images.given[b])
    examples = copies.examples(images, images, rows[np.argsort(harmless, kind="stable")])
    remedy = "keep one image of each; our own splits keep identical ones together"
    return _EXACT.found("warn", detail, figures, examples, remedy)


def _near(images: ImageSet, copies: Copies) -> AuditFinding:
    a, b = copies.first, copies.second
    declared = copies.declared(images)
    rows = np.flatnonzero(~copies.exact & ~declared)
    known = (images.labels[a[rows]] != UNLABELLED) & (images.labels[b[rows]] != UNLABELLED)
    concerned = _at(np.concatenate([a[rows], b[rows]]), len(images))
    figures: dict[str, Figure] = {
        "pairs": len(rows),
        "images": int(concerned.sum()),
        "share": float(concerned.mean()) if len(images) else float("nan"),
        "mirrored": int(copies.mirrored[rows].sum()),
        "across_class": int((known & (images.labels[a[rows]] != images.labels[b[rows]])).sum()),
        "declared": int((~copies.exact & declared).sum()),
        "plain": copies.plain,
    }
    aside = f"; {copies.plain:,} images are too plain to tell" if copies.plain else ""
    aside += f"; {figures['declared']:,} pairs lie within a declared group" if figures["declared"] else ""
    if not len(rows):
        return _NEAR.found("pass", f"none of {len(images):,} images{aside}", figures)
    detail = (
        f"{figures['images']:,} of {len(images):,} images ({figures['share']:.2%}) are near copies of another, in "
        f"{counted(len(rows), 'pair')}, {figures['mirrored']:,} of them mirrored{aside}"
    )
    remedy = "keep near copies in one part of the split, as ours does by default, or declare them as groups"
    return _NEAR.found("warn", detail, figures, copies.examples(images, images, rows), remedy)


def _across_splits(images: ImageSet, copies: Copies, parts: Strings) -> AuditFinding:
    present = [part for part in _PARTS if (parts == part).any()]
    if len(present) < 2:
        return _ACROSS_SPLITS.found("not run", "the source puts its images into one part only")
    exact, either = leaked_images(images, copies, parts)
    rank = _ranks(parts)
    a, b = rank[copies.first], rank[copies.second]
    leaking = (a != b) & (a >= 0) & (b >= 0)
    figures: dict[str, Figure] = {"pairs": int(leaking.sum())}
    said, worst = [], 0.0
    for part in present[1:]:
        own = parts == part
        share = wilson(int((either & own).sum()), int(own.sum()))
        figures |= {
            f"{part}_images": share.n,
            f"{part}_exact": int((exact & own).sum()),
            f"{part}_near": int((either & ~exact & own).sum()),
            f"{part}_share": share.value,
        }
        worst = max(worst, share.low)
        said.append(f"{int((either & own).sum()):,} of {share.n:,} in {part} ({share.value:.2%})")
    if not either.any():
        return _ACROSS_SPLITS.found("pass", f"none: {', '.join(said)}", figures)
    detail = (
        f"{', '.join(said)} have a copy in a part that is learnt or chosen from; {int(exact.sum()):,} of them "
        "pixel-identical"
    )
    severity: Severity = "fail" if worst >= LEAKED else "warn"
    remedy = (
        "take the copies out of the part that is learnt from, or report the score without them beside the official one"
    )
    return _ACROSS_SPLITS.found(
        severity, detail, figures, copies.examples(images, images, np.flatnonzero(leaking)), remedy
    )


def _across_sources(images: ImageSet, copies: Copies) -> AuditFinding:
    sources = images.sources
    count = len(set(sources) - {""})
    if count < 2:
        return _ACROSS_SOURCES.found("not run", "the set names fewer than two sources", {"sources": count})
    a, b = copies.first, copies.second
    apart = (sources[a] != sources[b]) & (sources[a] != "") & (sources[b] != "") & ~copies.declared(images)
    figures: dict[str, Figure] = {
        "sources": count,
        "exact_pairs": int((apart & copies.exact).sum()),
        "near_pairs": int((apart & ~copies.exact).sum()),
    }
    if not apart.any():
        return _ACROSS_SOURCES.found("pass", f"none between {count:,} sources", figures)
    detail = (
        f"{figures['exact_pairs']:,} pixel-identical and {figures['near_pairs']:,} near pairs lie in two of "
        f"{count:,} sources"
    )
    remedy = "do not hold out one source to test on while its copies stay in another"
    examples = copies.examples(images, images, np.flatnonzero(apart))
    return _ACROSS_SOURCES.found("warn", detail, figures, examples, remedy)


def _at(rows: NDArray[np.intp], n: int) -> Mask:
    """Mark the images at ``rows``, bool ``[n]``."""
    marked = np.zeros(n, dtype=bool)
    marked[rows] = True
    return marked
