"""Compare a manifest's labels with its paths and its other columns: labels that are all inverted are an error."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
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

    Folders that say nothing about a single image are skipped: those above the manifest's own ``folder``, and those that
    all paths share (``/home/ai/…``, ``deepfakes/…``). Absolute paths to other places share theirs among themselves.

    Returns:
        A finding for each label that contradicts its path.

    Raises:
        DataError: every path that names a class contradicts its label, and these paths are more than a category that
            happens to have such a name ("nature"): they have both labels, or are all images of one. ``remedy`` ends the
            message.
    """
    labelled = [entry for entry in entries if entry.label != UNLABELLED]
    below = [posixpath.dirname(entry.name.removeprefix(f"{folder}/")) for entry in labelled]
    shared = {absolute: _shared(path for path in below if _is_absolute(path) == absolute) for absolute in (True, False)}
    named = [_class_named(path, shared[_is_absolute(path)]) for path in below]
    told = [(entry, said) for entry, said in zip(labelled, named, strict=True) if said != UNLABELLED]
    against = [(entry, said) for entry, said in told if said != entry.label]
    counts, whole = (Counter(entry.label for entry in some) for some in ((entry for entry, _ in against), labelled))
    telling = len(counts) == 2 or any(counts[label] == whole[label] for label in counts)
    if against and len(against) == len(told) and telling:
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
        DataError: all values are class words, they stand beside both labels, and none agrees with its label.
    """
    said = [(label, class_of(value)) for label, value in pairs]
    known = [(label, word) for label, word in said if label != UNLABELLED]
    both = len({label for label, _ in known}) == 2  # "made_from: real" beside fakes only contradicts nothing
    if both and all(word not in (UNLABELLED, label) for label, word in said):
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


def _is_absolute(path: str) -> bool:
    return _ABSOLUTE.match(path) is not None


def _shared(folders: Iterable[str]) -> int:
    """Return how many leading folders all paths share."""
    levels = zip(*(path.split("/") for path in set(folders)), strict=False)
    return sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, levels))


@lru_cache(maxsize=65536)
def _class_named(folder: str, skipped: int) -> int:
    """Return the class named by a path's folders after the first ``skipped`` ones; -1 for none or both."""
    named = {class_of(part) for part in folder.split("/")[skipped:]} - {UNLABELLED}
    return named.pop() if len(named) == 1 else UNLABELLED
