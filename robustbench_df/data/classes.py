"""A labelled set needs both classes: what to say where one is missing."""

from __future__ import annotations

import posixpath

from robustbench_df.data.imageset import UNLABELLED, Labels
from robustbench_df.data.layouts import Plan
from robustbench_df.data.manifest import UNUSED
from robustbench_df.data.naming import CLASSES, class_of
from robustbench_df.data.stores import Store
from robustbench_df.errors import DataError


def check_classes(read: Labels, planned: Labels, plan: Plan, store: Store, labels: str) -> None:
    """A labelled set needs both classes; name the one that is missing and why.

    ``read`` are the labels of what could be read, ``planned`` of all that is named.
    """
    missing = [(label, word) for label, word in CLASSES.items() if not (read == label).any()]
    if len(missing) == 2:
        raise DataError(f"no labelled images in '{store.origin}'; {_why_no_labels(planned, plan)}")
    for label, word in missing:
        unreadable = bool((planned == label).any())
        raise DataError(
            f"all {int((read != UNLABELLED).sum()):,} labelled images in '{store.origin}' are of one "
            f"class, none is {word}: {_why_none(label, word, unreadable, plan, store, labels)}"
        )


def _why_no_labels(planned: Labels, plan: Plan) -> str:
    if (planned != UNLABELLED).any():
        return "none of those with a label can be read; mend them"
    if plan.layout != "manifest":
        return "add real/ and fake/, or use --layout unlabelled"
    unused = next((f" ({found.detail})" for found in plan.findings if found.kind == UNUSED), "")
    return f"write real or fake into the manifest's column 'label'{unused}"


def _why_none(label: int, word: str, unreadable: bool, plan: Plan, store: Store, labels: str) -> str:
    if labels == "predictions" and not unreadable:
        return f"no prediction says {word}; use --labels folder"
    if plan.layout == "manifest":
        rows = f"none of those labelled {word} can be read; mend them"
        return rows if unreadable else f"list some with '{word}' in the manifest's column 'label'"
    named = sorted(f for f in store.folders if class_of(posixpath.basename(f)) == label)
    if not named:
        reason = f"add a folder '{word}'"
    elif unreadable:
        reason = f"'{named[0]}' holds none that can be read"
    else:
        reason = f"'{named[0]}' holds none labelled {word}"
    return f"{reason}, or use --layout unlabelled"
