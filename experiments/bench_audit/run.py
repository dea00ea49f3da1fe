"""Planted faults, found or not; what the audit says of real sets; what it costs. See README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cost import growth_apart, large_apart, pairs_apart
from planted import copies, faults, one_per_tile

import robustbench_df as rdf
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.front import audit


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    made = [
        rdf.Cell(f"{what} planted in {pool}", {"what": what, "pool": pool})
        for what in ("copies", "faults")
        for pool in config["pools"]
    ]
    for first, other in config["audits"]:
        against = f" against {other}" if other else ""
        made.append(rdf.Cell(f"audit of {first}{against}", {"what": "audit", "sets": [first, other]}))
    cost = config["cost"]
    if cost["images"]:
        made.append(rdf.Cell(f"cost of {cost['images']:,} images", {"what": "large"}))
    made.append(rdf.Cell("near hashes against all with all", {"what": "pairs"}))
    return [*made, rdf.Cell("cost of near hashes", {"what": "growth"})]


def measure(_: rdf.Cell, lab: rdf.Lab) -> list[dict[str, Any]]:
    config, cost = lab.config, lab.config["cost"]
    beside = Path(lab.images.origin).parent  # the other archives lie where the one that was named lies
    if config["what"] == "growth":
        return growth_apart(cost["views"], cost["hashes"], cost["rounds"])
    if config["what"] == "pairs":
        return pairs_apart(lab.images.origin, cost["pictures"], cost["rounds"])
    if config["what"] == "large":
        return large_apart([beside / name for name in cost["archives"]], cost["images"])
    if config["what"] == "audit":
        places = [str(beside / name) if name.endswith(".zip") else name for name in config["sets"]]
        first, other = (rdf.load_images(place) if place else None for place in places)
        found = audit(first, other).findings if first is not None else ()
        return [{"row": f.id, "severity": f.severity, "the audit says": f.detail} for f in found]
    alone, whole = pools(config, lab.images)
    return list(copies(alone) if config["what"] == "copies" else faults(whole))


def pools(config: dict[str, Any], images: rdf.ImageSet) -> tuple[rdf.ImageSet, rdf.ImageSet]:
    """Pictures of which no two show the same, to copy; and a set to plant other faults in."""
    if config["pool"] == "the demo set":
        return one_per_tile(), rdf.load_images("demo")
    images = images.subset(np.arange(0, len(images), config["every"]))
    once = images.subset(np.setdiff1d(np.arange(len(images)), find_copies(images).second))
    return once, once


def tell(results: dict[str, Any]) -> list[str]:
    """The worst of what was planted, what the search saves, and how it grows."""
    rows, lines = [row for row in results["rows"] if row["values"]], []
    for pool in results["config"]["pools"]:
        shares = [(r["values"]["found"]["value"], r["row"]) for r in rows if r["cell"] == f"copies planted in {pool}"]
        if shares:
            share, kind = min(shares)
            lines.append(f"copies planted in {pool}: the least found are {kind}, {100 * share:.1f}%.")
    missed = [f"{r['row']} ({r['cell']})" for r in rows if r["values"].get("as it should be") == "no"]
    lines.append(f"planted faults that are not named as they should be: {'; '.join(missed) or 'none'}.")
    for row, found in ((r["row"], r["values"]) for r in rows if "all / search" in r["values"]):
        ratio, share = (found[key]["value"] for key in ("all / search", "copies found"))
        lines.append(
            f"{row}: all with all takes {ratio:.1f} times as long; {100 * share:.1f}% of its copies are found."
        )
    fitted = [r["values"]["the audit says"] for r in rows if r["row"] == "exponents in N"]
    return [*lines, *(f"search for near hashes, exponents in N: {line}." for line in fitted)]


if __name__ == "__main__":
    rdf.experiment_main(__file__)
