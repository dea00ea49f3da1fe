"""A manifest none of whose images exists: where they were looked for, and where they seem to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from robustbench_df.data.stores import FolderStore, Store, Unreadable, is_junk
from robustbench_df.errors import DataError

_TRIED = 20  # names looked for in each other folder; all of them must be there
_FOLDERS = 1000  # folders tried at most


def is_missing(store: Store, name: str) -> bool:
    """Tell whether there is no such file, as opposed to one that cannot be read."""
    try:
        store.read(name)
    except Unreadable as problem:
        return problem.kind == "missing-image"
    return False


def check_found(store: Store, names: Sequence[str], source: str) -> None:
    """Refuse a manifest none of whose images exists; the search stops at the first one that does.

    Raises:
        DataError: no image exists; the message names the folder above or below the manifest's own where all seem to be,
            if any.
    """
    if not all(is_missing(store, name) for name in names):
        return
    here = f", '{store.root.resolve()}'" if isinstance(store, FolderStore) else " in the archive"
    tried = names[:: -(-len(names) // _TRIED)]
    found = (folder for folder in _folders(store) if not any(is_missing(store, f"{folder}/{name}") for name in tried))
    there = next(found, None)
    remedy = (
        f"they are in '{there}' there: put '{there}/' before each path, or move the manifest"
        if there
        else "mend the paths or move the manifest"
    )
    raise DataError(
        f"none of the {len(names):,} images that '{source}' lists is there, such as '{names[0]}'; paths are relative "
        f"to the manifest's folder{here}; {remedy}"
    )


def _folders(store: Store) -> Iterator[str]:
    """Yield folders that may hold a manifest's images, relative to its own: on disk, its parent and two levels down."""
    if not isinstance(store, FolderStore):
        yield from sorted(store.folders)
        return
    yield ".."
    root = store.root
    below = (path.relative_to(root).as_posix() for level in ("*/", "*/*/") for path in sorted(root.glob(level)))
    yield from islice((folder for folder in below if not any(map(is_junk, folder.split("/")))), _FOLDERS)
