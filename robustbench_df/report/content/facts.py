"""The numbers of a report, computed once from the files, so that all sections and sentences show the same values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from robustbench_df import corruption_summary
from robustbench_df.attacks.summary import summarise
from robustbench_df.corruption_summary import CLEAN, Calibrated, Key, Score
from robustbench_df.metrics.intervals import Interval
from robustbench_df.report.content.judging import Subject, about, deployed_margins, subjects_of, votes_of
from robustbench_df.report.content.reading import AttackCell, CorruptionCell, Material, Pair, read_run
from robustbench_df.report.content.words import estimate, keys_of
from robustbench_df.report.document import Estimate
from robustbench_df.summary import best_member, judged_part

AnyCell = TypeVar("AnyCell", AttackCell, CorruptionCell)

SAME = 0.01
"""Largest relative difference of clean margins at which a cell counts as made with the run's current detector and
decision: different devices and batch sizes change a margin by less."""

VOTES = ("vote", "vote-surrogate")
"""The names in `robustbench_df.attack_plan.VOTES`: they can be attacked, but have no single detector's margins."""


@dataclass(frozen=True, eq=False)
class AttackRow:
    """One cell of `rdf attack` and its numbers (`attacks.summary.summarise`)."""

    cell: AttackCell
    clean: Estimate
    accuracy: Estimate
    auc: Estimate
    fake_to_real: Estimate
    real_to_fake: Estimate
    forwards: float
    backwards: float
    not_finite: int

    @property
    def pair(self) -> Pair:
        """Detector and phase."""
        return self.cell.model, self.cell.phase


@dataclass(frozen=True, eq=False)
class Facts:
    """All facts that sections and sentences are made from; ``stale`` are cells of detectors no longer deployed."""

    material: Material
    subjects: Mapping[Pair, Subject]
    shipped: Subject | None
    best: Subject | None
    """The best single member, chosen on the data on which weights are chosen; None with fewer than two members."""
    attacks: Sequence[AttackRow]
    scores: Mapping[Key, Score]
    damaged: Mapping[Key, CorruptionCell]
    stale: Sequence[Path]
    superseded: Sequence[Path]
    """Cells left out because others of the same kind are of a better part, have more images, or fit the rest."""
    keys: Mapping[str, str]
    """Id of each detector, for anchors and file names."""

    @property
    def models(self) -> tuple[str, ...]:
        """The run's detectors."""
        return self.material.config.models

    @property
    def phase(self) -> str:
        """The shipped phase; before weights are fitted, the latest that was judged."""
        if self.shipped is not None:
            return self.shipped.phase
        return "final" if any(phase == "final" for _, phase in self.subjects) else "base"


def facts_of(path: Path) -> Facts:
    """Read a run and compute the facts of its report.

    Raises:
        RunError: it is no run, or a file is damaged, of another version or about other images.
    """
    material = read_run(path)
    subjects = subjects_of(material)
    phase = material.shipped[1] if material.shipped else "final"
    votes = votes_of(material, phase)
    best = best_member(votes.tables) if votes is not None and len(votes.tables) > 1 else None
    fresh = _Fresh(material)
    attacks, dropped = _chosen_attacks([cell for cell in material.attacks if fresh.attack(cell)])
    groups = about(material, "group")
    damaged, others = _chosen_corruptions(fresh.corruptions())
    return Facts(
        material=material,
        subjects=subjects,
        shipped=subjects.get(("ensemble", phase)) if material.shipped else None,
        best=subjects.get((best, phase)) if best else None,
        attacks=[_attack_row(cell, groups) for cell in _ordered(attacks, material)],
        scores=_scores(material, damaged),
        damaged=damaged,
        stale=fresh.stale,
        superseded=[*dropped, *others],
        keys=keys_of(dict.fromkeys((*material.config.models, "ensemble", *VOTES, *_strangers(material)))),
    )


def _strangers(material: Material) -> list[str]:
    """Names of detectors in the files of `rdf explain`, sorted; the run's settings may not have them."""
    names: set[str] = set()
    for found in (material.explained, material.specimens):
        names |= {str(entry["model"]) for name in ("detectors", "attacked") for entry in (found or {}).get(name, ())}
    return sorted(names)


