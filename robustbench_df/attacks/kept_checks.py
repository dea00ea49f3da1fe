"""The checks that a run keeps, by detector: of former calls and versions, and how new ones join them.

Never imports torch: the report reads them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kept = dict[str, list[dict[str, Any]]]
"""Checks by detector and phase, each as the fields of a `robustbench_df.attacks.grading.Check`."""

RENAMED = {"one step against many": "cells-one-step", "catastrophic overfitting": "cells-overfitting"}
"""Ids that earlier versions wrote."""

_MONOTONE = ": monotone in eps"
"""What stood after the attack's name in the id of `cells-monotone`."""


def in_todays_form(kept: Mapping[str, list[dict[str, Any]]]) -> Kept:
    """Return kept checks as they would be written today, so that new ones find and replace them."""
    return {name: [_in_todays_form(check) for check in checks] for name, checks in kept.items()}


def _in_todays_form(check: Mapping[str, Any]) -> dict[str, Any]:
    now = {"about": "", "remedy": "", **check}
    if str(now["id"]).endswith(_MONOTONE):
        attack, norm = str(now["id"]).removesuffix(_MONOTONE), now["about"]
        now |= {"id": "cells-monotone", "about": f"{attack}, {norm}" if norm else ""}
        now["detail"] = f"accuracy under {attack} by eps: {now['detail']}"
    now["id"] = RENAMED.get(str(now["id"]), now["id"])
    if now["status"] == "pass":
        now["remedy"] = ""  # what finished cells said had one even then
    return now


def newest(before: Mapping[str, list[dict[str, Any]]], now: Mapping[str, list[dict[str, Any]]]) -> Kept:
    """Add the checks found now to those of before, which they replace where detector, check and subject agree.

    What was kept without its subject, as the first versions did, could be about anything: any new outcome replaces it.
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
