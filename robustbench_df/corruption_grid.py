"""`rdf corrupt`: a run's detectors on corrupted images, cell by cell; a finished cell is never computed again.

A cell is one detector under one corruption at one severity, or under a chain. Detectors are evaluated as deployed, with
their decision; with folds, each image is scored by the detectors that have not seen it. Each batch is corrupted once
for all detectors, and a member's output is reused by the ensemble. Most time therefore goes into unavoidable forward
passes, which run in the faster precision where it gives the same verdicts (`robustbench_df.corruption_precision`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df import corruption_precision
from robustbench_df.attack_plan import choose_part
from robustbench_df.corruption_plan import CorruptionCell, CorruptionPlan, Damage, constants_of, plan_cells
from robustbench_df.corruption_precision import Choice, Network, Pair
from robustbench_df.corruption_summary import CLEAN
from robustbench_df.data.imageset import ImageSet
from robustbench_df.devices import choose_device, synchronize
from robustbench_df.evaluate import predictions_table
from robustbench_df.memory import is_out_of_memory, keep_freed_memory
from robustbench_df.metrics.scores import margins
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Ensemble
from robustbench_df.progress import Reporter
from robustbench_df.records import Predictions
from robustbench_df.robustness import Index, works
from robustbench_df.run import Run
from robustbench_df.train.speed import PROBE_BATCH
from robustbench_df.wording import duration

LONG = 60
"""If the remaining corruptions should take longer than this, in seconds, the estimate is reported."""

PIXELS = 2**21
"""Most pixels in a batch (41 images of 224 px): a corruption holds several 64-bit copies while it draws its noise."""


@dataclass(frozen=True, eq=False)
class Team:
    """The detectors that may score some images: those of one fold, or the deployed ones.

    ``networks`` are the distinct networks of the detectors: a member that is also evaluated alone is one network that
    two detectors share.
    """

    detectors: dict[Pair, Deployed]
    networks: dict[Pair, Network]
    index: Index
    part: str
    fold: int


@dataclass(eq=False)
class Collected:
    """The results of a cell so far."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, table: pd.DataFrame, seconds: float) -> None:
        """Add the predictions for one batch."""
        self.tables.append(table)
        self.seconds += seconds

    @property
    def table(self) -> pd.DataFrame:
        """All predictions so far."""
        return pd.concat(self.tables, ignore_index=True)


def corrupt_run(run: Run, plan: CorruptionPlan, reporter: Reporter | None = None) -> list[CorruptionCell]:
    """Evaluate a run's detectors on corrupted images; only missing cells are computed, each is written when it ends.

    The cells include a clean one per detector: the same images, unchanged, in fp32.

    Raises:
        UsageError: an unknown model, corruption, chain, constant set or part.
        RunError: the run is not finished, or its images have changed.
    """
    cells = plan_cells(run, plan)
    pairs = list(dict.fromkeys(cell.pair for cell in cells if not cell.path.exists()))
    if pairs:
        images = run.images()
        with run.lock():
            keep_freed_memory()
            _Grid(run, plan, images, _teams(run, pairs, images, plan), reporter or Reporter()).compute(cells)
    return cells


def _teams(run: Run, pairs: Sequence[Pair], images: ImageSet, plan: CorruptionPlan) -> list[Team]:
    part = choose_part(run, plan.part)
    found = {pair: works(run, *pair, images, part, plan.places) for pair in pairs}
    teams = []
    for k, work in enumerate(found[pairs[0]]):
        detectors = {pair: cast(Deployed, found[pair][k].detector) for pair in pairs}
        networks = _share(detectors, run.models)
        teams.append(Team(detectors, networks, work.index, work.part, work.fold))
    return teams


def _share(detectors: Mapping[Pair, Deployed], models: Sequence[str]) -> dict[Pair, Network]:
    """Let an ensemble share the networks of the members that are also evaluated alone in the same phase."""
    networks: dict[Pair, Network] = {}
    for pair, detector in detectors.items():
        if pair[0] != "ensemble":
            detector.net = networks[pair] = Network(detector.net)
    for (name, phase), detector in detectors.items():
        if name == "ensemble":
            whole = cast(Ensemble, detector.net)
            for k in whole.used:
                member = networks.get((models[k], phase)) or Network(whole.members[k])
                whole.members[k] = networks[models[k], phase] = member
    return networks


