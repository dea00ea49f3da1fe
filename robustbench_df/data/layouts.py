"""What the names in a store mean: label, split, group, source and black-box prediction of each image.

A layout is a function ``(store, fake_is) -> Plan``; nothing is decoded here. `recognise` says which one fits.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from robustbench_df.data.both_classes import contradictions, outer_sources
from robustbench_df.data.decode import ENDINGS_NOT_READ, EXTENSIONS
from robustbench_df.data.imageset import UNLABELLED, Finding
from robustbench_df.data.naming import class_of, names_both, parse_label, place_of, split_of
from robustbench_df.data.stores import Store, Unreadable
from robustbench_df.errors import DataError
from robustbench_df.wording import counted, listed

_PREDICTIONS = re.compile(r"(.+?)_(?:preds?|predictions?)\.json", re.IGNORECASE)
_NO_PHOTOGRAPHS = re.compile(r"masks?|ground[_ -]?truths?|gt|heat[_ -]?maps?|segmentations?", re.IGNORECASE)
NO_CLASS_FOLDERS = "no-class-folders"
OUTSIDE = "outside-classes"
"""Kind of the finding for images that are left out because their folders' names say neither class."""
_NAMED = 5  # how many names a summarising finding spells out


class Entry(NamedTuple):
    """One image as its layout describes it; the fields are those of `ImageSet`, ``name`` becomes the id."""

    name: str
    label: int = UNLABELLED
    prediction: int = UNLABELLED
    group: str = ""
    source: str = ""
    given: str = ""


