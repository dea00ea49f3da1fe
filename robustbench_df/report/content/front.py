"""Assemble the report of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_df.report.content.alerts import alerts_of
from robustbench_df.report.content.attacks import attacks_section
from robustbench_df.report.content.corruptions import corruptions_section
from robustbench_df.report.content.data import data_section
from robustbench_df.report.content.detectors import detectors_section
from robustbench_df.report.content.facts import Facts, facts_of
from robustbench_df.report.content.looks import looks_section
from robustbench_df.report.content.pieces import Piece
from robustbench_df.report.content.reproduce import reproduce_section
from robustbench_df.report.content.verdict import verdict_of
from robustbench_df.report.content.words import PARTS, rounded
from robustbench_df.report.document import Document
from robustbench_df.wording import counted

PARTS_OF_PAGE = (
    detectors_section,
    attacks_section,
    corruptions_section,
    looks_section,
    data_section,
    reproduce_section,
)
"""The sections below the verdict, in order."""


def document_of(run: Path) -> Document:
    """Read a run folder and return its report: the same files give the same document.

    Only files of the run are read, never its images, and no detector is needed. The report of an unfinished run shows
    what exists so far.

    Args:
        run: the run's folder.

    Raises:
        RunError: it is no run, or one of its files is damaged, of another version or about other images.
    """
    facts = facts_of(run)
    alerts = alerts_of(facts)
    pieces = [build(facts) for build in PARTS_OF_PAGE]
    document = Document(
        title=f"How far can it be trusted? {facts.material.name}",
        subtitle=_subtitle(facts),
        verdict=verdict_of(facts, alerts),
        alerts=alerts,
        sections=[piece.section for piece in pieces],
        pictures={key: data for piece in pieces for key, data in sorted(piece.pictures.items())},
        provenance=dict(facts.material.provenance),
        exports=composed(facts, pieces),
        exhibits=[block for piece in pieces for block in piece.exhibits],
    )
    return rounded(document)


def _subtitle(facts: Facts) -> str:
    source = facts.material.config.data.source.rsplit("/", 1)[-1]
    words = [f"{counted(len(facts.models), 'real/fake detector')} trained on {source}"]
    subject = facts.shipped or next(iter(facts.subjects.values()), None)
    if subject is not None:
        words.append(f"judged on {len(subject.labels):,} {PARTS.get(subject.part, subject.part)}")
    started: Any = facts.material.provenance.get("started")
    return ", ".join([*words, *([str(started)[:10]] if started else [])])


def composed(facts: Facts, pieces: Sequence[Piece]) -> Mapping[str, Sequence[str]]:
    """File names of the composed figures, as known from the recipe, and the blocks they consist of.

    Each detector also gets ``{model}_comparison``: before and after fine-tuning, clean and under attack.
    """
    found: dict[str, Sequence[str]] = {}
    for piece in pieces:
        found |= piece.exports
    for key in facts.keys.values():
        halves = [found.get(f"{key}_{name}") for name in ("base_evaluation", "final_evaluation")]
        under = [found.get(f"{key}_adv_{name}") for name in ("BEFORE", "AFTER")]
        blocks = [ids[0] for ids in (*halves, *under) if ids]
        if len(blocks) > 1:
            found[f"{key}_comparison"] = blocks
    return dict(sorted(found.items()))