class _Fresh:
    """Separates cells made with the run's current detectors, weights and decisions from stale ones."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._known: dict[Pair, dict[str, float] | None] = {}
        self.stale: list[Path] = []

    def _matches(self, pair: Pair, table: pd.DataFrame, prefix: str = "") -> bool:
        if pair not in self._known:
            self._known[pair] = deployed_margins(self._material, *pair) if pair[0] not in VOTES else None
        known = self._known[pair]
        if known is None:
            return pair[0] in VOTES  # otherwise it is a detector that the run does not have, or has not judged
        here = (table[f"{prefix}logit_fake"] - table[f"{prefix}logit_real"]).to_numpy(np.float64)
        expected = np.array([known.get(str(name), np.nan) for name in table["image_id"]])
        with np.errstate(invalid="ignore"):
            apart = np.abs(here - expected)
        if not np.isfinite(apart).any():
            return False
        return bool(np.nanmedian(apart) <= SAME * (1 + np.nanmedian(np.abs(expected))))

    def attack(self, cell: AttackCell) -> bool:
        """Whether a cell attacked the detector deployed now: its clean margins are those of the predictions."""
        good = self._matches((cell.model, cell.phase), cell.table, "clean_")
        if not good:
            self.stale.append(cell.path)
        return good

    def corruptions(self) -> list[CorruptionCell]:
        """Return the corruption cells that have a clean cell on the same images which matches the predictions.

        Cells without a clean cell on the same images cannot show what was lost, so they count as stale too.
        """
        clean = {}
        for cell in self._material.corruptions:
            if cell.key.corruption == CLEAN and self._matches(cell.key[:2], cell.table):
                clean[cell.key[:2], cell.ids] = cell
        good = []
        for cell in self._material.corruptions:
            if (cell.key[:2], cell.ids) in clean:
                good.append(cell)
            else:
                self.stale.append(cell.path)
        return good


def _ordered(cells: Iterable[AttackCell], material: Material) -> list[AttackCell]:
    """Sort cells by detector (in the run's order), phase, norm, attack (FGSM first) and budget."""
    names = [*material.config.models, "ensemble", *VOTES]
    place = {name: k for k, name in enumerate(names)}
    phases = {"base": 0, "final": 1}

    def key(cell: AttackCell) -> tuple[Any, ...]:
        return (place.get(cell.model, len(names)), phases.get(cell.phase, 2), cell.norm, cell.attack != "fgsm",
                cell.attack, cell.eps)  # fmt: skip

    return sorted(cells, key=key)


def _of_one_part(cells: Sequence[AnyCell]) -> tuple[list[AnyCell], list[Path]]:
    """Keep the cells of the part that counts most, because results shown together must be about the same images."""
    part = judged_part({cell.part for cell in cells}) if cells else ""
    return [cell for cell in cells if cell.part == part], [cell.path for cell in cells if cell.part != part]


def _chosen_attacks(cells: Sequence[AttackCell]) -> tuple[list[AttackCell], list[Path]]:
    """Keep the cells of one part, and of each kind only the one with the most images.

    Among equal ones, keep that with the lowest accuracy, which is nearer to the truth.
    """
    own, dropped = _of_one_part(cells)
    best: dict[tuple[Any, ...], AttackCell] = {}
    for cell in own:
        key = (cell.model, cell.phase, cell.label, cell.norm, cell.eps)
        other = best.setdefault(key, cell)
        if other is not cell:
            first, second = sorted((other, cell), key=_trust)
            best[key] = first
            dropped.append(second.path)
    return list(best.values()), dropped


def _trust(cell: AttackCell) -> tuple[Any, ...]:
    robust = cell.table["correct"] & ~cell.table["success"]
    return -len(cell.table), float(robust.mean()), cell.path.name


def _chosen_corruptions(cells: Sequence[CorruptionCell]) -> tuple[dict[Key, CorruptionCell], list[Path]]:
    """Keep the cells of one part and of one set of images, that with the most cells, so that detectors compare.

    Of each kind one cell is kept. If a corruption was made with several sets of constants, it is that with the set that
    most cells have.
    """
    own, _ = _of_one_part(cells)
    sets = Counter(cell.ids for cell in own)
    chosen = min(sets, key=lambda images: (-sets[images], -len(images), images), default=())
    kept = [cell for cell in own if cell.ids == chosen]
    common = Counter(str(cell.notes.get("constants")) for cell in kept if cell.key.corruption != CLEAN)
    order = sorted(kept, key=lambda cell: (-common[str(cell.notes.get("constants"))], cell.path.name))
    found: dict[Key, CorruptionCell] = {}
    for cell in order:
        found.setdefault(cell.key, cell)
    paths = {cell.path for cell in found.values()}
    return found, [cell.path for cell in cells if cell.path not in paths]


def _attack_row(cell: AttackCell, groups: Mapping[str, str]) -> AttackRow:
    numbers = summarise(cell.table, groups)

    def share(name: str) -> Estimate:
        value: Interval = numbers[name]
        return estimate(value)

    return AttackRow(
        cell,
        clean=share("clean_accuracy"),
        accuracy=share("accuracy"),
        auc=share("auc"),
        fake_to_real=share("fake_to_real"),
        real_to_fake=share("real_to_fake"),
        forwards=numbers["forwards"],
        backwards=numbers["backwards"],
        not_finite=numbers["not_finite"],
    )


def _scores(material: Material, damaged: Mapping[Key, CorruptionCell]) -> dict[Key, Score]:
    """Score every corruption cell, with detectors in the run's order, because the first is the reference of mCE."""
    names = [*material.config.models, "ensemble"]
    place = {name: k for k, name in enumerate(names)}
    clean = {key[:2]: cell.table for key, cell in damaged.items() if key.corruption == CLEAN}
    fitted = {pair: _calibrated(material, pair) for pair in clean}
    groups = about(material, "group")
    found: dict[Key, Score] = {}
    for key in sorted(damaged, key=lambda key: (place.get(key.model, len(names)), key.phase, key[2:])):
        pair = key[:2]
        found[key] = corruption_summary.score(damaged[key].table, fitted[pair], clean[pair], groups)
    return found


def _calibrated(material: Material, pair: Pair) -> Calibrated | None:
    if material.shipped is None:
        return None
    run = material.run
    return Calibrated(run.decision(*pair), run.band(*pair), material.config.ensemble.alpha)
