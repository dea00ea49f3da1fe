"""Attacked images: under every budget from `rdf explain`, and the examples of `rdf attack --save-images`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_df.errors import RunError
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.pieces import Rows, Shelf, Shot, picture_path
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import LABELS, label_of
from robustbench_df.report.document import Gallery

EXAMPLES = 8
"""Most images of `rdf attack --save-images` that are shown."""


def attacked(facts: Facts, shelf: Shelf) -> list[tuple[Pair, Gallery]]:
    """Return a gallery of images × ε for each detector, from `rdf explain`."""
    entries = (facts.material.specimens or {}).get("attacked", ())
    folder = facts.material.run.file("explain", "pictures")
    pairs = list(dict.fromkeys((str(e["model"]), str(e["phase"])) for e in entries))
    wanted = [_rows(facts, folder, pair, [e for e in entries if (e["model"], e["phase"]) == pair]) for pair in pairs]
    shown = zip(pairs, shelf.galleries(wanted), strict=True)
    return [(pair, gallery) for pair, gallery in shown if gallery is not None]


def _rows(facts: Facts, folder: Path, pair: Pair, entries: Sequence[Mapping[str, Any]]) -> Rows:
    budgets = sorted({float(e["eps"]) for e in entries})
    rows = []
    for image in dict.fromkeys(str(e["image_id"]) for e in entries):
        by_eps = {float(e["eps"]): e for e in entries if e["image_id"] == image}
        shots = [_shot(facts, folder, by_eps[eps]) if eps in by_eps else None for eps in budgets]
        label = LABELS[int(next(iter(by_eps.values()))["label"])]
        rows.append((f"{image} ({label})", shots))
    return Rows(
        f"attacked-{facts.keys[pair[0]]}-{pair[1]}",
        f"What {label_of(*pair)} says of images under {entries[0]['attack']}",
        ["no attack" if not eps else f"ε = {eps:g}" for eps in budgets],
        rows,
        "Under each image the detector's P(fake) after calibration.",
    )


def _shot(facts: Facts, folder: Path, entry: Mapping[str, Any]) -> Shot:
    model, phase, p, label = str(entry["model"]), str(entry["phase"]), float(entry["p_fake"]), int(entry["label"])
    subject = facts.subjects.get((model, phase))
    threshold = subject.decision.threshold if subject and subject.decision else 0.5
    right = (p >= threshold) == (label == 1)
    alt = f"{entry['image_id']}, {LABELS[label]}, ε {entry['eps']:g}: {model} calls it {LABELS[int(p >= threshold)]}"
    path = picture_path(folder, str(entry["picture"]))
    return Shot(path, f"P(fake) {p:.2f}", alt, "right" if right else "wrong")


def saved(facts: Facts, shelf: Shelf) -> list[Gallery]:
    """Return the examples of `rdf attack --save-images`: clean, attacked, and the amplified difference."""
    found = []
    for number, path in enumerate(sorted(facts.material.run.path.glob("attacks/examples-*/examples.json"))):
        try:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            names = [(str(row["image_id"]), int(row["label"])) for row in kept["images"]]
            title = f"{kept['attack']}, {kept['threat']}: {path.parent.name.removeprefix('examples-')}"
            note = (
                f"Difference enlarged {kept['amplified']} times around grey. Of {kept['fooled']} that fool the "
                f"detector {kept['fooled_after_rounding']} still do as 8-bit files."
            )
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"'{path}' is damaged ({error}); delete its folder and attack again") from error
        rows = []
        for image, label in names[:EXAMPLES]:
            stem = image.replace("/", "__")
            kinds = ("clean", "adversarial", "difference")
            shots = [Shot(path.parent / f"{stem}-{kind}.png", "", f"{image}, {kind}") for kind in kinds]
            rows.append((f"{image} ({LABELS[label]})", shots))
        found += shelf.gallery(Rows(f"examples-{number}", title, ["clean", "attacked", "difference"], rows, note))
    return found
