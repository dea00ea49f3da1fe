"""`load_images`: read any supported source into an `ImageSet`."""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from robustbench_df.config import DataConfig
from robustbench_df.data import layouts
from robustbench_df.data.archive import ZipStore
from robustbench_df.data.cache import Decoded, decoded
from robustbench_df.data.classes import check_classes, why_no_images
from robustbench_df.data.imageset import UNLABELLED, Finding, ImageSet, Labels, Strings, fingerprint_of
from robustbench_df.data.layouts import Plan
from robustbench_df.data.manifest import find_manifest, manifest
from robustbench_df.data.stores import FolderStore, Store, Unreadable
from robustbench_df.data.table import ENDINGS
from robustbench_df.data.whereabouts import check_found
from robustbench_df.errors import DataError, UsageError, nearest
from robustbench_df.wording import counted

LAYOUTS = ("auto", "folders", "challenge", "manifest", "unlabelled")
LABELS = ("folder", "predictions")


def load_images(
    source: str | Path | None = None,
    *,
    layout: str = "auto",
    labels: Literal["folder", "predictions"] = "folder",
    fake_is: int | None = None,
    size: int | None = None,
    max_bad: float = 0.05,
    cache_dir: Path | None = None,
    workers: int | None = None,
    seed: int = 0,
    require_classes: bool = True,
    require_labels: bool = False,
    every_image: bool = False,
    group_by: Literal["folder"] | None = None,
) -> ImageSet:
    """Read a folder, a zip archive, a manifest or a single image into an `ImageSet`.

    Args:
        source: a folder, a ``.zip`` (read in place), a ``.csv`` or ``.parquet`` manifest, an image, or None
            (``"demo"``) for the built-in demo set.
        layout: how names are read, one of `LAYOUTS`; ``auto`` recognises it.
        labels: ``folder``, or ``predictions`` to take the black-box detector's verdicts as labels (the
            folder's stay in ``folder_labels``).
        fake_is: which of the numeric labels 0 and 1 means fake; 1 when None. Labels in words do not need it.
        size: side S in pixels to which images are scaled and centre-cropped; None requires images of one size.
        max_bad: share of unreadable images in [0, 1] beyond which loading stops.
        cache_dir: where decoded pixels are kept; ``$RDF_CACHE`` or the user's cache folder when None.
        workers: decoding threads; one per CPU when None.
        seed: seed of the demo set.
        require_classes: refuse a labelled layout in which a class is missing; prediction does not need this.
        require_labels: also refuse a source without labels, which ``auto`` reads as unlabelled: training needs labels.
        every_image: if ``auto`` would leave images out or refuse the source, read class folders or no labels instead,
            and report that as a finding: a prediction needs every image but no label.
        group_by: ``folder`` makes each innermost folder a group, which no split divides, for images without a group of
            the source.

    Returns:
        The readable images in natural order of their names; every problem is in ``findings``.

    Raises:
        UsageError: an option out of range, an empty source.
        DataError: a source that cannot be used, one class only, too many unreadable images; always one line.
    """
    _check_options(layout, labels, fake_is, size, max_bad, workers)
    _check_source(source)
    if source is None or source == "demo":
        from robustbench_df.data.demo import demo_set

        return demo_set(seed=seed, size=size or 32)
    store, plan = open_source(Path(source), layout, fake_is, every_image=every_image)
    plan = layouts.grouped_by_folder(plan) if group_by else plan
    try:
        labelled = require_labels or (require_classes and plan.layout != "unlabelled")
        entries = plan.entries
        if not entries:
            raise DataError(why_no_images(plan, store))
        if labels == "predictions" and all(e.prediction == UNLABELLED for e in entries):
            raise DataError(
                f"'{source}' has no predictions to use as labels (layout {plan.layout}); use --labels folder"
            )
        planned = _labels(plan, labels, range(len(entries)))
        if labelled:
            check_classes(planned, planned, plan, store, labels)
        names = [entry.name for entry in entries]
        if plan.layout == "manifest":
            check_found(store, names, str(source))
        pixels = decoded(store, names, size=size, cache_dir=cache_dir, workers=workers)
        _check_bad(pixels, len(names), max_bad, str(source))
        images = _assemble(store, plan, pixels, labels)
        if labelled:
            check_classes(images.labels, planned, plan, store, labels)
        return images
    finally:
        store.close()


def load_configured(data: DataConfig, seed: int) -> ImageSet:
    """Load the source of a run's settings; both classes are required, which is checked before anything is decoded."""
    return load_images(
        data.source,
        layout=data.layout,
        labels=data.labels,
        fake_is=data.fake_is,
        size=data.size,
        max_bad=data.max_bad,
        seed=seed,
        require_labels=True,
        group_by=data.group_by,
    )


