"""Write ``results.json``, ``results.csv`` and a figure from finished cells. Never imports torch.

A row's value is the mean over its seeds. Two uncertainties are reported separately: over images (the mean of the seeds'
intervals, with their named method) and over training seeds (least, greatest, and Student's t interval).
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_df.errors import RunError, UsageError
from robustbench_df.metrics.intervals import Interval
from robustbench_df.rundir import write_json, write_text

SCHEMA = 1
"""Version of a cell's file and of ``results.json``; files of another version are refused."""

LEVEL = 0.95
"""Confidence level of the interval over seeds, the same as of the intervals over images."""

Value = Interval | float | int | str
Values = Mapping[str, Value]
Json = dict[str, Any]


def to_json(row: Values) -> Json:
    """Convert a row to JSON types; an `Interval` becomes a dictionary that includes its method.

    Raises:
        UsageError: a value that is neither an `Interval`, a number nor a word.
    """
    out: Json = {}
    for key, value in row.items():
        if isinstance(value, Interval):
            ends = {"low": value.low, "high": value.high}
            out[key] = {"value": float(value.value), **ends, "n": value.n, "method": value.method}
        elif isinstance(value, bool | str):
            out[key] = value if isinstance(value, str) else ("yes" if value else "no")
        elif hasattr(value, "__float__"):
            number = float(value)
            out[key] = int(number) if isinstance(value, int) else number
        else:
            raise UsageError(f"measure() returned {key}={value!r}; give an Interval, a number or a word")
    return out


def read_json(path: Path) -> Json:
    """Read a cell's file or a ``results.json``.

    Raises:
        FileNotFoundError: the file does not exist.
        RunError: the file is damaged, or of another version.
    """
    try:
        raw: Json = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"'{path}' is damaged: {error}; delete it and run the experiment again") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise RunError(f"'{path}' is of another version; run the experiment again with --fresh")
    return raw


def kept_results(folder: Path) -> Json | None:
    """Return an experiment's ``results.json``; None if there is none, or if it has a format of its own.

    Raises:
        RunError: the file is damaged, or of another version.
    """
    path = folder / "results.json"
    if not path.exists() or '"schema"' not in path.read_text(encoding="utf-8"):
        return None
    return read_json(path)


def collect(facts: Json, cells: Sequence[str], files: Mapping[Path, str]) -> Json:
    """Return the content of ``results.json``: values of the finished cells, by cell and row, averaged over seeds.

    Args:
        facts: general facts about the experiment, which become the first keys.
        cells: names of all cells, in order.
        files: the file of every cell and seed, with the digest of its current settings; a file with another digest
            counts as not run.

    ``seconds`` is the total time from scratch: all measurements, plus the training of each detector, counted once.
    """
    done: list[Json] = []
    for path, key in files.items():
        if path.exists():
            record = read_json(path)
            done += [record] if record["key"] == key else []
    trained = {name: seconds for record in done for name, seconds in record["training"].items()}
    return {
        "schema": SCHEMA,
        **facts,
        "cells": len(files),
        "cells_run": len(done),
        "seeds": len({record["seed"] for record in done}),
        "seconds": round(sum(trained.values()) + sum(record["seconds"] for record in done), 1),
        "finished": max((record["finished"] for record in done), default=None),
        "hardware": _distinct(record["hardware"] for record in done),
        "versions": _distinct(record["versions"] for record in done),
        "rows": [row for name in cells for row in _rows(name, [r for r in done if r["cell"] == name])],
    }


def save_results(out: Path, results: Json) -> None:
    """Write ``results.json``, ``results.csv`` and, if there is something to draw, ``figure.svg``."""
    from robustbench_df.experiment_figure import draw

    write_json(out / "results.json", results)
    write_text(out / "results.csv", to_csv(results))
    figure = draw(results)
    if figure:
        write_text(out / "figure.svg", figure)


def _distinct(records: Iterable[Json]) -> list[Json]:
    return list({json.dumps(record, sort_keys=True): record for record in records}.values())


def _rows(name: str, done: list[Json]) -> list[Json]:
    """Aggregate one cell over its seeds; one row for each value of "row" that ``measure`` returned."""
    if not done:
        return [{"cell": name, "row": "", "seeds": 0, "values": {}}]
    found: dict[str, dict[str, list[Any]]] = {}
    seeds: dict[str, int] = {}
    for record in done:
        for row in record["rows"]:
            own = str(row.get("row", ""))
            seeds[own] = seeds.get(own, 0) + 1
            for key, value in row.items():
                if key != "row":
                    found.setdefault(own, {}).setdefault(key, []).append(value)
    return [
        {"cell": name, "row": own, "seeds": seeds[own], "values": {k: aggregate(v) for k, v in values.items()}}
        for own, values in found.items()
    ]


