"""Tables of ``rdf corrupt`` for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from robustbench_df import corruption_summary as summary
from robustbench_df.cli.audit_tables import print_allowed
from robustbench_df.cli.console import out
from robustbench_df.corruption_plan import CorruptionCell
from robustbench_df.corruption_summary import CLEAN, COMMON, DetectorErrors, Key, Row, Score
from robustbench_df.metrics.intervals import Interval
from robustbench_df.run import Run
from robustbench_df.wording import figure, interval


@dataclass(frozen=True)
class Read:
    """A cell's content for the tables: its score, how it was made, and the part that its images are of."""

    score: Score
    notes: Mapping[str, Any]
    part: str


def read_cells(run: Run, cells: Sequence[CorruptionCell]) -> dict[CorruptionCell, Read]:
    """Read and score every cell once; the clean cell of each detector must be among them."""
    pairs = {cell.pair: cell for cell in cells if cell.damage.name == CLEAN}
    clean = {pair: cell.load(run).table for pair, cell in pairs.items()}
    alpha = run.config.ensemble.alpha
    fitted = {pair: summary.Calibrated(run.decision(*pair), run.band(*pair), alpha) for pair in pairs}

    def read(cell: CorruptionCell) -> Read:
        found = cell.load(run)
        scored = summary.score(found.table, fitted[cell.pair], clean[cell.pair], run.groups)
        return Read(scored, found.notes, str(found.table["part"].iloc[0]))

    return {cell: read(cell) for cell in cells}


def _key(cell: CorruptionCell) -> Key:
    return Key(cell.model, cell.phase, cell.damage.name, cell.damage.severity)


def reference_of(scores: dict[Key, Score], named: str | None) -> tuple[str, str]:
    """Return the reference detector and its phase; without a name it is the first detector.

    A name that was not run is returned with the first detector's phase; `corruption_summary.errors` then refuses it.
    """
    pairs = summary.detectors(scores)
    if named is None:
        return pairs[0]
    return next((pair for pair in pairs if pair[0] == named), (named, pairs[0][1]))


_NOTES = ("constants", "seconds", "corrupting_seconds", "precision", "choice")
"""The notes in a cell's file that say how it was made."""


def facts_json(run: Run, cells: Sequence[CorruptionCell], reference: str | None) -> dict[str, Any]:
    """Return everything that the tables show, and every cell, for `console.print_json`."""
    read = read_cells(run, cells)
    scores = {_key(cell): found.score for cell, found in read.items()}
    rows = [
        {
            **_key(cell)._asdict(),
            "condition": cell.damage.condition,
            "part": found.part,
            "accuracy": found.score.accuracy,
            "auc": found.score.auc,
            "threshold_gap": found.score.threshold_gap,
            "uncalibrated_accuracy": found.score.uncalibrated,
            "abstention": found.score.band,
            **{name: found.notes.get(name) for name in _NOTES},
            "file": str(cell.path),
        }
        for cell, found in read.items()
    ]
    base = reference_of(scores, reference)
    errors = [{**e._asdict(), "errors": e.errors} for e in summary.errors(scores, base)]
    return {
        "run": str(run.path),
        "allowed_findings": list(run.allowed_findings),
        "reference": " ".join(base),
        "calibration": "after, but for uncalibrated_accuracy",
        "abstention_alpha": run.config.ensemble.alpha,
        "counted": summary.counted(scores),
        "errors": errors,
        "rows": summary.rows(scores),
        "cells": rows,
    }


def print_corruptions(run: Run, cells: Sequence[CorruptionCell], reference: str | None) -> None:
    """Print a table per detector, the worst corruption first, then the errors against the reference."""
    read = read_cells(run, cells)
    scores = {_key(cell): found.score for cell, found in read.items()}
    found = summary.errors(scores, reference_of(scores, reference))
    rows = summary.rows(scores)
    part = read[cells[0]].part
    shipped = ("ensemble", run.shipped["phase"])
    for pair in summary.detectors(scores):
        clean = scores[Key(*pair, CLEAN, 0)]
        name = " · ".join(pair) + (" ◀ ship" if pair == shipped else "")
        title = f"{name}: {clean.accuracy.n} {part} images of {run.name}, after calibration"
        out.print(_table(title, clean, [row for row in rows if (row.model, row.phase) == pair]))
    severities = sorted({key.severity for key in scores if key.severity})
    for line in _words(severities, run.config.ensemble.alpha):
        out.print(Text(line))
    _print_errors(found, summary.counted(scores), severities)
    for line in _made(read):
        out.print(Text(line))
    print_allowed(run)
    out.print(Text(f"Cells: {run.file('corruptions')}"))


_HEADINGS = ("accuracy (95%)", "before", "lost", "AUC", "threshold gap", "covered", "set", "by severity, %")


