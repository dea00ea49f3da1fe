"""Section 6: the images, the audit's findings, and the images that detectors get wrong or disagree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustbench_df.audit.finding import WORST_FIRST, Audit, Example
from robustbench_df.metrics.hardness import disputed, hardest
from robustbench_df.metrics.scores import Floats, probability
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import Subject
from robustbench_df.report.content.pieces import Piece, Rows, Shelf, Shot, Tab, picture_path, tabbed, wrapped
from robustbench_df.report.content.words import LABELS, PARTS
from robustbench_df.report.document import Block, Cell, Column, Table, Text
from robustbench_df.wording import counted, listed

MOST = 24
"""Most rows in the tables of single images, and most pictures in a gallery."""

MOST_FINDINGS = 50
"""Most bad images that are listed by name; their total number is always given."""


def data_section(facts: Facts) -> Piece:
    """Build the section."""
    shelf, members = Shelf(), _members(facts)
    ranked = _ranked(members)
    shown = _pictures(facts, shelf, members, ranked)
    tabs = [
        Tab("Audit", _audit(facts)),
        Tab("Counts", [*_counts(facts), *_bad(facts)]),
        Tab("Examples", shown.get("examples", [])),
        Tab("Hardest images", [*_hardest(members, ranked), *shown.get("hardest", [])]),
        Tab("Disagreement", [*_disagreed(members, ranked), *shown.get("disagreed", [])]),
    ]
    images = facts.material.provenance.get("images")
    known = counted(int(images), "image") if images is not None else "Images"
    lead = f"{known} of {facts.material.config.data.source.rsplit('/', 1)[-1]}: what was looked for before any number."
    return Piece(tabbed("data", "Data", lead, tabs), shelf.pictures)


# --- audit and counts -----------------------------------------------------------------------------


def _audit(facts: Facts) -> list[Block]:
    audit = facts.material.audit
    if audit is None:
        return [Text(f"Not run. Make it with: {facts.material.command('audit')}")]
    rows: list[Mapping[str, Cell]] = [
        {
            "finding": finding.title,
            "severity": finding.severity,
            "id": finding.id,
            "detail": finding.detail,
            "remedy": finding.remedy,
            "images": listed([_example(image) for image in finding.images]),
        }
        for finding in sorted(audit.findings, key=lambda f: WORST_FIRST.index(f.severity))
    ]
    columns = [
        Column("finding", "Looked at"),
        Column("severity", "Finding", "verdict"),
        Column("detail", "What was seen"),
        Column("remedy", "What to do"),
        Column("images", "Images"),
        Column("id", "Id"),
    ]
    return [Table("audit-table", f"Audit: {audit.said()}", columns, rows, _settled(audit), "severity")]


def _settled(audit: Audit) -> str:
    """Say which failing findings the run's own split removes, and in spite of which the run was trained."""
    words = []
    if audit.cured:
        words.append(f"The run's own split takes care of {', '.join(audit.cured)}.")
    if audit.allowed:
        words.append(f"The run was trained in spite of {', '.join(audit.allowed)}.")
    return " ".join(words)


def _example(image: Example) -> str:
    return image if isinstance(image, str) else f"{image[0]} ~ {image[1]}"


def _counts(facts: Facts) -> list[Block]:
    """Numbers of images by part and class; with folds, those of the first fold, because all folds are similar."""
    split, labels = facts.material.split, _labels(facts)
    if split is None:
        return [Text(f"Counts: not run. {facts.material.command('train-all --resume')}")]
    folds = facts.material.run.folds
    first = split[split["fold"] == split["fold"].min()]
    rows: list[Mapping[str, Cell]] = []
    for part in ("train", "val", "cal", "test"):
        names = [str(name) for name in first[first["part"] == part]["image_id"]]
        if names:
            found = Counter(labels.get(name) for name in names)
            classes: dict[str, Cell] = {word: found[label] if labels else None for label, word in enumerate(LABELS)}
            rows.append({"part": part, **classes, "n": len(names)})
    columns = [Column("part", "Part"), *(Column(word, word, "count") for word in LABELS)]
    note = f"The first of {folds} folds; cal is its held-out part." if folds > 1 else ""
    return [Table("counts-table", "Images by part and class", [*columns, Column("n", "Images", "count")], rows, note)]


def _labels(facts: Facts) -> dict[str, int]:
    """Labels by image, for every image whose label the run recorded."""
    images = facts.material.images
    if images is not None:
        return {str(name): int(label) for name, label in zip(images["image_id"], images["label"], strict=True)}
    # Older runs have no `images.parquet`: out of fold every labelled image is judged, otherwise only held-out images.
    tables = [predictions.table for predictions in facts.material.clean.values()]
    known = {str(name): int(v) for t in tables for name, v in zip(t["image_id"], t["label"], strict=True)}
    split = facts.material.split
    whole = split is not None and known.keys() >= set(split["image_id"].astype(str))
    return known if whole else {}


def _bad(facts: Facts) -> list[Block]:
    findings = facts.material.findings
    if not findings:
        return []
    rows: list[Mapping[str, Cell]] = [
        {"kind": str(f["kind"]), "where": str(f["where"]), "detail": str(f["detail"])} for f in findings[:MOST_FINDINGS]
    ]
    columns = [Column("where", "Where"), Column("kind", "Kind"), Column("detail", "What was wrong")]
    left = len(findings) - MOST_FINDINGS
    note = f"{left:,} more stand in findings.json." if left > 0 else ""
    return [Table("findings-table", f"{counted(len(findings), 'finding')} in the source", columns, rows, note, "kind")]


