"""Write the results of experiments into README files, from ``results.json``; a test fails when the two differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_df.errors import UsageError
from robustbench_df.experiment import REPORTS
from robustbench_df.experiment_folder import EXPERIMENTS, find_experiments
from robustbench_df.experiment_results import kept_results, table_of
from robustbench_df.rundir import write_text

START, END = "<!-- experiments -->", "<!-- /experiments -->"
"""Marks between which the main README shows every experiment that has results."""
BENCH = "bench_"
"""Prefix of the names of benchmarks."""
OWN_START, OWN_END = "<!-- measured -->", "<!-- /measured -->"
"""Marks between which an experiment's README shows its own results."""

NOT_RUN = "Not run yet."

_EXPLAINED = """\
Written by `rdf experiment --readme` from `reports/experiments/*/results.json`. A share reads
`mean [95% over images] (least–greatest seed)`: the two uncertainties are kept apart. Budgets are small: differences
between rows count, not records."""


def readmes(root: Path = Path()) -> dict[Path, str]:
    """Return the expected text of every README that shows results of experiments, by its path.

    Raises:
        UsageError: a README without the marks between which results are written.
        RunError: damaged results, or results of another version.
    """
    sections: list[str] = []
    wanted: dict[Path, str] = {}
    for name, folder in find_experiments(root / EXPERIMENTS).items():
        results = kept_results(root / REPORTS / name)
        own = folder / "README.md"
        if results is None:  # a copied folder still holds the table of its original
            wanted |= {own: _filled(own, OWN_START, OWN_END, NOT_RUN)} if own.exists() else {}
            continue
        sections.append(_section(results, own))
        wanted[own] = _filled(own, OWN_START, OWN_END, measured(results))
    main = root / "README.md"
    wanted[main] = _filled(main, START, END, "\n\n".join([_EXPLAINED, *sections]))
    return wanted


def write_readmes(root: Path = Path()) -> list[Path]:
    """Update every README to its results; returns the paths of those that changed."""
    changed = {path: text for path, text in readmes(root).items() if path.read_text(encoding="utf-8") != text}
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def _filled(path: Path, start: str, end: str, text: str) -> str:
    old = path.read_text(encoding="utf-8")
    if old.count(start) != 1 or old.count(end) != 1 or old.index(start) > old.index(end):
        raise UsageError(f"'{path}' needs the marks {start} and {end}, once each and in this order")
    return f"{old[: old.index(start)]}{start}\n{text}\n{old[old.index(end) :]}"


def _section(results: Mapping[str, Any], own: Path) -> str:
    name = results["name"]
    more = f"More: [experiments/{name}](experiments/{name})."
    # A benchmark has many rows: its own README shows them, the main README only its summarising sentences.
    table = said(results) if name.startswith(BENCH) else folded("the table", measured(results))
    parts = [f"**{name}.** {results['question']}", _paragraph(own, "What it says"), table, more]
    return "\n\n".join(part for part in parts if part)


def folded(title: str, text: str) -> str:
    """Return a collapsible section in Markdown; the blank lines make its content render as Markdown, too."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _paragraph(path: Path, title: str) -> str:
    """Return the paragraph that starts with the bold ``title``, without the title."""
    found = re.search(rf"^\*\*{title}\.\*\*\s+(.+?)(?:\n\s*\n|\Z)", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return found.group(1).strip() if found else ""


def measured(results: Mapping[str, Any]) -> str:
    """Return, as Markdown, a line on how the results were measured, the table, and the experiment's sentences."""
    data, hardware = results["data"], results["hardware"]
    machines = ", ".join(dict.fromkeys(f"{h['processor']}, {h['device']}, threads: {h['threads']}" for h in hardware))
    torch = ", ".join(dict.fromkeys(v["torch"] for v in results["versions"]))
    facts = [
        f"`{data['source']}` ({data['images']:,} images)",
        f"{results['seeds']} seeds" if results["seeds"] != 1 else "1 seed",
        f"{results['cells_run']} of {results['cells']} cells",
        f"{results['seconds'] / 60:.0f} min",
        (results["finished"] or "not run")[:10],
        machines,
        f"torch {torch}",
    ]
    head, *lines = table_of(dict(results))
    table = [head, ["---"] * len(head), *lines]
    rows = "\n".join("| " + " | ".join(line) + " |" for line in table)
    return "\n\n".join(part for part in (" · ".join(facts), rows, said(results)) if part)


def said(results: Mapping[str, Any]) -> str:
    """Return the experiment's sentences about its numbers, as a Markdown list; empty if it has none."""
    return "\n".join(f"- {line}" for line in results["said"])