def _table(title: str, clean: Score, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("corruption", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what fails", no_wrap=True)
    for row in rows:
        table.add_row(
            row.corruption,
            _share(row.accuracy),
            _percent(row.uncalibrated),
            f"{100 * row.lost:.1f}",
            figure(row.auc, ".3f"),
            _points(row.threshold_gap),
            *_abstention(row.covered, row.set_size),
            " ".join(f"{100 * value:.0f}" for severity, value in row.by_severity.items() if severity),
            row.failure,
        )
    band = (clean.band.coverage, clean.band.size) if clean.band else (math.nan, math.nan)
    table.add_row(
        CLEAN,
        _share(clean.accuracy),
        _percent(clean.uncalibrated),
        "",
        figure(clean.auc.value, ".3f"),
        _points(clean.threshold_gap),
        *_abstention(*band),
        "",
        "",
    )
    return table


def _abstention(covered: float, size: float) -> tuple[str, str]:
    return ("not run", "") if covered != covered else (f"{covered:.1%}", f"{size:.2f}")


def _share(value: Interval) -> str:
    return interval(value.value, value.low, value.high, ".1%")


def _points(value: float) -> str:
    return figure(100 * value, ".1f")


def _percent(value: float) -> str:
    return figure(value, ".1%")


def _made(read: Mapping[CorruptionCell, Read]) -> list[str]:
    """Say with which constants and in which precision the cells were made, and how long that took."""
    notes = {cell: own.notes for cell, own in read.items()}
    found: dict[str, list[str]] = {}
    for pair in dict.fromkeys(cell.pair for cell in notes):
        used = {
            str(own.get("precision", "fp32"))
            for cell, own in notes.items()
            if cell.pair == pair and cell.damage.name != CLEAN
        }
        found.setdefault(" and ".join(sorted(used)) or "fp32", []).append(" ".join(pair))
    corrupting = {cell.damage: float(own["corrupting_seconds"]) for cell, own in notes.items()}
    forwards = sum(float(own["seconds"]) for own in notes.values())
    said = "; ".join(f"{how} {', '.join(names)}" for how, names in found.items())
    constants = sorted({str(own["constants"]) for own in notes.values() if own.get("constants")})
    seeds = sorted({str(own.get("seed")) for own in notes.values()})
    return [
        f"Constants: {'; '.join(constants) or 'none'}. Seed {', '.join(seeds)}.",
        f"Precision: {said}; clean images always fp32. Computing took {forwards:.0f} s in forwards and "
        f"{sum(corrupting.values()):.0f} s to corrupt.",
    ]


def _words(severities: Sequence[int], alpha: float) -> list[str]:
    means = f"means over severity {', '.join(map(str, severities))}, " if severities else ""
    return [
        f"Accuracy, AUC and threshold gap: {means}as deployed, after calibration on clean images. Intervals of means "
        "draw images (whole groups where there are any), not cells, for the severities show the same ones; that of one "
        "cell is Wilson's without groups. before: accuracy of P(fake) >= .5 before calibration. lost: points below "
        "clean.",
        "threshold gap: points of accuracy that the best threshold for that corruption would win back. Large beside a "
        "high AUC: the threshold failed, the ranking stands. Small beside a low AUC: the ranking failed. It is read "
        "off these very images, which flatters it: compare it with the clean row's.",
        f"what fails, from {100 * summary.HURT:.0f} points lost: threshold where at least half of the loss comes back "
        "with another threshold, else ranking.",
        f"covered, set: an abstention band, before calibration, fitted on clean images not shown here (cal; out of "
        f"fold: the other folds) for an error of {alpha:.0%}: share of images whose set of possible labels holds the "
        f"true one, and labels per set; 1 is a verdict. {1 - alpha:.0%} is promised for clean images alone.",
    ]


def _print_errors(found: Sequence[DetectorErrors], names: Sequence[str], severities: Sequence[int]) -> None:
    if not found:
        return
    reference = found[0].errors.reference
    which = "the 15 of ImageNet-C" if tuple(names) == COMMON else f"{len(names)} corruptions"
    table = Table(
        title=f"Errors over {which} at severity {', '.join(map(str, severities))}, after calibration; "
        f"reference: {reference}",
        title_justify="left",
    )
    table.add_column("detector", no_wrap=True)
    table.add_column("phase")
    for heading in ("clean error", "mean error (95%)", "mCE (95%)", "relative mCE"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        e = row.errors
        shares = (
            _percent(value) if sure is None else _share(sure)
            for value, sure in ((e.mean_error, row.mean_error), (e.mce, row.mce))
        )
        table.add_row(row.model, row.phase, _percent(row.clean_error), *shares, _percent(e.relative_mce))
    out.print(table)
    lines = [
        f"mCE: errors as a share of {reference}'s, so 100% is as bad as that one; relative mCE: the same for the rise "
        "of the errors over clean. Published mCE is relative to AlexNet on ImageNet and cannot be compared."
    ]
    if left := found[0].errors.undefined:
        lines.append(f"Left out of the relative mCE, for they do not hurt {reference}: {', '.join(left)}")
    for line in lines:
        out.print(Text(line))