def members_of(pair: Pair, detector: Deployed, models: Sequence[str]) -> list[Pair]:
    """Name the networks that a detector uses: its own, or those of an ensemble's members."""
    if pair[0] != "ensemble":
        return [pair]
    return [(models[k], pair[1]) for k in cast(Ensemble, detector.net).used]


@dataclass(eq=False)
class _Grid:
    """A run's detectors, the images that they may score, and the time of their forward passes so far."""

    run: Run
    plan: CorruptionPlan
    images: ImageSet
    teams: list[Team]
    reporter: Reporter
    forwards: float = 0.0
    """Seconds."""

    def compute(self, cells: Sequence[CorruptionCell]) -> None:
        """Compute the missing cells, the clean ones first, and report how long it took."""
        started = time.perf_counter()
        missing = [cell for cell in cells if not cell.path.exists()]
        damaged = [cell for cell in missing if cell.damage.name != CLEAN]
        self._all([cell for cell in missing if cell.damage.name == CLEAN], {})
        choices = self._choose(cells, damaged) if damaged else {}
        for pair, choice in choices.items():
            if choice.n:
                self.reporter.say(f"{' '.join(pair)}: {choice.said}")
        self._all(damaged, choices)
        seconds = time.perf_counter() - started
        self.reporter.say(
            f"{len(missing)} cells in {seconds:.0f} s, {1 - self.forwards / seconds:.0%} of it outside the forwards"
        )

    def _all(self, cells: Sequence[CorruptionCell], choices: Mapping[Pair, Choice]) -> None:
        """Evaluate and write the cells, those of one damage together; in fp32 if no precision was chosen."""
        self._answer_in({pair: choice.precision for pair, choice in choices.items()})
        count = sum(len(team.index) for team in self.teams)
        damages, started = len({cell.damage for cell in cells}), time.perf_counter()
        done = 0
        for name, some in groupby(cells, key=lambda cell: cell.damage.name):
            same = [list(group) for _, group in groupby(some, key=lambda cell: cell.damage)]
            self.reporter.start(f"{name} · {max(map(len, same))} detectors", count * len(same))
            for group in same:
                self._write(group, *self._judge(group[0].damage, [cell.pair for cell in group]), choices)
                done += 1
                if done == 1 and (seconds := (damages - 1) * (time.perf_counter() - started)) > LONG:
                    self.reporter.say(f"{damages - 1} like the first are left: about {duration(seconds)}")
            self.reporter.finish()

    # --- precision --------------------------------------------------------------------------------

    def _choose(self, cells: Sequence[CorruptionCell], damaged: Sequence[CorruptionCell]) -> dict[Pair, Choice]:
        """Choose the precision for the detectors of ``damaged``: as requested, as in earlier cells, or by measuring."""
        pairs = list(dict.fromkeys(cell.pair for cell in damaged))
        members = {pair: members_of(pair, self.teams[0].detectors[pair], self.run.models) for pair in pairs}
        asked = self.plan.precision
        n = sum(len(team.index) for team in self.teams)
        known = self._remembered(cells, pairs) if asked == "auto" else {}
        if known:
            return known
        small = n * len({cell.damage for cell in damaged}) < corruption_precision.WORTH
        if asked != "auto" or small or choose_device(self.plan.device) == "mps":  # mps: fp32 only, as in training
            chosen = "fp32" if asked == "auto" else asked
            return {pair: corruption_precision.given(chosen, (name for name, _ in members[pair])) for pair in pairs}
        self.reporter.start("choosing a precision", n)
        x, _ = self._damaged(Damage(CLEAN), self.teams[0].index[:PROBE_BATCH])
        used = {net for pair in pairs for net in members[pair]}
        rates = {net: corruption_precision.timed(self.teams[0].networks[net], x) for net in used}
        self._answer_in({net: {net[0]: corruption_precision.faster(own)} for net, own in rates.items()})
        exact = {cell.pair: cell.load(self.run) for cell in cells if cell.damage.name == CLEAN and cell.pair in pairs}
        fast, _ = self._judge(Damage(CLEAN), pairs)
        self.reporter.finish()
        differences = {
            pair: corruption_precision.apart(
                margins(exact[pair].logits),
                margins(fast[pair].table[["logit_real", "logit_fake"]].to_numpy()),
                self.teams[0].detectors[pair].offset,
            )
            for pair in pairs
        }
        return corruption_precision.settle(pairs, members, rates, differences, n, self._machine())

    def _machine(self) -> str:
        return corruption_precision.machine(choose_device(self.plan.device))

    def _remembered(self, cells: Sequence[CorruptionCell], pairs: Sequence[Pair]) -> dict[Pair, Choice]:
        """Return the choices recorded in finished cells; empty if a detector has none or if two choices differ."""
        known: dict[Pair, Choice] = {}
        for cell in cells:
            if cell.pair in pairs and cell.pair not in known and cell.damage.name != CLEAN and cell.path.exists():
                found = corruption_precision.remembered(cell.load(self.run).notes, self._machine())
                known |= {cell.pair: found} if found else {}
        said = {(net, pair[1], how) for pair, choice in known.items() for net, how in choice.precision.items()}
        return known if len(known) == len(pairs) and len(said) == len({net[:2] for net in said}) else {}

    def _answer_in(self, precision: Mapping[Pair, Mapping[str, str]]) -> None:
        """Set the precision of every network: ``precision`` maps detector -> network -> precision; others get fp32."""
        found = {(name, pair[1]): how for pair, own in precision.items() for name, how in own.items()}
        for team in self.teams:
            for net, network in team.networks.items():
                network.precision = found.get(net, "fp32")

    # --- cells ------------------------------------------------------------------------------------

    def _judge(self, damage: Damage, pairs: Sequence[Pair]) -> tuple[dict[Pair, Collected], float]:
        """Score every image, damaged, by the detectors; returns their predictions and the seconds spent on damaging."""
        collected = {pair: Collected() for pair in pairs}
        corrupting = 0.0
        size = max(min(self.plan.batch, PIXELS // (self.images.size[0] * self.images.size[1])), 1)
        for team in self.teams:
            done = 0
            while done < len(team.index):
                index = team.index[done : done + size]
                try:
                    x, seconds = self._damaged(damage, index)
                    answers = {pair: _answer(team.detectors[pair], x) for pair in pairs}
                except RuntimeError as error:
                    if not is_out_of_memory(error) or size == 1:
                        raise
                    size //= 2
                    continue
                corrupting += seconds
                for (model, phase), (logits, spent) in answers.items():
                    names = {"model": model, "phase": phase, "condition": damage.condition}
                    some = predictions_table(self.images, index, logits, **names, part=team.part, fold=team.fold)
                    collected[model, phase].add(some.table, spent)
                    self.forwards += spent
                done += len(index)
                self.reporter.advance(len(index))
        return collected, corrupting

    def _damaged(self, damage: Damage, index: Index) -> tuple[Tensor, float]:
        """Return images as input for a detector, damaged as 8-bit pixels, and the seconds that this took."""
        device = torch.device(choose_device(self.plan.device))
        pixels = torch.from_numpy(self.images.pixels(index)).to(device)
        ids = torch.from_numpy(self.images.keys(index)).to(device)
        started = time.perf_counter()
        # Channels last is the faster layout for convolutions, as in `evaluate`.
        x = damage.apply(pixels, ids, self.plan.seed, constants_of(self.run, self.plan)).float().div_(255)
        x = x.contiguous(memory_format=torch.channels_last)
        synchronize(device)
        return x, time.perf_counter() - started

    def _write(
        self,
        cells: Sequence[CorruptionCell],
        collected: Mapping[Pair, Collected],
        corrupting: float,
        choices: Mapping[Pair, Choice],
    ) -> None:
        """Write the cells of one damage."""
        damage, constants = cells[0].damage, constants_of(self.run, self.plan)
        notes = {
            "corruption": damage.name,
            "severity": damage.severity,
            "constants": damage.constants(constants),
            "made_with": damage.made_with(constants),
            "seed": self.plan.seed,
            "corrupting_seconds": round(corrupting, 4),  # once for all detectors
        }
        for cell in cells:
            own, choice = collected[cell.pair], choices.get(cell.pair)
            precision = {
                "precision": choice.text if choice else "fp32",
                "choice": choice.to_dict() if choice and choice.n else None,
            }
            found = {**notes, **precision, "seconds": round(own.seconds, 4)}
            Predictions(own.table, self.run.fingerprint, found).save(cell.path)


@torch.no_grad()
def _answer(detector: nn.Module, x: Tensor) -> tuple[NDArray[np.float32], float]:
    """Return deployed logits ``[N, 2]`` and the seconds they took."""
    started = time.perf_counter()
    logits: NDArray[np.float32] = detector(x).float().cpu().numpy()
    return logits, time.perf_counter() - started
