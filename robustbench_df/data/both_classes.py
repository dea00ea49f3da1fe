"""Paths that name both classes: when one of the names is only a source, and when the path is refused."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Collection

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, Finding
from robustbench_df.data.naming import CLASSES, class_of
from robustbench_df.errors import DataError


def outer_sources(folders: Collection[str]) -> frozenset[str]:
    """Return the folders that are named by a class word but are no class, because both classes lie below them.

    An example is ``deepfake/0_real deepfake/1_fake``, one generator's folder of ForenSynths (Wang et al. 2020). Every
    image below such a folder must lie in a class folder, all such folders must be named by the same class, and none may
    have a class folder of the other class beside it: ``AI_generated/real`` and ``AI_generated/fake`` beside ``real``
    are ambiguous.

    Args:
        folders: every folder that holds images.
    """
    below: dict[str, set[int]] = defaultdict(set)  # an outermost class folder -> the classes of the next ones in it
    beside: dict[str, set[int]] = defaultdict(set)  # a folder -> the classes of the outermost class folders in it
    for folder in folders:
        if named := _class_folders(folder, frozenset()):
            below[named[0]].add(_label(named[1]) if len(named) > 1 else UNLABELLED)
            beside[posixpath.dirname(named[0])].add(_label(named[0]))
    outer = frozenset(path for path, labels in below.items() if labels == {REAL, FAKE})
    alone = all(len(beside[posixpath.dirname(path)]) == 1 for path in outer)
    return outer if alone and len({_label(path) for path in outer}) == 1 else frozenset()


def contradictions(folders: Collection[str], outer: frozenset[str], origin: str) -> list[Finding]:
    """Refuse paths that name both classes, unless the inner name lies below both classes and so does not separate them.

    Args:
        folders: every folder that holds images.
        outer: the result of `outer_sources` for them.
        origin: the source, for messages.

    Returns:
        A finding for the class words that were taken as sources.

    Raises:
        DataError: a path could mean either class.
    """
    found = []
    if outer:
        names = ", ".join(sorted({posixpath.basename(path) for path in outer}))
        detail = f"{names}: holds both a real and a fake folder; taken as a source"
        found.append(Finding("class-word-above-both", min(outer), detail))
    below: dict[str, set[int]] = defaultdict(set)  # an inner class folder's name -> the classes it lies in
    against: dict[tuple[str, str], str] = {}  # (path, inner name that contradicts) -> outer name
    for folder in folders:
        first, *inner = [posixpath.basename(path) for path in _class_folders(folder, outer)] or [""]
        for part in inner:
            below[part.lower()].add(class_of(first))
            if class_of(part) != class_of(first):
                against[folder, part] = first
    if not against:
        return found
    one_sided = [(path, part) for path, part in against if below[part.lower()] != {REAL, FAKE}]
    path, part = (one_sided or list(against))[0]
    first = against[path, part]
    if not one_sided and len({class_of(name) for name in below}) == 1:
        names = ", ".join(sorted({name for _, name in against}))
        detail = f"{names}: below real and fake alike; taken as a source"
        return [*found, Finding("class-word-in-both", path, detail)]
    says, other = CLASSES[class_of(first)], CLASSES[class_of(part)]
    raise DataError(
        f"'{path}' in '{origin}' says {says} by '{first}' but {other} by '{part}'; rename '{first}' if these images "
        f"are {other}, '{part}' if they are {says}, or list the images in a manifest (path,label)"
    )


def _class_folders(folder: str, outer: frozenset[str]) -> list[str]:
    """Return ``folder`` and its parents if named by a class word, the outermost first, without those in ``outer``."""
    parts = folder.split("/")
    paths = ("/".join(parts[: depth + 1]) for depth, part in enumerate(parts) if class_of(part) != UNLABELLED)
    return [path for path in paths if path not in outer]


def _label(path: str) -> int:
    return class_of(posixpath.basename(path))
