"""User settings override preset settings, even those that the preset makes for a single model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from robustbench_df.settings import merge

PHASES = ("phase1", "phase2")


def layered(preset: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset's nested tables with the user's tables on top; the inputs are not changed.

    Precedence, weakest first: the preset's common tables, its ``per_model`` tables, the user's common tables, the
    user's ``per_model`` tables. Only ``model.name`` is never common, because it names the architecture of one member.

    If the user sets ``epochs``, all of them are trained: unless the user also sets ``image_budget`` (in the same table
    or the common one), the preset's budget, which would reduce the epochs, is removed for that phase.
    """
    merged, asked = copy.deepcopy(dict(preset)), copy.deepcopy(dict(own))
    _lift_budgets(asked)
    for table in merged.get("per_model", {}).values():
        _drop(table, asked)
    return merge(merged, asked)


def _lift_budgets(own: dict[str, Any]) -> None:
    """Set ``image_budget`` to 0 (no limit) where ``epochs`` is set without it; a budget in the common tables counts."""
    members = own.get("per_model")
    for tables in (own, *(members.values() if isinstance(members, dict) else ())):
        for phase in PHASES:
            mine = _table(tables, phase)
            if "epochs" in mine and "image_budget" not in {**_table(own, phase), **mine}:
                mine["image_budget"] = 0


def _table(tables: Any, name: str) -> dict[str, Any]:
    """Return a table; an empty one if it is absent or not a table, which validation reports later."""
    found = tables.get(name) if isinstance(tables, dict) else None
    return found if isinstance(found, dict) else {}


def _drop(table: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    """Remove from one model's ``table`` the keys that the common tables in ``stronger`` set."""
    for key, value in stronger.items():
        if isinstance(value, Mapping) and isinstance(table.get(key), dict):
            _drop(table[key], value)
        elif key != "name":
            table.pop(key, None)
