"""Section 5: where the detectors look, from the files of `rdf explain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.pieces import ACROSS, Piece, Rows, Shelf, Shot, Tab, picture_path, tabbed
from robustbench_df.report.content.words import LABELS, bounded, defined, label_of
from robustbench_df.report.document import Cell, Column, Estimate, Gallery, Table, Text

STATES = {
    "right": "images that the ensemble calls rightly",
    "wrong": "images that it calls wrongly",
    "attacked": "attacked images",
    "corrupted": "corrupted images",
}

FIGURE_ROOM = 4_000_000
"""Most bytes of pictures for figures that are written as files, which may be larger than a page."""


def looks_section(facts: Facts) -> Piece:
    """Build the section."""
    found = facts.material.explained
    if found is None:
        text = Text(f"Not run. Make the maps with: {facts.material.command('explain')}")
        return Piece(tabbed("looks", "Where it looks", "", [Tab("", [text])]))
    shelf = Shelf()
    galleries = _galleries(facts, found, shelf)
    lead = (
        f"Maps ({found['cam']}) of what each verdict rests on, laid over the image: grey is cold, bright is hot. "
        "A map is a hint and no proof; the table says what each one is worth."
    )
    own = {f"{facts.keys[model]}_gradcam": gallery for model, gallery in _alone(facts, found, shelf)}
    section = tabbed("looks", "Where it looks", lead, [Tab("", [*galleries, _trust(found)])])
    return Piece(section, shelf.pictures, {name: [gallery.id] for name, gallery in own.items()}, list(own.values()))


def _alone(facts: Facts, found: Mapping[str, Any], shelf: Shelf) -> Iterator[tuple[str, Gallery]]:
    """Yield a figure per detector with only its own maps: a row per state, with images and maps in turn."""
    folder = facts.material.run.file("explain", "pictures")
    shelf = replace(shelf, room=FIGURE_ROOM)  # the copy shares the pictures, most of which are on the page already
    for model, phase in dict.fromkeys((str(d["model"]), str(d["phase"])) for d in found["detectors"]):
        rows: dict[str, list[Shot]] = {}
        for image in found["images"]:
            shots = rows.setdefault(str(image["state"]), [])
            for shown in image["maps"]:
                if (shown["model"], shown["phase"]) == (model, phase) and len(shots) < ACROSS:
                    plain = _plain(folder, image)._replace(caption=LABELS[int(image["label"])])
                    shots += [plain, _map(facts, folder, image, shown)]
        title = f"Where {label_of(model, phase)} looks ({found['cam']})"
        note = "Each image beside the map of its verdict; below them the truth and P(fake)."
        wanted = Rows(f"looks-{facts.keys[model]}", title, (), [*rows.items()], note)
        yield from ((model, gallery) for gallery in shelf.gallery(wanted))


def _galleries(facts: Facts, found: Mapping[str, Any], shelf: Shelf) -> list[Gallery]:
    """One gallery per state: each image with every detector's map of it."""
    folder = facts.material.run.file("explain", "pictures")
    pairs = [(str(d["model"]), str(d["phase"])) for d in found["detectors"]]
    head = ["image", *(label_of(*pair) for pair in pairs)]
    wanted = []
    for state, words in STATES.items():
        rows = []
        for image in found["images"]:
            if image["state"] == state:
                maps = {(str(m["model"]), str(m["phase"])): m for m in image["maps"]}
                shots = [_map(facts, folder, image, maps[pair]) if pair in maps else None for pair in pairs]
                rows.append((_named(image), [_plain(folder, image), *shots]))
        title, note = f"Where they look on {words}", "Under each map the detector's P(fake)."
        wanted.append(Rows(f"looks-{state}", title, head, rows, note))
    return [gallery for gallery in shelf.galleries(wanted) if gallery is not None]


def _named(image: Mapping[str, Any]) -> str:
    condition = "" if image["condition"] == "clean" else f", {image['condition']}"
    return f"{image['image_id']} ({LABELS[int(image['label'])]}{condition})"


def _plain(folder: Path, image: Mapping[str, Any]) -> Shot:
    return Shot(picture_path(folder, str(image["picture"])), "", f"{_named(image)}, as the detectors see it")


def _map(facts: Facts, folder: Path, image: Mapping[str, Any], shown: Mapping[str, Any]) -> Shot:
    model, phase, p = str(shown["model"]), str(shown["phase"]), float(shown["p_fake"])
    subject = facts.subjects.get((model, phase))
    threshold = subject.decision.threshold if subject and subject.decision else 0.5
    right = (p >= threshold) == (int(image["label"]) == 1)
    alt = f"Map of {model} on {_named(image)}: P(fake) {p:.2f}"
    return Shot(picture_path(folder, str(shown["picture"])), f"{p:.2f}", alt, "right" if right else "wrong")


def _trust(found: Mapping[str, Any]) -> Table:
    rows: list[Mapping[str, Cell]] = []
    for detector in found["detectors"]:
        sane, faithful = detector["sanity"], detector["faithfulness"]
        rows.append(
            {
                "detector": str(detector["model"]),
                "phase": str(detector["phase"]),
                "sane": "pass" if sane["passed"] else "fail",
                "correlation": Estimate(defined(sane["correlation"])),
                "faithful": bounded(faithful["value"], faithful["low"], faithful["high"], faithful["n"]),
                "layer": str(detector["layer"]),
                "size": " × ".join(str(side) for side in detector["size"]),
            }
        )
    first = found["detectors"][0]["faithfulness"] if found["detectors"] else {"name": "Faithfulness", "meaning": ""}
    columns = [
        Column("detector", "Detector"),
        Column("phase", "Phase"),
        Column(
            "sane",
            "Depends on what was learnt",
            "verdict",
            "Fails where a network with random weights has the same map.",
        ),
        Column(
            "correlation", "Likeness to random", "number", "Rank correlation with the map of random weights.", "lower"
        ),
        Column("faithful", str(first["name"]).capitalize(), "percent", str(first["meaning"]), "higher"),
        Column("layer", "Layer"),
        Column("size", "Size"),
    ]
    return Table("trust-table", "What the maps are worth", columns, rows)
