"""Read all files that a report is made from; refuse files about other images or of another version."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_df.attacks.kept_checks import Kept, in_todays_form
from robustbench_df.audit.finding import Audit
from robustbench_df.config import RunConfig
from robustbench_df.corruption_summary import Key
from robustbench_df.ensembling import TWINS
from robustbench_df.errors import DataError, RunError, UsageError
from robustbench_df.records import Predictions, Result, load_predictions, results_from_json
from robustbench_df.run import Run

PHASES = ("base", "final")
"""The phases: after clean training, and after adversarial fine-tuning."""

EXPLAIN_SCHEMA = 1
"""Version of the two files of `rdf explain`."""

Pair = tuple[str, str]
"""The name of a detector, or ``ensemble``, and its phase."""


_NOT_SETTINGS = ("name", "norm", "eps", "params")
_USUAL: Mapping[str, Any] = {"restarts": 1, "momentum": 0.0, "eot": 1, "early_stop": True}
"""Defaults of `robustbench_df.attacks.spec.AttackSpec` that are not None; importing them would import torch."""


@dataclass(frozen=True, eq=False)
class AttackCell:
    """One detector under one attack or suite at one budget, image by image (`robustbench_df.attack_plan`)."""

    model: str
    phase: str
    attack: str
    norm: str
    eps: float
    table: pd.DataFrame
    notes: Mapping[str, Any]
    path: Path

    @property
    def part(self) -> str:
        """The part that its images are of."""
        return str(self.table["part"].iloc[0])

    @property
    def label(self) -> str:
        """The attack with the settings that it was given, such as ``pgd steps=30``; a suite has only its name."""
        specs = self.notes.get("attacks", ())
        if len(specs) != 1:
            return self.attack
        own = {**specs[0], **specs[0].get("params", {})}
        given = {k: v for k, v in own.items() if k not in _NOT_SETTINGS and v is not None and v != _USUAL.get(k)}
        return " ".join([self.attack, *(f"{name}={value}" for name, value in given.items())])


@dataclass(frozen=True, eq=False)
class CorruptionCell:
    """One detector under one corruption at one severity, image by image (`robustbench_df.corruption_grid`)."""

    key: Key
    table: pd.DataFrame
    notes: Mapping[str, Any]
    path: Path

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Names of the images."""
        return tuple(self.table["image_id"].astype(str).to_numpy(object))

    @property
    def part(self) -> str:
        """The part that its images are of."""
        return str(self.table["part"].iloc[0])


@dataclass(frozen=True, eq=False)
class Material:
    """The content of a run folder; whatever does not exist yet is None or empty.

    ``clean`` and ``stepped`` are the predictions that `train_all` made, clean and after one step of FGSM; ``fitted`` is
    ``ensemble.json``; ``images`` has the columns ``image_id, label, group, source``.
    """

    run: Run
    config: RunConfig
    provenance: Mapping[str, Any]
    fitted: Mapping[str, Any]
    results: tuple[Result, ...] | None
    split: pd.DataFrame | None
    images: pd.DataFrame | None
    twins: frozenset[str]
    clean: Mapping[Pair, Predictions]
    stepped: Mapping[Pair, Predictions]
    attacks: tuple[AttackCell, ...]
    corruptions: tuple[CorruptionCell, ...]
    checks: Kept
    transfer: Mapping[str, Any] | None
    audit: Audit | None
    findings: tuple[Mapping[str, Any], ...]
    explained: Mapping[str, Any] | None
    specimens: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The run's own name, without the folders above it."""
        return self.run.path.resolve().name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the run's images; empty if the run has not begun yet."""
        return str(self.provenance.get("data_fingerprint", ""))

    @property
    def shipped(self) -> tuple[str, str] | None:
        """(kind, phase) of the shipped ensemble; None if no weights have been fitted yet."""
        chosen = self.fitted.get("shipped")
        return (str(chosen["kind"]), str(chosen["phase"])) if chosen else None

    def decided(self, phase: str) -> frozenset[str]:
        """Names that have a decision in a phase: of detectors, and ``ensemble-KIND`` (as `Run.decision` takes them).

        An unfinished run has none, and an older run may lack a kind of ensemble.
        """
        entry = self.fitted.get(phase, {})
        return frozenset([*entry.get("members", ()), *(f"ensemble-{kind}" for kind in entry.get("ensembles", ()))])

    def command(self, what: str) -> str:
        """The command that the user types to add something to this run."""
        return f"rdf {what} --run {shlex.quote(self.name)}"


