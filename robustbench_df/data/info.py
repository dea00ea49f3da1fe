"""What is in an `ImageSet`, as plain numbers: the answer to ``rdf data``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, Finding, ImageSet

CLASS_NAMES = {REAL: "real", FAKE: "fake", UNLABELLED: "unlabelled"}
_EXAMPLES = 5


def describe(images: ImageSet) -> dict[str, Any]:
    """Summarise a set as a dictionary that JSON can hold.

    Returns:
        ``origin, layout, fingerprint, images`` (count), ``sizes`` ("WxH" -> count), ``formats``, ``classes``,
        ``splits`` (the source's own split -> class -> count, ``"none"`` where it gives none), ``sources``,
        ``groups`` (number of named groups), ``findings`` (all of them) and their ``finding_counts`` by kind,
        ``duplicates`` and ``predictions`` (None where there are none); see `duplicates` and `agreement`.
    """
    height, width = images.size
    splits = {given or "none": _by_class(images.labels[images.given == given]) for given in sorted(set(images.given))}
    return {
        "origin": images.origin,
        "layout": images.layout,
        "fingerprint": images.fingerprint,
        "images": len(images),
        "sizes": {f"{width}x{height}": len(images)},
        "formats": dict(images.formats),
        "classes": _by_class(images.labels),
        "splits": splits,
        "sources": dict(Counter(images.sources.tolist()).most_common()),
        "groups": len(set(images.groups) - {""}),
        "finding_counts": dict(Counter(finding.kind for finding in images.findings).most_common()),
        "findings": [asdict(finding) for finding in images.findings],
        "duplicates": duplicates(images),
        "predictions": agreement(images),
    }


def findings_by_kind(findings: Sequence[Finding]) -> list[str]:
    """Return one line per kind of finding: the first one, and how many more there are."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return [
        f"{kind}: {found[0].detail}" + (f" ('{found[0].where}', and {len(found) - 1:,} more)" if len(found) > 1 else "")
        for kind, found in kinds.items()
    ]


def duplicates(images: ImageSet) -> dict[str, Any]:
    """Count groups of pixel-identical images.

    Returns:
        ``groups`` and ``extra`` (images beyond the first of their group); of the groups, how many lie
        ``within_class``, ``across_class`` (one picture both real and fake), ``with_unlabelled`` (an
        unlabelled image has a labelled twin) and ``across_split`` (of the source's own splits); and the first
        ``examples`` as lists of ids, the groups across classes or splits before the others.
    """
    order = np.argsort(images.hashes, kind="stable")
    edges = np.flatnonzero(np.diff(images.hashes[order])) + 1
    groups = [np.sort(group) for group in np.split(order, edges) if len(group) > 1]
    groups.sort(key=lambda group: int(group[0]))
    kinds = [_kinds(images, group) for group in groups]
    worst_first = sorted(range(len(groups)), key=lambda k: not kinds[k] & {"across_class", "across_split"})
    names = ("within_class", "across_class", "with_unlabelled", "across_split")
    return {
        "groups": len(groups),
        "extra": sum(len(group) - 1 for group in groups),
        **{name: sum(name in found for found in kinds) for name in names},
        "examples": [images.ids[groups[k]].tolist() for k in worst_first[:_EXAMPLES]],
    }


def agreement(images: ImageSet) -> dict[str, Any] | None:
    """Compare the black-box predictions with the folder labels; None when no image has both.

    Returns:
        ``n``, ``agree`` (counts) and ``share`` in [0, 1], the same per folder class in ``classes``, and as
        ``without`` how many images have a label but no prediction.
    """
    labelled = images.folder_labels != UNLABELLED
    both = labelled & (images.predictions != UNLABELLED)
    if not both.any():
        return None

    def count(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        n = int(chosen.sum())
        agree = int((images.predictions[chosen] == images.folder_labels[chosen]).sum())
        return {"n": n, "agree": agree, "share": agree / n if n else None}

    classes = {CLASS_NAMES[label]: count(both & (images.folder_labels == label)) for label in (REAL, FAKE)}
    return {**count(both), "classes": classes, "without": int((labelled & ~both).sum())}


def _by_class(labels: NDArray[np.int8]) -> dict[str, int]:
    return {name: int((labels == label).sum()) for label, name in CLASS_NAMES.items()}


def _kinds(images: ImageSet, group: NDArray[np.intp]) -> set[str]:
    labels = set(images.labels[group].tolist())
    known = labels - {UNLABELLED}
    kinds = {"across_class" if len(known) == 2 else "within_class"} if known else set()
    if known and UNLABELLED in labels:
        kinds.add("with_unlabelled")
    if len(set(images.given[group]) - {""}) > 1:
        kinds.add("across_split")
    return kinds