def aggregate(values: Sequence[Any]) -> Any:
    """Combine the values of all seeds: words are joined, numbers averaged, with both kinds of uncertainty.

    If the value of any seed is undefined (null), the mean is undefined, rather than an average of the other seeds.
    """
    if any(isinstance(value, str) for value in values):
        return " / ".join(dict.fromkeys(str(value) for value in values))
    numbers = [value["value"] if isinstance(value, dict) else value for value in values]
    if any(number is None for number in numbers):
        return {"value": None}
    out: Json = {"value": statistics.fmean(numbers)}
    intervals = [value for value in values if isinstance(value, dict)]
    if len(intervals) == len(values) and all(i["low"] is not None and i["high"] is not None for i in intervals):
        out["low"], out["high"] = (statistics.fmean(i[end] for i in intervals) for end in ("low", "high"))
        out["n"], out["method"] = intervals[0]["n"], intervals[0]["method"]
    if len(numbers) > 1:
        out["seed_low"], out["seed_high"] = min(numbers), max(numbers)
        low, high = t_interval(numbers)
        # A share or an area lies in [0, 1], and so does its mean, but Student's interval may extend beyond.
        out["t_low"], out["t_high"] = (max(low, 0.0), min(high, 1.0)) if "method" in out else (low, high)
    elif all(isinstance(number, int) for number in numbers):
        out["value"] = numbers[0]
    return out


def t_interval(numbers: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return Student's t interval for the mean of at least two numbers (Student 1908)."""
    from scipy.stats import t

    mean, n = statistics.fmean(numbers), len(numbers)
    half = float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(numbers) / math.sqrt(n)
    return mean - half, mean + half


COLUMNS = ("value", "low", "high", "n", "method", "seed_low", "seed_high", "t_low", "t_high")


def to_csv(results: Json) -> str:
    """Return a CSV with one line per value: cell, row, metric, seeds, and the `COLUMNS` that are known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", "row", "metric", "seeds", *COLUMNS])
    for row in results["rows"]:
        for metric, value in row["values"].items():
            known = value if isinstance(value, dict) else {"value": value}
            writer.writerow([row["cell"], row["row"], metric, row["seeds"], *(_plain(known.get(c)) for c in COLUMNS)])
    return text.getvalue()


def _plain(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else ("" if value is None else value)


# --- words for tables -----------------------------------------------------------------------------


def columns_of(results: Json) -> list[str]:
    """Return the metrics to show: those that the config lists, else all, in order of appearance."""
    every = list(dict.fromkeys(key for row in results["rows"] for key in row["values"]))
    return [str(c) for c in results["config"].get("columns", every)]


def table_of(results: Json) -> list[list[str]]:
    """Return the table as text: a header, then a line per row; cells without results read "not run"."""
    columns = columns_of(results)
    ran = [row for row in results["rows"] if row["values"]]
    named = any(row["row"] for row in ran)
    lines = [["", *([""] if named else []), *columns]]
    for row in results["rows"]:
        label = [row["cell"], *([row["row"]] if named else [])]
        lines.append([*label, *(in_words(row["values"].get(c), bool(row["values"])) for c in columns)])
    return lines


def in_words(value: Any, ran: bool = True) -> str:
    """Format a value: ``91.9% [90.6, 93.0] (91.5–92.4)`` is mean, interval over images and range over seeds."""
    if value is None:
        return "" if ran else "not run"
    if not isinstance(value, dict):
        return str(value)
    if value["value"] is None:
        return "undefined"
    if "method" not in value:
        said = _number(value["value"])
        spread = [_number(value[end]) for end in ("seed_low", "seed_high")] if "seed_low" in value else []
        return said + (f" ({spread[0]}–{spread[1]})" if spread and spread[0] != spread[1] else "")
    write = _area if value["method"] in ("delong", "clopper-pearson") else _percent
    said = f"{write(value['value'])}{'%' if write is _percent else ''} [{write(value['low'])}, {write(value['high'])}]"
    return said + (f" ({write(value['seed_low'])}–{write(value['seed_high'])})" if "seed_low" in value else "")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _area(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"
