"""Changes to the files of a run folder, for tests that a page follows what it was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_df.records import load_predictions


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Let ``change`` alter a JSON file's value in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_table(path: Path, change: Callable[[pd.DataFrame], object] | None = None, **about: Any) -> None:
    """Let ``change`` alter a predictions table in place; ``about`` replaces its table, fingerprint or notes."""
    predictions = load_predictions(path)
    if change is not None:
        change(predictions.table)
    replace(predictions, **about).save(path)
