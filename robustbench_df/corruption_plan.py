"""The settings of `rdf corrupt`, and the cells that follow from them: detector x corruption x severity."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustbench_df import attack_plan
from robustbench_df.corruption_summary import CLEAN, COMMON
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.chain import Chain, apply_chain, parse_chain
from robustbench_df.corruptions.core import SEVERITIES
from robustbench_df.corruptions.library import SMALLEST, library_corrupt, mended_library
from robustbench_df.corruptions.suite import constant_set, corrupt
from robustbench_df.errors import UsageError, nearest
from robustbench_df.evaluate import BATCH
from robustbench_df.records import Predictions, load_predictions
from robustbench_df.run import Run
from robustbench_df.settings import Count, Settings

SETS = ("all", "common", "web")
"""Names of sets of corruptions: all, the 15 of ImageNet-C, or those that images undergo on the web."""

LIBRARY = "imagecorruptions"
"""The external backend."""


class CorruptionPlan(Settings):
    """Settings of `rdf corrupt`."""

    corruptions: tuple[str, ...] = ("all",)
    """Names of corruptions or of `SETS`."""
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = SEVERITIES
    chains: tuple[str, ...] = ()
    """Sequences of corruptions (`robustbench_df.corruptions.chain`)."""
    constants: Literal["auto", "cifar", "imagenet"] = "auto"
    backend: Literal["own", "imagecorruptions"] = "own"
    """``imagecorruptions`` runs that library itself on its 19 corruptions, for comparison with published numbers."""
    models: tuple[str, ...] = ()
    """Names of detectors, also ``ensemble``; empty: all."""
    phase: Literal["auto", "base", "final"] = "auto"
    """``auto``: detectors after clean training, the ensemble as shipped."""
    part: attack_plan.WantedPart = "auto"
    images: Count = 400
    """Largest number of images, evenly spaced; 0: all of the part."""
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the forward passes on damaged images; clean images are always scored in fp32. ``auto``: bf16 where a
    probe finds that it is faster and gives the same verdicts (`robustbench_df.corruption_precision`)."""
    batch: Annotated[int, Field(ge=1)] = BATCH

    @property
    def places(self) -> attack_plan.AttackPlan:
        """The choice of images and detectors, in the form that `attack_plan` takes."""
        return attack_plan.AttackPlan(
            attacks=(), models=self.models, part=self.part, images=self.images, seed=self.seed, device=self.device
        )


@dataclass(frozen=True)
class Damage:
    """The change applied to the images: none (``clean``), a corruption at a severity, or a chain."""

    name: str
    severity: int = 0
    chain: Chain | None = None
    backend: str = "own"

    @property
    def condition(self) -> str:
        """Stable name, used in tables."""
        return f"{self.name}-{self.severity}" if self.severity else self.name

    def apply(self, x: Tensor, ids: Tensor, seed: int, constants: str) -> Tensor:
        """Return a damaged version of the uint8 images ``[N, 3, H, W]``."""
        if self.chain is not None:
            return apply_chain(x, self.chain, ids=ids, seed=seed, constants=constants)
        if not self.severity:
            return x
        if self.backend == LIBRARY:
            return library_corrupt(x, self.name, self.severity, seed, ids)
        return corrupt(x, self.name, self.severity, ids=ids, seed=seed, constants=constants)

    def constants(self, chosen: str) -> str | None:
        """Name the constant set: ``chosen`` for this package's corruptions; the library has one set for all sizes."""
        if self.name == CLEAN:
            return None
        return f"imagenet, by {LIBRARY}" if self.backend == LIBRARY else chosen

    def made_with(self, constants: str) -> list[Any]:
        """Return the constants used, as part of a cell's digest: a corruption with other constants is another cell."""
        if self.chain is not None:
            return [constants]
        if self.backend != "own" and self.severity:
            return [self.backend]
        return list(CORRUPTIONS[self.name].settings[constants][self.severity - 1]) if self.severity else []


@dataclass(frozen=True)
class CorruptionCell:
    """One detector under one damage, and the path of its table."""

    model: str
    phase: str
    damage: Damage
    path: Path

    @property
    def pair(self) -> tuple[str, str]:
        """The detector and its phase."""
        return self.model, self.phase

    def load(self, run: Run) -> Predictions:
        """Read the finished cell."""
        return load_predictions(self.path, run.fingerprint)


