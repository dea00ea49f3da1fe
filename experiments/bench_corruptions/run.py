"""Our 19 corruptions against imagecorruptions: same images, constants and threads, taken in turn. See README.md."""

from __future__ import annotations

import itertools
import statistics
from functools import partial
from typing import Any

import torch
from helpers import equal_cores, photos, seconds

import robustbench_df as rdf

NAMES = [name for name in rdf.CORRUPTIONS if rdf.CORRUPTIONS[name].group != "web"]


def cells(config: dict[str, Any]) -> list[rdf.Cell]:
    runs = [rdf.Cell(f"runs {height}x{width}", {"size": [height, width]}) for height, width in config["runs_at"]]
    timed = itertools.product(config["sides"], NAMES)
    return runs + [rdf.Cell(f"{name} {side} px", {"name": name, "side": side, "n": n}) for (side, n), name in timed]


def measure(_: rdf.Cell, lab: rdf.Lab) -> dict[str, Any]:
    config, device = lab.config, torch.device(rdf.choose_device(lab.device))
    return runs(config, device, *config["size"]) if "size" in config else compared(config, device)


def compared(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Seconds of all severities on all images; the ratio is the median over the pairs, a part of the images each.

    The library computes on the CPU whatever the device is.
    """
    equal_cores(config["threads"])
    name, n, side = config["name"], config["n"], config["side"]
    x, ids, pairs = photos(n, side, side), torch.arange(n), []
    there = x.to(device)
    for images, call in ((there, rdf.corrupt), (x, rdf.library_corrupt)):
        call(images[:2], name, 3, ids=ids[:2])  # tables and textures are made once, and not in the time
    for part in ids.chunk(config["pairs"]):
        ours = library = 0.0
        for level in config["severities"]:
            own = partial(rdf.corrupt, there[part], name, level, ids=part, constants="imagenet")
            ours += seconds(own, device)
            library += seconds(partial(rdf.library_corrupt, x[part], name, level, ids=part), device)
        pairs.append((ours, library))
    ours, library = (round(sum(times), 4) for times in zip(*pairs, strict=True))
    ratio = round(statistics.median(theirs / own for own, theirs in pairs), 2)
    return {"ours s": ours, "library s": library, "library / ours": ratio}


def runs(config: dict[str, Any], device: torch.device, height: int, width: int) -> dict[str, Any]:
    """Everything once, in both constant sets: same shape and type out as in, but another image."""
    x, wrong = photos(1, height, width).to(device), []
    conditions = list(itertools.product(rdf.CORRUPTIONS, ("cifar", "imagenet"), config["severities"]))
    for name, constants, level in conditions:
        out = rdf.corrupt(x, name, level, constants=constants)
        if (out.shape, out.dtype) != (x.shape, x.dtype) or torch.equal(out, x):
            wrong.append(f"{name}-{level} ({constants})")
    return {"conditions": len(conditions), "wrong": ", ".join(wrong) or "none"}


def tell(results: dict[str, Any]) -> list[str]:
    """What the table comes to: the whole grid at either size, and the corruption that gains the least."""
    lines = []
    for side, n in results["config"]["sides"]:
        rows = [row for row in results["rows"] if row["cell"].endswith(f" {side} px") and row["values"]]
        if len(rows) == len(NAMES):
            ours, library = (sum(row["values"][key]["value"] for row in rows) for key in ("ours s", "library s"))
            least = min(rows, key=lambda row: row["values"]["library / ours"]["value"])
            lines.append(
                f"{side} px, {n} images, whole grid: {library:.0f} s against {ours:.1f} s, {library / ours:.1f} times "
                f"as fast; the least is {least['cell']} at {least['values']['library / ours']['value']:.2f}."
            )
    return lines


if __name__ == "__main__":
    rdf.experiment_main(__file__)
