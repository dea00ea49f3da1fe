"""Whether the images that a manifest lists are there."""

from __future__ import annotations

from robustbench_df.data.stores import Store, Unreadable


def is_missing(store: Store, name: str) -> bool:
    """Tell whether there is no such file, as opposed to one that cannot be read."""
    try:
        store.read(name)
    except Unreadable as problem:
        return problem.kind == "missing-image"
    return False