def image_sizes(
    source: str | Path | None = None, *, layout: str = "auto", fake_is: int | None = None
) -> dict[str, int]:
    """Count the images of a source by size as displayed ("width×height"), from their headers; most frequent first.

    Raises:
        UsageError: an unknown layout, an empty source.
        DataError: no such file or folder, nothing that can be read, or names that contradict each other.
    """
    _check_options(layout, fake_is=fake_is)
    _check_source(source)
    if source is None or source == "demo":
        return {}
    from robustbench_df.data.decode import dimensions, quiet_pillow

    store, plan = open_source(Path(source), layout, fake_is)
    found: Counter[str] = Counter()
    try:
        with quiet_pillow():
            for entry in plan.entries:
                try:
                    size = dimensions(store.read(entry.name))
                except Unreadable:
                    continue  # a finding of `load_images`
                if size is not None:
                    found[size] += 1
    finally:
        store.close()
    return dict(found.most_common())


def _check_source(source: str | Path | None) -> None:
    """Refuse an empty string, such as an unset shell variable: it would mean the current folder."""
    if source == "":
        raise UsageError("the source is empty, perhaps an unset variable; name a folder, zip, manifest or 'demo'")


def _check_options(
    layout: str,
    labels: str = "folder",
    fake_is: int | None = None,
    size: int | None = None,
    max_bad: float = 0.0,
    workers: int | None = None,
) -> None:
    for option, value, choices in (("layout", layout, LAYOUTS), ("labels", labels, LABELS)):
        if value not in choices:
            raise UsageError(f"unknown {option} '{value}'{nearest(value, choices)}; choose from {', '.join(choices)}")
    if fake_is not in (None, 0, 1):
        raise UsageError(f"fake_is is {fake_is!r}; it must be 0 or 1, the number that stands for fake")
    if size is not None and not 1 <= size <= 8192:
        raise UsageError(f"size is {size}; it must be between 1 and 8192 pixels")
    if not 0 <= max_bad <= 1:
        raise UsageError(f"max_bad is {max_bad}; it must be a share between 0 and 1")
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; it must be at least 1")


def open_source(
    path: Path, layout: str, fake_is: int | None, *, every_image: bool = False, strict: bool = True
) -> tuple[Store, Plan]:
    """Open the source at a path; return its store, which the caller must close, and what its names mean.

    Args:
        path, layout, fake_is, every_image: as in `load_images`.
        strict: check the labels of a manifest (`manifest`); ``every_image`` does without.

    Raises:
        DataError: no such file or folder, nothing that can be read, or names that contradict each other.
    """
    ending = path.suffix.lower()
    strict = strict and not every_image
    read = _plan_of_all if every_image and layout == "auto" else partial(_plan, layout=layout, strict=strict)
    if path.is_dir():
        return read(layouts.unwrap(FolderStore.scan(path)), fake_is=fake_is)
    if not path.is_file():
        raise DataError(f"no such file or folder: '{path}'{_near(path)}")
    if ending in ENDINGS:
        return _manifest_on_disk(path, str(path), layout, fake_is, strict=strict)
    if layouts.is_image(path.name):
        return _plan(FolderStore(path.parent, str(path), [path.name]), layout, fake_is)
    if ending == ".zip" or zipfile.is_zipfile(path):
        store = ZipStore.open(path)
        try:
            return read(layouts.unwrap(store), fake_is=fake_is)
        except BaseException:  # Ctrl-C must not leave the archive open either
            store.close()
            raise
    raise DataError(
        f"'{path}' is no folder, zip archive, manifest ({' or '.join(ENDINGS)}) or image; convert it to one"
    )


def _plan_of_all(store: Store, fake_is: int | None) -> tuple[Store, Plan]:
    """Read a store as ``auto`` does, or as class folders, if that leaves no image out; otherwise as unlabelled."""
    own = set(layouts.images_of(store))
    why = ""
    for layout in ("auto", "folders"):
        try:
            read_from, plan = _plan(store, layout, fake_is, strict=False)
        except DataError as error:
            if not own:
                raise
            why = why or str(error)
            continue
        left = _left_out(store, plan)
        if not left:
            return read_from, _noted(plan, f"read-as-{plan.layout}", why, store)
        # A manifest of images elsewhere: the manifest is the source, not the folder that holds it.
        if plan.entries and left == own:
            return read_from, plan
        why = why or (
            f"layout {plan.layout} leaves out {len(left):,} of {len(own):,} images; --layout {plan.layout} does so"
        )
    plan = layouts.unlabelled(store)
    told = tuple(finding for finding in plan.findings if finding.kind != layouts.NO_CLASS_FOLDERS)
    return store, _noted(replace(plan, findings=told), "read-as-unlabelled", why, store)


