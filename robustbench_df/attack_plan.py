"""The settings of `rdf attack`, and the resulting cells: each is one detector, one attack and one budget."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from robustbench_df.attacks.catalogue import attack_named
from robustbench_df.attacks.runner import BATCH
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.suite import suite_specs
from robustbench_df.attacks.threat import Threat
from robustbench_df.errors import RunError, UsageError, nearest
from robustbench_df.models.wrappers import attackable_vote, soft_surrogate
from robustbench_df.records import Predictions, load_predictions
from robustbench_df.run import Run
from robustbench_df.settings import Count, Settings
from robustbench_df.summary import JUDGED_PARTS, JudgedPart, judged_part

VOTES = {"vote": attackable_vote, "vote-surrogate": soft_surrogate}
"""The members' majority vote, and the smooth surrogate that provides its gradient; attacked only if named."""


WantedPart = Literal["auto", JudgedPart]
"""The requested part of the images; ``auto``: the part that the run's own numbers come from (`choose_part`)."""


class AttackPlan(Settings):
    """Settings of `rdf attack`."""

    epsilons: tuple[Annotated[float, Field(ge=0)], ...] = (8 / 255,)
    norm: Literal["linf", "l2", "l1"] = "linf"
    attacks: tuple[AttackSpec | str, ...] = (AttackSpec(name="fgsm"), "quick")
    """Attacks, or names of suites."""
    models: tuple[str, ...] = ()
    """Names of detectors, also ``ensemble``; empty: all except the `VOTES`."""
    phases: tuple[Literal["base", "final"], ...] = ("base", "final")
    part: WantedPart = "auto"
    images: Count = 500
    """Largest number of images, evenly spaced; 0: all of the part."""
    seed: int = 0
    device: str = "auto"
    batch: Annotated[int, Field(ge=1)] = BATCH


@dataclass(frozen=True)
class Cell:
    """One detector under one attack or suite at one budget, and the path of its table."""

    model: str
    phase: str
    attack: AttackSpec | str
    threat: Threat
    path: Path

    @property
    def attack_name(self) -> str:
        """Name of the attack or suite."""
        return self.attack if isinstance(self.attack, str) else self.attack.name

    @property
    def condition(self) -> str:
        """Stable name, used in tables."""
        return f"{self.attack_name}-{self.threat.name}"

    @property
    def title(self) -> str:
        """Title shown next to its progress."""
        return f"{self.model} · {self.phase} · {self.attack_name} {self.threat}"

    def specs(self) -> list[AttackSpec]:
        """The attacks of the cell at its budget."""
        if isinstance(self.attack, str):
            return suite_specs(self.attack, self.threat.eps, self.threat.norm)
        return [self.attack.replaced(eps=self.threat.eps, norm=self.threat.norm)]

    def load(self, run: Run) -> Predictions:
        """Read the finished cell."""
        return load_predictions(self.path, run.fingerprint)


def plan_cells(run: Run, plan: AttackPlan) -> list[Cell]:
    """List the cells of a plan: by detector, phase, attack (in the plan's order) and increasing budget."""
    if not run.finished:
        raise RunError(f"run '{run.path}' is not finished; go on with: {run.resume_command}")
    whole = (*run.models, "ensemble")
    choices = (*whole, *VOTES)
    models = plan.models or whole
    for name in models:
        if name not in choices:
            raise UsageError(
                f"run '{run.name}' has no model '{name}'{nearest(name, choices)}; it has {', '.join(choices)}"
            )
    part = choose_part(run, plan.part)
    cells = []
    for name in models:
        for phase in plan.phases:
            for attack in plan.attacks:
                for eps in sorted(set(plan.epsilons)):
                    cell = Cell(name, phase, attack, Threat(plan.norm, eps), Path())
                    path = run.file("attacks", _file_name(run, cell, part, plan))
                    cells.append(Cell(name, phase, attack, cell.threat, path))
    return cells


def _file_name(run: Run, cell: Cell, part: str, plan: AttackPlan) -> str:
    """Return a cell's file name: its description and a digest of everything that its numbers depend on."""
    specs = cell.specs()
    for spec in specs:
        attack_named(spec.name).check(spec)
    members = run.models if cell.model in VOTES else (cell.model,)
    decision = [run.decision(name, cell.phase).to_dict() for name in members]
    weights = run.weights(phase=cell.phase).to_dict() if cell.model == "ensemble" else None
    # A single decision is not put into a list, so that files written before votes existed keep their names.
    what = [[spec.model_dump(mode="json") for spec in specs], part, plan.images, plan.seed]
    what += [decision if cell.model in VOTES else decision[0], weights]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=4).hexdigest()
    stem = f"{cell.model}-{cell.phase}-{cell.condition}-{digest}"
    return stem.replace(":", "_").replace("/", "_") + ".parquet"


def choose_part(run: Run, wanted: str) -> str:
    """Resolve ``auto`` to the part that the run's own numbers come from (`robustbench_df.summary.judged_part`).

    Raises:
        UsageError: the run has no such part.
    """
    has = set(run.split["part"])
    if run.folds > 1:
        has = (has - {"val", "cal"}) | {"oof"}  # val and cal of one fold are train in another
    there = [part for part in JUDGED_PARTS if part in has]
    if wanted == "auto":
        return judged_part(there)
    if wanted not in there:
        raise UsageError(f"run '{run.name}' has no part '{wanted}' to attack; choose from {', '.join(there)}")
    return wanted
