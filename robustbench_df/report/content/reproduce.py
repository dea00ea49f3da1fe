"""Section 7: what is needed to reproduce the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from robustbench_df._version import __version__
from robustbench_df.config import RunConfig
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.pieces import Piece, Tab, tabbed
from robustbench_df.report.document import Block, Cell, Column, Table, Text


def reproduce_section(facts: Facts) -> Piece:
    """Build the section."""
    material = facts.material
    lead = "The same images, settings and versions give the same numbers up to the rounding of another machine."
    record = [Column("what", "What"), Column("value", "Value")]
    blocks: list[Block] = []
    if not material.provenance:
        blocks.append(Text("The run has not begun: it has settings and nothing else."))
    blocks.append(Table("record-table", "Record", record, list(_record(facts))))
    durations: list[Mapping[str, Cell]] = [
        {"stage": str(stage), "seconds": float(seconds)}
        for stage, seconds in material.provenance.get("durations", {}).items()
    ]
    if durations:
        total = sum(float(str(row["seconds"])) for row in durations)
        durations.append({"stage": "all", "seconds": total})
        columns = [Column("stage", "Stage"), Column("seconds", "Time", "seconds")]
        blocks.append(Table("durations-table", "How long it took", columns, durations))
    settings = [Column("key", "Setting"), Column("value", "Value"), Column("default", "Default")]
    default = default_settings()
    title = "Settings that differ from the defaults"
    rows: list[Mapping[str, Cell]] = [
        {"key": key, "value": value, "default": default.get(key, "")} for key, value in settings_of(material.config)
    ]
    note = "All of them stand in the run's config.json."
    blocks.append(Table("settings-table", title, settings, rows, note))
    blocks += _speed(facts)
    blocks.append(
        Text("Every table can be downloaded as CSV; results.json holds everything on this page.", "downloads")
    )
    return Piece(tabbed("reproduce", "Reproduce", lead, [Tab("", blocks)]))


def _record(facts: Facts) -> Iterator[Mapping[str, Cell]]:
    found, material = facts.material.provenance, facts.material
    named: dict[str, Any] = {
        "command": found.get("command"),
        "started": found.get("started"),
        "seed": found.get("seed", material.config.seed),
        "data fingerprint": found.get("data_fingerprint"),
        "images": found.get("images"),
        "layout of the source": found.get("layout"),
        "folds": material.run.folds if material.split is not None else None,
        "preset": material.config.preset,
        "report made with": f"robustbench_df {__version__}",
        **{f"version of {name}": version for name, version in found.get("versions", {}).items()},
        **{f"hardware: {name}": value for name, value in found.get("hardware", {}).items()},
    }
    if "audit" in found:
        named["audit before training"] = found["audit"].get("found")
    for what, value in named.items():
        yield {"what": what, "value": None if value is None else str(value)}


def default_settings() -> dict[str, str]:
    """Return every setting's default by dotted key."""
    return dict(_shown(RunConfig()))


def settings_of(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value) of the settings that differ from the default; of a path only the last part."""
    default = default_settings()
    for key, value in _shown(config):
        if default.get(key) != value:
            yield key, value


def _shown(config: RunConfig) -> Iterator[tuple[str, str]]:
    for key, value in _flat(config.model_dump(mode="json")):
        own = PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
        yield key, str(own)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _speed(facts: Facts) -> list[Block]:
    """The setting with which each detector was trained, which the probe found to be the fastest."""
    path = facts.material.run.file("speed.json")
    if not path.exists():
        return []
    chosen: Mapping[str, Mapping[str, Any]] = facts.material.run.read_json("speed.json")
    keys = ("device", "precision", "memory_format", "threads")
    rows: list[Mapping[str, Cell]] = [
        {"detector": name, **{key: str(setting.get(key)) for key in keys}} for name, setting in chosen.items()
    ]
    columns = [Column("detector", "Detector"), *(Column(key, key.replace("_", " ").capitalize()) for key in keys)]
    return [Table("speed-table", "How training computed", columns, rows)]
