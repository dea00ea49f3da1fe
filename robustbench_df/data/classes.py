"""The check that a labelled set has both classes, and the messages for a missing class or for no images at all."""

from __future__ import annotations

import posixpath

from robustbench_df.data.imageset import UNLABELLED, Labels
from robustbench_df.data.layouts import OUTSIDE, Plan, images_of, other_endings, recognise
from robustbench_df.data.manifest import UNUSED
from robustbench_df.data.naming import CLASSES, class_of, place_of
from robustbench_df.data.stores import FolderStore, Store
from robustbench_df.data.table import ENDINGS
from robustbench_df.errors import DataError
from robustbench_df.wording import listed

_NAMED = 5  # how many folders a message spells out


def check_classes(read: Labels, planned: Labels, plan: Plan, store: Store, labels: str) -> None:
    """Raise `DataError` unless a labelled set has both classes, naming the missing one and why it is missing.

    ``read`` are the labels of the images that could be read, ``planned`` those of all images that the source names.
    """
    missing = [(label, word) for label, word in CLASSES.items() if not (read == label).any()]
    if len(missing) == 2:
        raise DataError(f"no labelled images in '{store.origin}'; {_why_no_labels(planned, plan, store)}")
    for label, word in missing:
        unreadable = bool((planned == label).any())
        raise DataError(
            f"all {int((read != UNLABELLED).sum()):,} labelled images in '{store.origin}' are of one "
            f"class, none is {word}: {_why_none(label, word, unreadable, plan, store, labels)}"
        )


def why_no_images(plan: Plan, store: Store) -> str:
    """Say in one line what a source holds instead of usable images, and what to do."""
    if images_of(store) and plan.layout in ("folders", "challenge"):
        return f"no image in '{store.origin}' lies in a class folder; {_sort_them(store)}"
    archives = [name for name in store.names if name.lower().endswith(".zip")]
    if len(archives) == 1 and isinstance(store, FolderStore):
        return f"no images in '{store.origin}', but an archive; give its path: '{store.root / archives[0]}'"
    if archives:
        return f"no images in '{store.origin}', but archives ({listed(archives)}); unpack them"
    details = [finding.detail for finding in (*store.findings, *plan.findings)]
    found = f" ({details[0]})" if details else ""
    return f"no images in '{store.origin}'{found}; give a folder or zip that holds some"


def _why_no_labels(planned: Labels, plan: Plan, store: Store) -> str:
    if (planned != UNLABELLED).any():
        return "none of those with a label can be read; mend them"
    if plan.layout == "manifest":
        unused = next((f" ({found.detail})" for found in plan.findings if found.kind == UNUSED), "")
        return f"write real or fake into the manifest's column 'label'{unused}"
    if plan.layout == "unlabelled" and recognise(store) != "unlabelled":
        return "--layout unlabelled reads none; leave it out"
    return _sort_them(store)


def _sort_them(store: Store) -> str:
    """Say how to label images: by their folders or by a table, which may already lie beside them."""
    tops = list(dict.fromkeys(name.split("/", 1)[0] for name in images_of(store) if "/" in name))
    reason = f"none of the folders reads as real or fake ({listed(tops, _NAMED)}); " if tops else ""
    remedy = "put real ones below a folder real/ and fake ones below fake/, or list them in a manifest (path,label)"
    return f"{reason}{remedy}{_table_beside(store)}"


def _table_beside(store: Store) -> str:
    tables = [name for name in store.names if name.lower().endswith(ENDINGS)]
    tables.sort(key=lambda name: "test" in name.lower())  # a test set's labels are often withheld
    if tables and isinstance(store, FolderStore):
        return f"; if a table holds the labels ({listed(tables)}), give its path: '{store.root / tables[0]}'"
    others = tables or [name for name in store.names if name.lower().endswith(".json")]
    return f"; if '{others[0]}' holds the labels, write the manifest from it" if others else ""


def _why_none(label: int, word: str, unreadable: bool, plan: Plan, store: Store, labels: str) -> str:
    if labels == "predictions" and not unreadable:
        return f"no prediction says {word}; use --labels folder"
    if plan.layout == "manifest":
        rows = f"none of those labelled {word} can be read; mend them"
        return rows if unreadable else f"list some with '{word}' in the manifest's column 'label'"
    reasons = [
        f"'{found.where}' cannot be opened ({found.detail}); give yourself the right to read it"
        for found in store.findings
        if found.kind == "unreadable-folder" and place_of(found.where).label == label
    ]
    named = sorted(f for f in store.folders if class_of(posixpath.basename(f)) == label)
    if named and not reasons:
        reasons = [f"'{named[0]}' {_holds(named[0], word, unreadable, store)}"]
    reasons += [found.detail for found in plan.findings if found.kind == OUTSIDE]
    return "; ".join(reasons) or f"add a folder '{word}'"


def _holds(folder: str, word: str, unreadable: bool, store: Store) -> str:
    if unreadable:
        return "holds none that can be read; mend or convert them"
    within = [name for name in store.names if name.startswith(f"{folder}/")]
    found = f"holds no image but {other_endings(within)}" if within else "is empty"
    return f"{found}; put {word} images into it"
