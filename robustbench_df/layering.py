"""What the user sets stands over what a preset sets, also where the preset sets it for one model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from robustbench_df.settings import merge

PHASES = ("phase1", "phase2")


def layered(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset's nested tables with the user's own on top; neither is changed.

    Weakest first: the preset's common tables, its ``per_model`` ones, the user's common tables, the user's
    ``per_model`` ones. ``model.name`` alone is not common: it says which architecture a member is.

    ``epochs`` that the user sets are all trained: without an ``image_budget`` of the user's beside them (or in the
    common table), the preset's, which would cut them, is lifted for the phase.
    """
    merged, asked = copy.deepcopy(dict(preset)), copy.deepcopy(dict(own))
    _lift_budgets(asked)
    for table in merged.get("per_model", {}).values():
        _drop(table, asked)
    return merge(merged, asked)


def _lift_budgets(own: dict[str, Any]) -> None:
    """Set ``image_budget`` to 0 (no limit) where ``epochs`` are set without one; the common tables come first."""
    members = own.get("per_model")
    for tables in (own, *(members.values() if isinstance(members, dict) else ())):
        for phase in PHASES:
            mine = _table(tables, phase)
            if "epochs" in mine and "image_budget" not in {**_table(own, phase), **mine}:
                mine["image_budget"] = 0


def _table(tables: Any, name: str) -> dict[str, Any]:
    """Return a table; an empty one where it is absent or no table, which validation complains of later."""
    found = tables.get(name) if isinstance(tables, dict) else None
    return found if isinstance(found, dict) else {}


def _drop(table: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    """Remove from one model's ``table`` what the common tables in ``stronger`` set."""
    for key, value in stronger.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _drop(table[key], value)
        elif key != "name":
            table.pop(key, None)
