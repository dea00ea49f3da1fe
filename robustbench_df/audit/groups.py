"""Groups: what the names say belongs together (person, video, photo tile, class), and whether a split divides it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.duplicates import given_parts
from robustbench_df.audit.finding import AuditCheck, AuditFinding, Figure
from robustbench_df.data.imageset import UNLABELLED, ImageSet, Strings

MOST_CLASSES = 30
"""If the names have at most this many different beginnings, these are classes (``dog_0017``); otherwise persons or
videos."""

LEAST_MEMBERS = 2.0
"""Least average number of images per beginning; with fewer, the names do not group images at all."""

_MARKED = re.compile(r"\d+(?: ?\((\d{1,2})\))?")
"""``0001 (2)``: CIFAKE (Bird & Lotfi 2024) numbers its images within each of CIFAR-10's ten classes, and marks those of
the second class to the tenth."""

_MARKED_SHARE = 0.5
"""Least number of images of each mark, as a fraction of an equal share: CIFAKE's classes are of equal size, while a
file manager marks single copies in the same way."""

_COUNTED = re.compile(r"(.*?)(?:(?:^|[ _.-]+)(?:frame|crop|img|image|face|f))?[ _.-]*\d+", re.IGNORECASE)
"""A name's beginning and its last number: the frame of a video, the crop of a photograph, the picture of a person."""

_NUMBERED = re.compile(r"(id|video|vid|clip|person|subject|seq)?[ _-]?\d+([ _-]+(id)?\d+)*", re.IGNORECASE)
"""A folder of one video or person, as in FaceForensics++ (``000_003``) and Celeb-DF (``id0_0001``); not ``sd14``."""

_SAYS_NOTHING = re.compile(
    r"(?:real|fake|ai|img|image|photo|picture|pic|frame|face|train|val|test|sample|dsc|s|[ _.-])*", re.IGNORECASE
)

IN_NAMES = "groups-in-names"
"""Id of the finding about what the names group."""

_DECLARED = AuditCheck("groups-declared", "The source's own groups lie in one part each")
_IN_NAMES = AuditCheck(IN_NAMES, "What the names group lies in one part")
_CLASSES = AuditCheck(IN_NAMES, "The classes that the names tell are in every part, under both labels")


@dataclass(frozen=True, eq=False)
class Grouping:
    """What names say: ``kind`` is ``class``, ``folder`` or ``name``; ``values`` has a group per image, ``""`` none."""

    kind: str
    values: Strings

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(set(self.values) - {""})


def grouping(images: ImageSet) -> Grouping | None:
    """Read groups from the names of the images; None if the names do not group them.

    The first that applies is used: CIFAKE's classes; the folders below or above the class folders, if there are more
    than `MOST_CLASSES` of them, or if they are numbered and each holds images of one label only; the beginning of the
    file names before the last number, which is a class if there are at most `MOST_CLASSES`.
    """
    stems = [posixpath.splitext(posixpath.basename(name))[0] for name in images.ids]
    if (marks := _marks(stems)) is not None:
        return Grouping("class", marks)
    folders = Grouping("folder", images.sources)
    many = folders.count > MOST_CLASSES or _are_videos(images)
    if many and _per_group(folders.values) >= LEAST_MEMBERS:
        return folders
    begun = [match[1] if (match := _COUNTED.fullmatch(stem)) else "" for stem in stems]
    values = np.array(["" if _SAYS_NOTHING.fullmatch(text) else text for text in begun], dtype=object)
    named = Grouping("name", values)
    if named.count < 2 or _per_group(values) < LEAST_MEMBERS:
        return None
    return named if named.count > MOST_CLASSES else Grouping("class", values)


def group_findings(images: ImageSet, parts: Strings | None = None) -> tuple[AuditFinding, ...]:
    """Tell whether declared groups, and those that the names suggest, cross the parts.

    Args:
        images: the set.
        parts: the part of each image, ``""`` for none; the source's own split when None (`given_parts`).

    Returns:
        ``groups-declared`` (a ``fail`` if one is divided) and ``groups-in-names`` (a ``warn``: names are a hint, not a
        proof). Classes may cross parts, but should not occur in only one part or with only one label.
    """
    parts = given_parts(images) if parts is None else parts
    return _declared(images, parts), _in_names(images, parts)


def _declared(images: ImageSet, parts: Strings) -> AuditFinding:
    count = len(set(images.groups) - {""})
    if not count:
        return _DECLARED.found("not run", "the source declares no groups")
    divided = _divided(images.groups, parts)
    figures: dict[str, Figure] = {
        "groups": count,
        "images": int((images.groups != "").sum()),
        "divided_groups": len(set(images.groups[divided])),
        "divided_images": int(divided.sum()),
    }
    if not divided.any():
        return _DECLARED.found("pass", f"none of {count:,} groups is divided", figures)
    detail = (
        f"{figures['divided_groups']:,} of {count:,} groups ({figures['divided_images']:,} images) lie in two parts"
    )
    remedy = "give each group to one part, or leave the split to us: ours keeps groups together"
    return _DECLARED.found("fail", detail, figures, _examples(images, divided, images.groups), remedy)


