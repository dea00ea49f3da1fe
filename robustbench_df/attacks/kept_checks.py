"""The checks stored in a run, by detector: upgrade those of earlier versions, and merge new ones into them.

This module never imports torch, because the report uses it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kept = dict[str, list[dict[str, Any]]]
"""Checks by detector and phase, each as the fields of a `robustbench_df.attacks.grading.Check`."""

RENAMED = {"one step against many": "cells-one-step", "catastrophic overfitting": "cells-overfitting"}
"""Ids that earlier versions wrote -> today's ids."""

_MONOTONE = ": monotone in eps"
"""In earlier versions the id of a `cells-monotone` check was the attack's name followed by this."""


def in_todays_form(kept: Mapping[str, list[dict[str, Any]]]) -> Kept:
    """Return stored checks in today's form, so that new ones can be matched with them and replace them."""
    return {name: [_in_todays_form(check) for check in checks] for name, checks in kept.items()}


def _in_todays_form(check: Mapping[str, Any]) -> dict[str, Any]:
    now = {"about": "", "remedy": "", **check}
    if str(now["id"]).endswith(_MONOTONE):
        attack, norm = str(now["id"]).removesuffix(_MONOTONE), now["about"]
        now |= {"id": "cells-monotone", "about": f"{attack}, {norm}" if norm else ""}
        now["detail"] = f"accuracy under {attack} by eps: {now['detail']}"
    now["id"] = RENAMED.get(str(now["id"]), now["id"])
    if now["status"] == "pass":
        now["remedy"] = ""  # earlier versions gave the checks of finished cells a remedy even when they passed
    return now


def newest(before: Mapping[str, list[dict[str, Any]]], now: Mapping[str, list[dict[str, Any]]]) -> Kept:
    """Merge new checks into the stored ones; a new check replaces a stored one of the same detector, id and subject.

    A stored check without a subject (``about``), as the first versions wrote, could be about anything: any new outcome
    of the same check replaces it.
    """

    def keyed(checks: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(check["id"], check["about"]): check for check in checks}

    out = {}
    for name in dict.fromkeys([*before, *now]):
        found = now.get(name, [])
        again = {check["id"] for check in found}
        old = [check for check in before.get(name, []) if check["about"] or check["id"] not in again]
        out[name] = list((keyed(old) | keyed(found)).values())
    return out
