"""The two record types of a run: `Predictions`, a row per image and condition, and `Result`, a number with interval."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_df.errors import RunError
from robustbench_df.rundir import SCHEMA, write_atomic

COLUMNS = ("model", "phase", "condition", "image_id", "label", "part", "fold", "logit_real", "logit_fake")
"""Columns of a predictions table. ``part``: val, cal, test or oof (scored out of fold)."""


@dataclass(frozen=True)
class Predictions:
    """Logits of one detector under one condition: the primary record, from which every metric is derived.

    ``table`` has the columns `COLUMNS`; ``fingerprint`` identifies the images (`ImageSet.fingerprint`).
    """

    table: pd.DataFrame
    fingerprint: str
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Additional facts about the whole table, as JSON, for example an attack's settings and seconds."""

    def __post_init__(self) -> None:
        missing = [c for c in COLUMNS if c not in self.table.columns]
        if missing:
            raise RunError(f"a predictions table lacks the column '{missing[0]}'")

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logits, float64 ``[N, 2]`` (real, fake)."""
        return np.asarray(self.table[["logit_real", "logit_fake"]], dtype=np.float64)

    @property
    def labels(self) -> NDArray[np.int8]:
        """Labels, int8 ``[N]``, 1 = fake."""
        return np.asarray(self.table["label"], dtype=np.int8)

    def part(self, name: str) -> Predictions:
        """Return the rows of one part (val, cal, test, oof), in image order."""
        return replace(self, table=self.table[self.table["part"] == name].reset_index(drop=True))

    def save(self, path: Path) -> None:
        """Write Parquet atomically, with schema version, fingerprint and notes in its metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.table, preserve_index=False)
        extra = {
            b"rdf_schema": str(SCHEMA).encode(),
            b"rdf_fingerprint": self.fingerprint.encode(),
            b"rdf_notes": json.dumps(dict(self.notes)).encode(),
        }
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **extra})
        write_atomic(path, lambda temporary: pq.write_table(table, temporary))


def load_predictions(path: Path, fingerprint: str | None = None) -> Predictions:
    """Read a predictions table.

    Raises:
        RunError: the file is damaged, of another schema, or about other images than ``fingerprint`` says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot read predictions '{path}': {error}") from error
    meta = table.schema.metadata or {}
    schema = meta.get(b"rdf_schema", b"none").decode()
    found = meta.get(b"rdf_fingerprint", b"").decode()
    if schema != str(SCHEMA):
        raise RunError(f"'{path}' has schema {schema}, this version reads {SCHEMA}; train the run again")
    if fingerprint is not None and found != fingerprint:
        raise RunError(f"'{path}' is about other images (fingerprint {found}, the run's is {fingerprint})")
    return Predictions(table.to_pandas(), found, json.loads(meta.get(b"rdf_notes", b"{}")))


@dataclass(frozen=True)
class Result:
    """One measured value with its interval, its count, and what it was measured on. Derived, never edited.

    ``decision`` says whether temperature and threshold were applied: ``raw`` (no, P(fake) ≥ 0.5) or ``calibrated``.
    ``low`` and ``high`` bound the 95% interval; NaN if the metric has none.
    """

    model: str
    phase: str
    condition: str
    part: str
    decision: str
    metric: str
    value: float
    low: float
    high: float
    n: int


def results_to_json(results: Iterable[Result], **extra: Any) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    return {"schema": SCHEMA, **extra, "results": [asdict(r) for r in results]}


def results_from_json(path: Path) -> list[Result]:
    """Read ``results.json`` back; null becomes NaN."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if raw.get("schema") != SCHEMA:
        raise RunError(f"'{path}' has schema {raw.get('schema')}, this version reads {SCHEMA}")
    rows: list[dict[str, Any]] = raw["results"]
    nan = float("nan")
    return [Result(**dict(row, **{k: nan for k in ("value", "low", "high") if row[k] is None})) for row in rows]
