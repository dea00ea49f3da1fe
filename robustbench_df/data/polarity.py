"""Compare a manifest's labels with its paths and its other columns: labels that are all inverted are an error."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import takewhile

from robustbench_df.data.imageset import UNLABELLED, Finding
from robustbench_df.data.layouts import Entry
from robustbench_df.data.naming import CLASSES, class_of, parse_label
from robustbench_df.errors import DataError

_ABSOLUTE = re.compile(r"([A-Za-z]:)?/")


def check_paths(entries: Iterable[Entry], folder: str, file: str, remedy: str) -> list[Finding]:
    """Compare each label with its image's path, if that names exactly one class; the label counts.

    Of an absolute path, only the folders below the manifest's own ``folder`` count. For paths that lead elsewhere, only
    the folders below the one that they all share count: those above say nothing about a single image (``/home/ai/…``).

    Returns:
        A finding for each label that contradicts its path.

    Raises:
        DataError: every path that names a class contradicts its label; ``remedy`` ends the message.
    """
    labelled = [entry for entry in entries if entry.label != UNLABELLED]
    below = [posixpath.dirname(entry.name.removeprefix(f"{folder}/")) for entry in labelled]
    elsewhere = {path for path in below if _ABSOLUTE.match(path)}
    levels = zip(*(path.split("/") for path in elsewhere), strict=False)
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, levels))
    named = [_class_named(path, shared if _ABSOLUTE.match(path) else 0) for path in below]
    told = [(entry, said) for entry, said in zip(labelled, named, strict=True) if said != UNLABELLED]
    against = [(entry, said) for entry, said in told if said != entry.label]
    if against and len(against) == len(told):
        entry, _ = against[0]
        which = f"all {len(told):,} paths that name a class" if len(told) > 1 else "the only path that names a class"
        raise DataError(
            f"the labels in '{file}' contradict {which}: '{entry.name}' is labelled {CLASSES[entry.label]}; {remedy} "
            "or rename the folders"
        )
    return [
        Finding(
            "label-mismatch",
            entry.name,
            f"labelled {CLASSES[entry.label]}, but its path says {CLASSES[said]}; the label counts",
        )
        for entry, said in against
    ]


def check_column(column: str, pairs: Collection[tuple[int, str]], file: str, remedy: str) -> None:
    """Refuse labels that another column of class words contradicts in every row.

    Args:
        column: its name.
        pairs: the distinct pairs of a label and the column's value beside it.
        file: the manifest, for the message.
        remedy: ends the message.

    Raises:
        DataError: all values are class words, and none agrees with its label.
    """
    said = [(label, class_of(value)) for label, value in pairs]
    known = [(label, word) for label, word in said if label != UNLABELLED]
    if known and all(word not in (UNLABELLED, label) for label, word in said):
        label, word = known[0]
        raise DataError(
            f"column '{column}' of '{file}' contradicts the column 'label' in every row: it says {CLASSES[word]} where "
            f"that says {CLASSES[label]}; {remedy} or leave out '{column}'"
        )


def remedy_for(texts: Collection[str], fake_is: int | None) -> str:
    """Return how to invert labels whose distinct spellings are ``texts``; the caller appends "or …"."""
    numbers = all(parse_label(text, 0, "") != parse_label(text, 1, "") for text in texts)
    if not numbers:
        return "mend the labels"
    if fake_is == 0:
        return "if 1 means fake, leave out --fake-is 0; else mend the labels"
    return "if 0 means fake, use --fake-is 0; else mend the labels"


@lru_cache(maxsize=65536)
def _class_named(folder: str, skipped: int) -> int:
    """Return the class named by a path's folders after the first ``skipped`` ones; -1 for none or both."""
    named = {class_of(part) for part in folder.split("/")[skipped:]} - {UNLABELLED}
    return named.pop() if len(named) == 1 else UNLABELLED
