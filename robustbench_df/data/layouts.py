"""What the names in a store mean: label, split, group, source and black-box prediction of each image.

A layout is a function ``(store, fake_is) -> Plan``; nothing is decoded here. `recognise` says which one fits.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from robustbench_df.data.decode import EXTENSIONS
from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED, Finding
from robustbench_df.data.naming import CLASSES, class_of, names_both, parse_label, place_of, split_of
from robustbench_df.data.stores import Store, Unreadable
from robustbench_df.errors import DataError
from robustbench_df.wording import listed

_PREDICTIONS = re.compile(r"(.+?)_(?:preds?|predictions?)\.json", re.IGNORECASE)
NO_CLASS_FOLDERS = "no-class-folders"
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
    """Tell by its ending whether a file is meant to be an image."""
    return name.lower().endswith(EXTENSIONS)


def images_of(store: Store) -> list[str]:
    """Return the image files of a store in natural order."""
    return [name for name in store.names if is_image(name)]


def unwrap(store: Store) -> Store:
    """Step into folders that only wrap everything else, as ``cifake-12k/`` in an archive does."""
    while True:
        tops = {name.split("/", 1)[0] for name in (*store.names, *store.folders)}
        top = next(iter(tops)) if len(tops) == 1 else ""
        if top not in store.folders or class_of(top) != UNLABELLED or split_of(top):
            return store
        store = store.within(top)


def recognise(store: Store) -> str:
    """Return the name of the layout a store shows: challenge, folders or unlabelled."""
    if any(place_of(posixpath.dirname(name)).label != UNLABELLED for name in images_of(store)):
        return "challenge" if _prediction_files(store) else "folders"
    return "unlabelled"


def folders(store: Store) -> Plan:
    """Read class folders in any case (``real/ fake/``, ``0_real 1_fake``, ``nature ai``), also below splits.

    Deeper or outer folders become the source. ``test/`` without class folders holds unlabelled images.

    A class folder below one of the other class (``AI_generated_images/real``) is not guessed at: it is refused. Only
    where both classes have the same such folder, and none of the other class (``real/nature fake/nature``), can it be
    no class; then it is a source as any other, and a finding.

    Raises:
        DataError: a path names both classes, or an image's own folder does.
    """
    entries, outside = [], []
    for name in images_of(store):
        place = place_of(posixpath.dirname(name))
        if place.label != UNLABELLED:
            entries.append(Entry(name, place.label, source=place.source, given=place.given))
        elif place.given == "test":
            entries.append(Entry(name, source=place.source))
        elif names_both(own := posixpath.basename(posixpath.dirname(name))):
            raise DataError(
                f"the folder '{own}' in '{store.origin}' names both classes; rename it, list the images in a manifest "
                "(path,label), or use --layout unlabelled"
            )
        else:
            outside.append(name)
    findings = _both_classes(store)
    findings += _summary("outside-classes", outside, "not below a class folder or test/; left out")
    held = {parent for entry in entries for parent in _parents(entry.name)}
    findings += [
        Finding("empty-folder", folder, "a class folder without images")
        for folder in sorted(store.folders - held)
        if class_of(posixpath.basename(folder)) != UNLABELLED
    ]
    return Plan("folders", entries, (*findings, *_other_files(store)))


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
    ``<prefix>_images`` (any ending). A row's ``label``, where present, is compared with the folder's.

    Raises:
        DataError: as `folders` does, or about a predictions file, which without this layout would not matter.
    """
    plan = folders(store)
    by_folder: dict[str, dict[str, int]] = defaultdict(dict)
    for place, entry in enumerate(plan.entries):
        top, _, rest = entry.name.rpartition("/")
        by_folder[top][_index_key(posixpath.splitext(rest)[0])] = place
    entries, findings = list(plan.entries), list(plan.findings)
    try:
        for file, prefix in _prediction_files(store).items():
            tops = [top for top in by_folder if top == prefix or top.startswith(f"{prefix}_")]
            if not tops:
                where = f"'{file}' in '{store.origin}'"
                raise DataError(f"{where} has no folder '{prefix}_images' beside it; add or rename it")
            images = {key: place for top in tops for key, place in by_folder[top].items()}
            findings += _match(file, _read_rows(store, file), images, entries, fake_is)
    except DataError as error:
        raise DataError(f"{error}, or use --layout folders") from error
    return Plan("challenge", entries, tuple(findings))


def _both_classes(store: Store) -> list[Finding]:
    """Refuse paths that name both classes, unless the inner name tells the classes apart nowhere (see `folders`)."""
    below: dict[str, set[int]] = defaultdict(set)  # an inner class folder's name -> the classes it lies in
    against: dict[tuple[str, str], str] = {}  # a path and its folder against the first class folder -> that one
    for folder in dict.fromkeys(posixpath.dirname(name) for name in images_of(store)):
        outer, *inner = [part for part in folder.split("/") if class_of(part) != UNLABELLED] or [""]
        for part in inner:
            below[part.lower()].add(class_of(outer))
            if class_of(part) != class_of(outer):
                against[folder, part] = outer
    if not against:
        return []
    one_sided = [(path, part) for path, part in against if below[part.lower()] != {REAL, FAKE}]
    path, part = (one_sided or list(against))[0]
    outer = against[path, part]
    if not one_sided and len({class_of(name) for name in below}) == 1:
        names = ", ".join(sorted({name for _, name in against}))
        return [Finding("class-word-in-both", path, f"{names}: below real and fake alike; taken as a source")]
    raise DataError(
        f"'{path}' in '{store.origin}' says {CLASSES[class_of(outer)]} by '{outer}' but "
        f"{CLASSES[class_of(part)]} by '{part}'; rename one of them, list the images in a manifest (path,label), "
        "or use --layout unlabelled"
    )


def _parents(name: str) -> Iterable[str]:
    while name := posixpath.dirname(name):
        yield name


def _summary(kind: str, names: Sequence[str], detail: str) -> list[Finding]:
    return [Finding(kind, names[0], f"{len(names):,} {detail} ({listed(names, _NAMED)})")] if names else []


def _other_files(store: Store) -> list[Finding]:
    files = [n for n in store.names if not is_image(n) and not _PREDICTIONS.fullmatch(posixpath.basename(n))]
    endings = Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in files)
    kinds = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(_NAMED))
    return [Finding("not-an-image", files[0], f"{len(files):,} other files ignored: {kinds}")] if files else []


def _prediction_files(store: Store) -> dict[str, str]:
    """Map each predictions file to the path its image folder must begin with."""
    matches = {
        name: _PREDICTIONS.fullmatch(posixpath.basename(name)) for name in store.names if name[-5:].lower() == ".json"
    }
    return {name: posixpath.join(posixpath.dirname(name), match[1]) for name, match in matches.items() if match}


def _index_key(index: object) -> str:
    text = str(index).strip()
    return text.lstrip("0") or "0" if text.isascii() and text.isdigit() else text


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
    """Write one file's predictions into ``entries``; return what does not fit together."""
    given: dict[str, int] = {}
    twice, against = [], []
    for row in rows:
        key = _index_key(posixpath.splitext(str(row["index"]))[0])
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