def _in_names(images: ImageSet, parts: Strings) -> AuditFinding:
    found = grouping(images)
    if found is None:
        return _IN_NAMES.found("pass", "the names group nothing: no class, folder or common beginning", {"groups": 0})
    if found.kind == "class":
        return _classes(images, parts, found)
    figures: dict[str, Figure] = {"kind": found.kind, "groups": found.count, "largest": max(_members(found.values))}
    divided = _divided(found.values, parts)
    named = found.values
    if found.kind == "folder":  # real/000 and fake/000 may be declared as two groups; only the names join them
        places = [f"{value}\0{posixpath.dirname(i)}" for value, i in zip(named, images.ids, strict=True)]
        named = np.where(named == "", "", np.array(places, dtype=object))
    loose = divided | _divided(named, np.where(images.groups == "", images.ids, images.groups))
    figures |= {
        "divided_groups": len(set(found.values[divided])),
        "divided_images": int(divided.sum()),
        "undeclared_groups": len(set(found.values[loose])),
    }
    what = f"{found.count:,} groups by {'folder' if found.kind == 'folder' else 'the beginning of the name'}"
    if not loose.any():
        return _IN_NAMES.found("pass", f"none of {what} is divided, all are declared", figures)
    detail = f"{what}: {figures['divided_groups']:,} lie in two parts, {figures['undeclared_groups']:,} are undeclared"
    examples = _examples(images, divided if divided.any() else loose, found.values)
    own = "keep each in one part with --group-by folder, or " if found.kind == "folder" else ""
    remedy = f"if they are videos, persons or tiles of one photograph, {own}name them in a manifest's group column"
    return _IN_NAMES.found("warn", detail, figures, examples, remedy)


def _classes(images: ImageSet, parts: Strings, found: Grouping) -> AuditFinding:
    """Check that no class has only one label or lies in only one part; such a class gives the answer away."""
    labels = np.where(images.labels == UNLABELLED, "", images.labels.astype(str)).astype(object)
    lonely = {what: _lonely(found.values, column) for what, column in (("label", labels), ("part", parts))}
    largest = max(_members(found.values))
    figures: dict[str, Figure] = {"kind": "class", "groups": found.count, "largest": largest}
    figures |= {f"of_one_{what}": len(names) for what, names in lonely.items()}
    said = f"{found.count:,} classes by name, the largest of {largest:,} images"
    if not any(lonely.values()):
        return _CLASSES.found("pass", said, figures)
    alone = sorted(set().union(*lonely.values()))
    detail = f"{said}; {figures['of_one_label']:,} have one label only, {figures['of_one_part']:,} are in one part only"
    examples = _examples(images, np.isin(found.values.astype(str), alone), found.values)
    remedy = "draw every class for both labels and all parts: else a detector of the class passes for one of fakes"
    return _CLASSES.found("warn", detail, figures, examples, remedy)


def _are_videos(images: ImageSet) -> bool:
    """Tell whether the folders are numbered and none holds both labels, as a folder for a class of pictures would."""
    labels = dict(zip(images.sources, images.labels, strict=True))
    names = labels.keys() - {""}
    return (
        len(names) > 1
        and all(_NUMBERED.fullmatch(posixpath.basename(name)) for name in names)
        and all(labels[name] == label for name, label in zip(images.sources, images.labels, strict=True))
    )


def _marks(stems: list[str]) -> Strings | None:
    """Return CIFAKE's class of each image, ``"1"`` to ``"10"``; None if the names do not follow that pattern."""
    matches = [_MARKED.fullmatch(stem) for stem in stems]
    if not stems or not all(matches):
        return None
    marks = np.array([(match[1] if match else None) or "1" for match in matches], dtype=object)
    counts = Counter(marks)
    usual = len(counts) > 1 and set(counts) == {str(k) for k in range(1, len(counts) + 1)}
    return marks if usual and min(counts.values()) >= _MARKED_SHARE * len(marks) / len(counts) else None


def _members(values: Strings) -> list[int]:
    return list(Counter(value for value in values if value).values())


def _per_group(values: Strings) -> float:
    members = _members(values)
    return sum(members) / len(members) if members else 0.0


def _divided(values: Strings, column: Strings) -> NDArray[np.bool_]:
    """Mark the images whose group has two different entries in ``column``; empty groups and entries do not count."""
    rows = np.flatnonzero((values != "") & (column != ""))
    marked = np.zeros(len(values), dtype=bool)
    if len(rows):
        _, group = np.unique(values[rows].astype(str), return_inverse=True)
        _, entry = np.unique(column[rows].astype(str), return_inverse=True)
        low, high = np.full(group.max() + 1, len(rows)), np.full(group.max() + 1, -1)
        np.minimum.at(low, group, entry)
        np.maximum.at(high, group, entry)
        marked[rows] = low[group] != high[group]
    return marked


def _lonely(values: Strings, column: Strings) -> set[str]:
    """Return the groups with a single entry of ``column``; none if the whole column has a single entry."""
    seen: dict[str, set[str]] = {}
    for value, entry in zip(values, column, strict=True):
        if value and entry:
            seen.setdefault(value, set()).add(entry)
    return {value for value, entries in seen.items() if len(entries) == 1} if len(set(column) - {""}) > 1 else set()


def _examples(images: ImageSet, marked: NDArray[np.bool_], values: Strings) -> tuple[str, ...]:
    """Return the id of the first marked image of each group."""
    rows = np.flatnonzero(marked)
    _, first = np.unique(values[rows].astype(str), return_index=True)
    return tuple(str(name) for name in images.ids[rows[np.sort(first)]])