def plan_cells(run: Run, plan: CorruptionPlan) -> list[CorruptionCell]:
    """List the cells of a plan, damage by damage; the clean ones first.

    Raises:
        UsageError: an unknown or unavailable model, corruption, chain, constant set, part or backend.
        RunError: the run is not finished.
    """
    attack_plan.plan_cells(run, plan.places)  # without attacks it only checks: run, models and part
    pairs: list[tuple[str, str]] = []
    for name in plan.models or (*run.models, "ensemble"):
        if name in attack_plan.VOTES:
            raise UsageError(f"rdf corrupt judges detectors and the ensemble, not '{name}'; leave it out of --model")
        auto = run.shipped["phase"] if name == "ensemble" else "base"
        pairs.append((name, auto if plan.phase == "auto" else plan.phase))
    damages = [Damage(CLEAN)]
    damages += [
        Damage(name, level, backend=plan.backend)
        for name in names_of(plan.corruptions, plan.backend)
        for level in sorted(set(plan.severities))
    ]
    chains = [parse_chain(text) for text in plan.chains]  # a misspelt step fails before anything is loaded
    damages += [Damage(f"chain {chain.text}", chain=chain) for chain in dict.fromkeys(chains)]
    if plan.backend == LIBRARY:
        _check_library(run, plan)
    part, constants = attack_plan.choose_part(run, plan.part), constants_of(run, plan)
    judged = {pair: _deployed_as(run, *pair) for pair in pairs}

    def path(pair: tuple[str, str], damage: Damage, precision: str) -> Path:
        rest = [part, plan.images, plan.seed, precision, *judged[pair]]
        return run.file("corruptions", _file_name(pair, damage, constants, rest))

    def kept(pair: tuple[str, str], damage: Damage) -> Path:
        """Return the path of a cell: ``auto`` also uses clean cells and those computed in fp32 before."""
        exact = path(pair, damage, "fp32")
        if damage.name == CLEAN or (plan.precision == "auto" and exact.exists()):
            return exact
        return path(pair, damage, plan.precision)

    return [CorruptionCell(*pair, damage, kept(pair, damage)) for damage in damages for pair in judged]


def _check_library(run: Run, plan: CorruptionPlan) -> None:
    """Refuse early what the library would refuse only after the first cells."""
    if plan.constants == "cifar":
        raise UsageError("imagecorruptions has the constants of ImageNet-C alone; leave out --constants cifar")
    if min(run.image_size) < SMALLEST:
        raise UsageError(
            f"imagecorruptions takes images of {SMALLEST} px a side or more, the run's have {min(run.image_size)}; "
            "use --backend own"
        )
    mended_library()


def names_of(wanted: Sequence[str], backend: str = "own") -> list[str]:
    """Resolve names and `SETS` to distinct names, in the requested order; ``all`` is everything that the backend has.

    Raises:
        UsageError: an unknown name, or one that the backend does not have.
    """
    web = [name for name in CORRUPTIONS if CORRUPTIONS[name].group == "web"]
    known = [name for name in CORRUPTIONS if backend == "own" or name not in web]
    sets = {"all": known, "common": list(COMMON), "web": web}
    out: list[str] = []
    for name in wanted:
        if name not in sets and name not in CORRUPTIONS:
            choices = (*SETS, *CORRUPTIONS)
            raise UsageError(f"unknown corruption '{name}'{nearest(name, choices)}; choose from {', '.join(choices)}")
        some = sets.get(name, [name])
        if not set(some) <= set(known):
            raise UsageError(f"{backend} has no '{name}'; use --backend own, or choose from {', '.join(known)}")
        out += some
    return list(dict.fromkeys(out))


def constants_of(run: Run, plan: CorruptionPlan) -> str:
    """Resolve ``constants="auto"`` by the size of the run's images."""
    return constant_set(plan.constants, torch.empty(0, 3, *run.image_size))


def _deployed_as(run: Run, model: str, phase: str) -> list[Any]:
    """Return decision and weights of a detector, for the digest: if they are refitted, it is another detector."""
    weights = run.weights(phase=phase).to_dict() if model == "ensemble" else None
    return [run.decision(model, phase).to_dict(), weights]


def _file_name(pair: tuple[str, str], damage: Damage, constants: str, rest: Sequence[Any]) -> str:
    """Return a cell's file name: its description and a digest of everything that its numbers depend on."""
    what = [damage.condition, damage.made_with(constants), *rest]
    digest = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=6).hexdigest()
    stem = re.sub(r"[^\w.+-]+", "_", f"{pair[0]}-{pair[1]}-{damage.condition}")[:120]
    return f"{stem}-{digest}.parquet"