def _left_out(store: Store, plan: Plan) -> set[str]:
    """Return the images of a store that a plan does not list, by relative or absolute paths or through a link."""
    listed = {entry.name for entry in plan.entries}
    if isinstance(store, FolderStore):
        inside, folder_of = f"{store.root.resolve()}{os.sep}", cache(os.path.realpath)
        absolute = {posixpath.split(name) for name in listed if posixpath.isabs(name)}
        listed |= {posixpath.join(folder_of(folder), name).removeprefix(inside) for folder, name in absolute}
    return set(layouts.images_of(store)) - listed


def _noted(plan: Plan, kind: str, why: str, store: Store) -> Plan:
    return replace(plan, findings=(Finding(kind, store.origin, why), *plan.findings)) if why else plan


def _plan(store: Store, layout: str, fake_is: int | None, *, strict: bool = True) -> tuple[Store, Plan]:
    recognised = layouts.recognise(store)
    table = find_manifest(store, named=layout == "auto" and recognised != "unlabelled")
    if table and layout in ("auto", "manifest"):
        try:
            if isinstance(store, FolderStore):
                file = store.root / table
                read_from, plan = _manifest_on_disk(file, store.origin, layout, fake_is, strict=strict)
            else:
                read_from, plan = store, manifest(store, table, fake_is, inside=True, strict=strict)
        except DataError as error:
            if layout == "manifest" or not layouts.images_of(store):
                raise
            raise DataError(f"{error}, or use --layout {recognised}") from error
        if not (left := _left_out(store, plan)):
            return read_from, plan
        beside = f"{counted(len(left), 'image')} here {'is' if len(left) == 1 else 'are'} not listed"
        hidden = Finding("not-listed", table, f"{beside}; --layout {recognised} reads the folder without it")
        return read_from, replace(plan, findings=(hidden, *plan.findings))
    if layout == "manifest":
        raise DataError(f"no manifest.csv or manifest.parquet in '{store.origin}'; add one or name its path")
    readers: dict[str, Callable[[Store], Plan]] = {
        "folders": layouts.folders,
        "challenge": partial(layouts.challenge, fake_is=fake_is),
        "unlabelled": layouts.unlabelled,
    }
    return store, readers[recognised if layout == "auto" else layout](store)


def _manifest_on_disk(path: Path, origin: str, layout: str, fake_is: int | None, *, strict: bool) -> tuple[Store, Plan]:
    if layout not in ("auto", "manifest"):
        raise UsageError(f"'{path}' is a manifest; layout '{layout}' does not fit it, use manifest or auto")
    store = FolderStore(path.parent, origin, [])
    return store, manifest(store, path.name, fake_is, strict=strict)


def _near(path: Path) -> str:
    return nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""


def _labels(plan: Plan, labels: str, rows: Sequence[int]) -> Labels:
    field = "label" if labels == "folder" else "prediction"
    return np.array([getattr(plan.entries[row], field) for row in rows], dtype=np.int8)


def _check_bad(pixels: Decoded, n: int, max_bad: float, origin: str) -> None:
    bad = pixels.findings
    if len(bad) > max_bad * n:
        raise DataError(
            f"{len(bad):,} of {n:,} images in '{origin}' ({len(bad) / n:.1%}) cannot be read, more than "
            f"{max_bad:.1%}; first: '{bad[0].where}': {bad[0].detail}; mend them or raise --max-bad"
        )
    if not pixels.names:
        raise DataError(f"none of the {n:,} images in '{origin}' can be read; first: '{bad[0].where}': {bad[0].detail}")


def _assemble(store: Store, plan: Plan, pixels: Decoded, labels: str) -> ImageSet:
    where = {entry.name: row for row, entry in enumerate(plan.entries)}
    rows = [where[name] for name in pixels.names]

    def column(field: str) -> Strings:
        return np.array([printable(getattr(plan.entries[row], field)) for row in rows], dtype=object)

    ids, chosen = column("name"), _labels(plan, labels, rows)
    return ImageSet(
        ids=ids,
        labels=chosen,
        data=pixels.data,
        hashes=pixels.hashes,
        sizes=np.array(pixels.sizes, dtype=object),
        groups=column("group"),
        sources=column("source"),
        given=column("given"),
        predictions=_labels(plan, "predictions", rows),
        folder_labels=_labels(plan, "folder", rows),
        fingerprint=fingerprint_of(ids, chosen, pixels.hashes),
        origin=store.origin,
        layout=plan.layout,
        formats=pixels.formats,
        findings=tuple(
            replace(found, where=printable(found.where), detail=printable(found.detail))
            for found in (*store.findings, *plan.findings, *pixels.findings)
        ),
    )


def printable(name: str) -> str:
    """Return a file name that can be written as UTF-8: bytes that cannot (such as E9) are escaped (``\\udce9``)."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