@dataclass(frozen=True)
class Plan:
    """The images of a store in natural order, and what was wrong with their naming."""

    layout: str
    entries: Sequence[Entry]
    findings: tuple[Finding, ...] = ()


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is meant to be an image, even in a format that is not read."""
    return name.lower().endswith(EXTENSIONS + ENDINGS_NOT_READ)


def images_of(store: Store) -> list[str]:
    """Return the image files of a store in natural order."""
    return [name for name in store.names if is_image(name)]


def unwrap(store: Store) -> Store:
    """Step into folders that only wrap everything else, as ``cifake-12k/`` in an archive does."""
    while True:
        tops = {name.split("/", 1)[0] for name in (*store.names, *store.folders)}
        top = next(iter(tops)) if len(tops) == 1 else ""
        if top not in store.folders or class_of(top) != UNLABELLED or split_of(top, "test"):
            return store
        store = store.within(top)


def recognise(store: Store) -> str:
    """Return the name of the layout that a store has: challenge, folders or unlabelled."""
    if any(place_of(posixpath.dirname(name)).label != UNLABELLED for name in images_of(store)):
        return "challenge" if _prediction_files(store) else "folders"
    return "unlabelled"


def folders(store: Store) -> Plan:
    """Read class folders, ignoring case (``real/ fake/``, ``0_real 1_fake``, ``nature ai``), also below splits.

    Deeper or outer folders become the source. Images below ``test/`` that are in no class folder are unlabelled; beside
    labelled ones that is a finding. ``eval/`` is val if there is also a test part, otherwise test.

    A class folder below one of the other class (``real/camera/fake``) is ambiguous and is refused. The exception is a
    name that does not separate the classes; it becomes a source and a finding. This is the inner name if both classes
    have it (``real/nature fake/nature``), or the outer name if it holds both classes (``deepfake/real deepfake/fake``).

    Raises:
        DataError: a path names both classes, or an image's own folder does.
    """
    entries, outside = [], []
    names = images_of(store)
    within = list(dict.fromkeys(posixpath.dirname(name) for name in names))
    outer = outer_sources(within)
    evaluation = "val" if any(place_of(folder, None, outer).given == "test" for folder in within) else "test"
    for name in names:
        place = place_of(posixpath.dirname(name), evaluation, outer)
        if place.label != UNLABELLED:
            entries.append(Entry(name, place.label, source=place.source, given=place.given))
        elif place.given == "test":
            entries.append(Entry(name, source=place.source))
        elif names_both(own := posixpath.basename(posixpath.dirname(name))):
            raise DataError(
                f"the folder '{own}' in '{store.origin}' names both classes; rename it, or list the images in a "
                "manifest (path,label)"
            )
        else:
            outside.append(name)
    findings = contradictions(within, outer, store.origin)
    held = {parent for entry in entries for parent in _parents(entry.name)}
    findings += [*_left_out(outside, len(names), held), *_half_labelled(entries)]
    findings += [
        Finding("empty-folder", folder, "a class folder without images")
        for folder in sorted(store.folders - held)
        if class_of(posixpath.basename(folder)) != UNLABELLED
    ]
    return Plan("folders", entries, (*findings, *_masks(entries), *_other_files(store)))


def grouped_by_folder(plan: Plan) -> Plan:
    """Make each innermost folder a group; groups named by the source stay, and images in no folder have none."""
    entries = [entry._replace(group=entry.group or posixpath.dirname(entry.name)) for entry in plan.entries]
    return replace(plan, entries=entries)


def unlabelled(store: Store) -> Plan:
    """Take every image without a label; its folder becomes the source."""
    entries = [Entry(name, source=posixpath.dirname(name)) for name in images_of(store)]
    tops = sorted({name.split("/", 1)[0] for name in images_of(store) if "/" in name})
    findings = (
        [
            Finding(
                NO_CLASS_FOLDERS,
                tops[0],
                f"{listed(tops, _NAMED)}: none reads as real or fake; taken as unlabelled",
            )
        ]
        if len(tops) > 1
        else []
    )
    return Plan("unlabelled", entries, (*findings, *_other_files(store)))


def challenge(store: Store, fake_is: int | None = None) -> Plan:
    """Read class folders beside ``<prefix>_preds.json``: a black-box detector's verdicts on the images.

    A file is a list of ``{"index": 7, "prediction": "fake"}``; index 7 belongs to ``7.png`` in the folder
    ``<prefix>_images`` (any ending, any depth), or in the only folder without a file of its own whose name begins with
    ``<prefix>_``. A row's ``label``, where present, is compared with the folder's. An index of several images is a
    finding, and they get no prediction.

    Raises:
        DataError: a path or an image's own folder names both classes; or a predictions file cannot be read, has no
            image folder, or may belong to several (``--layout folders`` ignores these files).
    """
    plan = folders(store)
    entries, findings, files = list(plan.entries), list(plan.findings), _prediction_files(store)
    try:
        for file, prefix in files.items():
            top = _folder_of_predictions(file, prefix, files.values(), entries, store.origin)
            images: dict[str, list[int]] = defaultdict(list)
            for place, entry in enumerate(entries):
                if entry.name.startswith(f"{top}/"):
                    images[_index_key(posixpath.splitext(posixpath.basename(entry.name))[0])].append(place)
            findings += [
                Finding("ambiguous-index", f"{file}:{key}", f"index {key} is {listed(names, _NAMED)}; taken as none")
                for key, places in images.items()
                if len(names := [entries[place].name for place in places]) > 1
            ]
            single = {key: places[0] for key, places in images.items() if len(places) == 1}
            shared = images.keys() - single.keys()
            rows = [row for row in _read_rows(store, file) if _key_of(row) not in shared]
            findings += _match(file, rows, single, entries, fake_is)
    except DataError as error:
        raise DataError(f"{error}, or use --layout folders") from error
    return Plan("challenge", entries, tuple(findings))


def _folder_of_predictions(
    file: str, prefix: str, prefixes: Iterable[str], entries: Iterable[Entry], origin: str
) -> str:
    """Return the folder whose images a predictions file judges; ``prefixes`` are those of all files."""
    depth = prefix.count("/") + 1
    tops = dict.fromkeys("/".join(e.name.split("/")[:depth]) for e in entries if e.name.count("/") >= depth)
    where = f"'{file}' in '{origin}'"
    if exact := [top for top in tops if top in (f"{prefix}_images", prefix)]:
        return max(exact, key=len)
    taken = {folder for other in prefixes for folder in (f"{other}_images", other)}
    begun = [top for top in tops if top.startswith(f"{prefix}_") and top not in taken]
    if not begun:
        raise DataError(f"{where} has no folder '{prefix}_images' beside it; add or rename it")
    if len(begun) > 1:
        raise DataError(f"{where} may belong to {listed(begun, _NAMED)}; rename the right one to '{prefix}_images'")
    return begun[0]


def _parents(name: str) -> Iterable[str]:
    while name := posixpath.dirname(name):
        yield name


def _left_out(outside: Sequence[str], images: int, held: Set[str]) -> list[Finding]:
    """Count the images outside class folders, and name the topmost folders that hold nothing else."""
    if not outside:
        return []
    tops: dict[str, None] = {}  # an ordered set
    for name in outside:
        above = [posixpath.dirname(name), *_parents(posixpath.dirname(name))]
        tops[next((folder for folder in reversed(above) if folder not in held), above[0]) or "the top folder"] = None
    detail = (
        f"{len(outside):,} of {images:,} images left out, in folders that are neither real nor fake: "
        f"{listed(tops, _NAMED)}; move them below real/ or fake/, or out of the source"
    )
    return [Finding(OUTSIDE, outside[0], detail)]


def _half_labelled(entries: Iterable[Entry]) -> list[Finding]:
    """Report folders below ``test/`` whose images got no label, if other test images got one."""
    without = Counter(posixpath.dirname(entry.name) for entry in entries if entry.label == UNLABELLED)
    if not without or not any(entry.given == "test" for entry in entries):
        return []
    detail = (
        f"{counted(without.total(), 'test image')} without a label beside labelled ones, in folders that are neither "
        f"real nor fake: {listed(without, _NAMED)}; to judge on them, move them below real/ or fake/"
    )
    return [Finding("half-labelled-test", next(iter(without)), detail)]


def _masks(entries: Iterable[Entry]) -> list[Finding]:
    """Report folders inside a class whose names suggest that they hold no photographs."""
    found = Counter(
        posixpath.dirname(entry.name)
        for entry in entries
        if entry.label != UNLABELLED and _NO_PHOTOGRAPHS.fullmatch(posixpath.basename(entry.source))
    )
    return [
        Finding("masks-in-class", folder, f"{counted(count, 'image')} learnt like the others; move masks out")
        for folder, count in found.items()
    ]


def other_endings(names: Iterable[str]) -> str:
    """Count files by the endings of their names: ``20 .txt, 3 no ending``."""
    endings = Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in names)
    return ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(_NAMED))


def _other_files(store: Store) -> list[Finding]:
    files = [n for n in store.names if not is_image(n) and not _PREDICTIONS.fullmatch(posixpath.basename(n))]
    detail = f"{counted(len(files), 'other file')} ignored: {other_endings(files)}"
    return [Finding("not-an-image", files[0], detail)] if files else []


def _prediction_files(store: Store) -> dict[str, str]:
    """Map each predictions file to the path its image folder must begin with."""
    matches = {
        name: _PREDICTIONS.fullmatch(posixpath.basename(name)) for name in store.names if name[-5:].lower() == ".json"
    }
    return {name: posixpath.join(posixpath.dirname(name), match[1]) for name, match in matches.items() if match}


def _index_key(index: object) -> str:
    text = str(index).strip()
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


def _key_of(row: dict[str, Any]) -> str:
    return _index_key(posixpath.splitext(str(row["index"]))[0])


def _read_rows(store: Store, file: str) -> list[dict[str, Any]]:
    where = f"'{file}' in '{store.origin}'"
    try:
        rows = json.loads(store.read(file))
    except (Unreadable, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {where}: {error}; it must be a JSON list of index and prediction") from error
    if not isinstance(rows, list):
        raise DataError(f"{where} holds a {type(rows).__name__}; it must be a list of index and prediction")
    for k, row in enumerate(rows):
        if not (isinstance(row, dict) and "index" in row and "prediction" in row):
            raise DataError(f"row {k} of {where} is {str(row)[:60]!r}; it must have an index and a prediction")
    return rows


def _match(
    file: str, rows: list[dict[str, Any]], images: dict[str, int], entries: list[Entry], fake_is: int | None
) -> list[Finding]:
    """Write one file's predictions into ``entries``; return the mismatches as findings."""
    given: dict[str, int] = {}
    twice, against = [], []
    for row in rows:
        key = _key_of(row)
        prediction = parse_label(row["prediction"], fake_is, f"'{file}', index {key}")
        if given.setdefault(key, prediction) != prediction:
            twice.append(key)
        label = parse_label(row.get("label"), fake_is, f"'{file}', index {key}")
        if key in images and UNLABELLED != label != entries[images[key]].label:
            against.append(key)
    for key in twice:
        given[key] = UNLABELLED
    for key in given.keys() & images.keys():
        entries[images[key]] = entries[images[key]]._replace(prediction=given[key])
    silent = [key for key in images if key not in given]
    lost = [key for key in given if key not in images]
    return [
        *(Finding("missing-image", f"{file}:{key}", f"index {key} has a prediction but no image") for key in lost),
        *(Finding("missing-prediction", entries[images[key]].name, f"no row in {file}") for key in silent),
        *(Finding("conflicting-predictions", f"{file}:{key}", "predicted both ways; taken as none") for key in twice),
        *(Finding("label-mismatch", f"{file}:{key}", "the row's label is not the folder's") for key in against),
    ]