def read_run(path: Path) -> Material:
    """Read a run folder.

    Raises:
        RunError: it is no run, or a file is damaged, of another version or about other images; one line that names
            the file and the remedy.
    """
    if not (path / "config.json").is_file():
        raise RunError(f"'{path}' is not a run folder (no config.json); make one with: rdf train-all")
    reader = _Reader(Run(path))
    config = reader.config()
    provenance = reader.json("provenance.json", what="train-all --resume") or {}
    reader.fingerprint = provenance.get("data_fingerprint")
    step = f"fgsm-linf-{config.phase2.select_epsilon:g}"
    names = config.models
    return Material(
        run=reader.run,
        config=config,
        provenance=provenance,
        fitted=reader.json("ensemble.json", what="train-all --resume") or {},
        results=reader.results(),
        split=reader.frame("split.parquet"),
        images=reader.frame("images.parquet"),
        twins=frozenset((reader.json(TWINS, what="train-all --resume") or {}).get("test", ())),
        clean=reader.judged(names, "clean"),
        stepped=reader.judged((*names, "ensemble"), step),
        attacks=tuple(reader.attacks()),
        corruptions=tuple(reader.corruptions()),
        checks=in_todays_form(reader.json("attacks", "checks.json", what="attack") or {}),
        transfer=reader.json("attacks", "transfer.json", what="attack --transfer"),
        audit=reader.audit(),
        findings=tuple((reader.json("findings.json", what="train-all --resume") or {}).get("findings", ())),
        explained=reader.explained("explain.json"),
        specimens=reader.explained("specimens.json"),
    )


@dataclass
class _Reader:
    """Reads the files of one run; they must have the run's ``fingerprint``, which is None while the run has none."""

    run: Run
    fingerprint: str | None = None

    def _refuse(self, path: Path, why: str, what: str) -> RunError:
        name = path.relative_to(self.run.path).as_posix()
        place = shlex.quote(self.run.path.resolve().name)
        done = " and DONE" if what.startswith("train-all") else ""
        return RunError(f"'{name}' of run '{self.run.path}' {why}; delete it{done} and run: rdf {what} --run {place}")

    def config(self) -> RunConfig:
        try:
            return self.run.config
        except UsageError as error:
            why = f"has settings that this version does not know ({error}); open it with the version that wrote it"
            raise RunError(f"config.json of run '{self.run.path}' {why}") from error

    def json(self, *parts: str, what: str) -> Any:
        path = self.run.file(*parts)
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._refuse(path, f"is damaged: {error}", what) from error

    def _own(self, path: Path, found: object, what: str) -> None:
        """Refuse a file that is about other images."""
        if self.fingerprint is not None and found != self.fingerprint:
            why = f"is about other images (fingerprint {found}, the run's is {self.fingerprint})"
            raise self._refuse(path, why, what)

    def frame(self, name: str) -> pd.DataFrame | None:
        import pyarrow as pa

        path = self.run.file(name)
        try:
            return pd.read_parquet(path) if path.exists() else None
        except (OSError, pa.ArrowInvalid) as error:
            raise self._refuse(path, f"is damaged: {error}", "train-all --resume") from error

    def predictions(self, path: Path, what: str) -> Predictions:
        try:
            found = load_predictions(path)
        except RunError as error:
            raise self._refuse(path, f"cannot be read ({error})", what) from error
        self._own(path, found.fingerprint, what)
        return found

    def judged(self, names: tuple[str, ...], condition: str) -> dict[Pair, Predictions]:
        found = {}
        for name in names:
            for phase in PHASES:
                path = self.run.predictions_path(name, phase, condition)
                if path.exists():
                    found[name, phase] = self.predictions(path, "train-all --resume")
        return found

    def attacks(self) -> Iterator[AttackCell]:
        for path in sorted(self.run.path.glob("attacks/*.parquet")):
            cell = self.predictions(path, "attack")
            if len(cell.table):
                model, phase = (str(cell.table[column].iloc[0]) for column in ("model", "phase"))
                attack, norm, eps = (cell.notes.get(name) for name in ("attack", "norm", "eps"))
                yield AttackCell(model, phase, str(attack), str(norm), float(eps or 0), cell.table, cell.notes, path)

    def corruptions(self) -> Iterator[CorruptionCell]:
        for path in sorted(self.run.path.glob("corruptions/*.parquet")):
            cell = self.predictions(path, "corrupt")
            if len(cell.table):
                model, phase = (str(cell.table[column].iloc[0]) for column in ("model", "phase"))
                key = Key(model, phase, str(cell.notes.get("corruption")), int(cell.notes.get("severity") or 0))
                yield CorruptionCell(key, cell.table, cell.notes, path)

    def results(self) -> tuple[Result, ...] | None:
        path = self.run.file("results.json")
        raw = self.json("results.json", what="train-all --resume")
        if raw is None:
            return None
        self._own(path, raw.get("fingerprint"), "train-all --resume")
        try:
            return tuple(results_from_json(path))
        except (RunError, KeyError, TypeError) as error:
            raise self._refuse(path, f"cannot be read ({error})", "train-all --resume") from error

    def audit(self) -> Audit | None:
        path = self.run.file("audit.json")
        raw = self.json("audit.json", what="audit")
        if raw is None:
            return None
        try:
            found = Audit.from_json(raw)
        except DataError as error:
            raise self._refuse(path, f"cannot be read ({error})", "audit") from error
        self._own(path, found.fingerprint, "audit")
        return found

    def explained(self, name: str) -> Mapping[str, Any] | None:
        path = self.run.file("explain", name)
        found: Mapping[str, Any] | None = self.json("explain", name, what="explain")
        if found is None:
            return None
        if found.get("schema") != EXPLAIN_SCHEMA:
            why = f"has schema {found.get('schema')}, this version reads {EXPLAIN_SCHEMA}"
            raise self._refuse(path, why, "explain")
        self._own(path, found.get("fingerprint"), "explain")
        return found