# --- single images --------------------------------------------------------------------------------


def _members(facts: Facts) -> list[Subject]:
    """The detectors of the shipped phase; before weights are fitted, those of the latest judged phase."""
    return [s for (model, own), s in facts.subjects.items() if own == facts.phase and model != "ensemble"]


Ranked = Mapping[str, Sequence[int]]
"""Rows of the judged images, the most informative first, by the name of their list in ``specimens.json``."""


def _ranked(members: Sequence[Subject]) -> Ranked:
    """Rank the images that detectors get wrong, and those that they disagree on."""
    if not members:
        return {"hardest": (), "disagreed": ()}
    p_fake, verdict = _p_fake(members), np.array([subject.judged.verdict for subject in members])
    found = {"hardest": hardest(p_fake, verdict, members[0].labels), "disagreed": disputed(p_fake, verdict)}
    return {name: rows.tolist() for name, rows in found.items()}


def _p_fake(members: Sequence[Subject]) -> Floats:
    return np.array([probability(subject.judged.margin) for subject in members])


def _hardest(members: Sequence[Subject], ranked: Ranked) -> list[Block]:
    if not members:
        return []
    note = f"{len(ranked['hardest']):,} of {len(members[0].labels):,} images are wrong by at least one detector."
    return [_table("hardest", "Wrong by most detectors", members, ranked, note)]


def _disagreed(members: Sequence[Subject], ranked: Ranked) -> list[Block]:
    if len(members) < 2:
        return []
    note = f"On {len(ranked['disagreed']):,} of {len(members[0].labels):,} images the verdicts differ."
    return [_table("disagreed", "P(fake) farthest apart", members, ranked, note)]


def _described(members: Sequence[Subject], row: int) -> dict[str, Cell]:
    label = int(members[0].labels[row])
    cells: dict[str, Cell] = {
        "image": members[0].ids[row],
        "label": LABELS[label],
        "wrong": sum(not subject.right[row] for subject in members),
    }
    for k, subject in enumerate(members):
        cells[f"p{k}"] = round(float(probability(subject.judged.margin[row : row + 1])[0]), 4)
    return cells


def _table(name: str, title: str, members: Sequence[Subject], ranked: Ranked, note: str) -> Table:
    rows = [_described(members, row) for row in ranked[name][:MOST]]
    columns = [
        Column("image", "Image"),
        Column("label", "Truth"),
        Column("wrong", "Wrong by", "count", f"Of {len(members)} detectors."),
        *(Column(f"p{k}", subject.model, "number", "P(fake).") for k, subject in enumerate(members)),
    ]
    where = PARTS.get(members[0].part, members[0].part)
    title, note = f"{title} ({where}, {members[0].phase})", f"{note} The first {len(rows)} are shown."
    return Table(f"{name}-table", title, columns, rows, note)


# --- pictures -------------------------------------------------------------------------------------


def _pictures(facts: Facts, shelf: Shelf, members: Sequence[Subject], ranked: Ranked) -> dict[str, list[Block]]:
    """Examples, and those ranked images of which `rdf explain` stored a picture, by the name of their list."""
    found, command = facts.material.specimens, facts.material.command("explain")
    if found is None:
        return {"examples": [Text(f"Not run. Make them with: {command}")]}
    shots = [(int(entry["label"]), _shot(facts, entry, "")) for entry in found.get("examples", ())]
    rows = [(LABELS[label], [shot for own, shot in shots if own == label][:MOST]) for label in (0, 1)]
    titles = {"hardest": "The images that most detectors get wrong", "disagreed": "The images they disagree on most"}
    wanted = {"examples": Rows("examples", "What the images look like", (), wrapped([row for row in rows if row[1]]))}
    for name, title in titles.items():
        own = _kept(facts, members, found.get(name, ()), ranked[name])
        wanted[name] = Rows(f"{name}-images", title, (), wrapped([("", own)]))
    shown = zip(wanted, shelf.galleries(list(wanted.values())), strict=True)
    missing = Text(f"Pictures: none of these images. Make them with: {command}")
    blocks: dict[str, list[Block]] = {name: [missing] for name in titles if ranked[name]}
    blocks |= {name: [gallery] for name, gallery in shown if gallery is not None}
    return blocks


def _kept(
    facts: Facts, members: Sequence[Subject], entries: Sequence[Mapping[str, Any]], ranked: Sequence[int]
) -> list[Shot]:
    """Pictures of a table's rows, in the table's order and with its numbers; `rdf explain` may have used older ones."""
    by_id = {str(entry["image_id"]): entry for entry in entries}
    shots = []
    for row in ranked[:MOST]:
        entry = by_id.get(members[0].ids[row])
        if entry is not None:
            p, truth = _p_fake(members)[:, row], LABELS[members[0].labels[row]]
            shots.append(_shot(facts, entry, f"{truth}; P(fake) {p.min():.2f} to {p.max():.2f}"))
    return shots


def _shot(facts: Facts, entry: Mapping[str, Any], caption: str) -> Shot:
    path = picture_path(facts.material.run.file("explain", "pictures"), str(entry["picture"]))
    return Shot(path, caption, f"{entry['image_id']} ({LABELS[int(entry['label'])]})")
