"""Names, ids and sentences that several parts of a report share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from robustbench_df.metrics.compare import Comparison
from robustbench_df.metrics.intervals import Interval
from robustbench_df.report.document import Estimate
from robustbench_df.report.formatting import parts, slug

T = TypeVar("T")

PARTS = {
    "test": "test images",
    "oof": "out-of-fold images",
    "cal": "calibration images",
    "val": "validation images",
}
"""What the images of each part are called."""

OPTIMISTIC = ("cal", "val")
"""Parts on which something was fitted or chosen."""

PHASE = {"base": "after clean training", "final": "after adversarial fine-tuning"}
PHASE_HINT = "base: after clean training; final: after adversarial fine-tuning (phase 2)."

LABELS = ("real", "fake")

DIGITS = 6
"""Significant digits of a number in a document: a share of a million images does not have more."""

SYMBOLS = {"linf": "L∞", "l2": "L2", "l1": "L1"}

WILSON = "Wilson interval, or a bootstrap's of groups where images have them"
DELONG = "DeLong interval, or a bootstrap's of groups where images have them"
"""How `metrics.resampling.accuracy_and_auc` computes the intervals of the main numbers."""

NOT_APPLICABLE = "–"
"""Shown where a measurement would make no sense. A missing measurement is None, shown as "not run"."""


def label_of(model: str, phase: str) -> str:
    """Name a detector in a phase."""
    return f"{model} · {phase}"


def rounded(value: T) -> T:
    """Round every float in a document to `DIGITS`: further digits are noise, and would be half of the page."""
    found: Any = value
    if isinstance(value, float):
        found = float(f"{value:.{DIGITS}g}")
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{field.name: rounded(getattr(value, field.name)) for field in fields(value)})
    elif isinstance(value, Mapping):
        found = {key: rounded(item) for key, item in value.items()}
    elif isinstance(value, tuple):
        found = tuple(rounded(item) for item in value)
    elif isinstance(value, list):
        found = [rounded(item) for item in value]
    return cast(T, found)


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Give every name a unique id that can be used as an anchor and as a file name."""
    found: dict[str, str] = {}
    for name in names:
        stem = base = slug(name)
        number = 2
        while stem.lower() in {key.lower() for key in found.values()}:
            stem, number = f"{base}-{number}", number + 1
        found[name] = stem
    return found


def defined(value: float | None) -> float | None:
    """Return the number, or None for NaN."""
    return None if value is None or value != value else float(value)


def bounded(value: float | None, low: float | None, high: float | None, n: int | None) -> Estimate:
    """Return a figure and its interval as an `Estimate`; NaN becomes None."""
    return Estimate(defined(value), defined(low), defined(high), n)


def estimate(found: Interval) -> Estimate:
    """Return an interval as an `Estimate`; NaN becomes None."""
    return bounded(found.value, found.low, found.high, found.n)


def difference(found: Comparison) -> Estimate:
    """Return the difference of a comparison, first minus second, as an `Estimate`; NaN becomes None."""
    return bounded(found.difference, found.low, found.high, found.n)


def said(value: Estimate, kind: str = "percent") -> str:
    """Format an estimate with its interval, for use in a sentence."""
    return " ".join(part for part in parts(value, kind) if part)


def pixels(eps: float) -> str:
    """Format a budget in both units: ``0.05 (12.75/255)``."""
    return f"{eps:g} ({eps * 255:.4g}/255)"


def threat(norm: str, eps: float) -> str:
    """Format a norm and a budget."""
    return f"{SYMBOLS.get(norm, norm)} {pixels(eps)}"
