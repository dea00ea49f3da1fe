"""What the README files say of the experiments, written from ``results.json``; a test fails when they drift apart."""

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
"""Between these the main README holds every experiment that has results."""
BENCH = "bench_"
"""How the names of benches begin."""
OWN_START, OWN_END = "<!-- measured -->", "<!-- /measured -->"
"""Between these an experiment's README holds its own."""

NOT_RUN = "Not run yet."

_EXPLAINED = """\
Written by `rdf experiment --readme` from `reports/experiments/*/results.json`. A share reads
`mean [95% over images] (least–greatest seed)`: the two uncertainties are kept apart. Budgets are small: differences
between rows count, not records."""


def readmes(root: Path = Path()) -> dict[Path, str]:
    """Return what every README that holds results of experiments should say, by its path.

    Raises:
        UsageError: a README without the marks between which results stand.
        RunError: results of another version.
    """
    sections: list[str] = []
    wanted: dict[Path, str] = {}
    for name, folder in find_experiments(root / EXPERIMENTS).items():
        results = kept_results(root / REPORTS / name)
        own = folder / "README.md"
        if results is None:  # a copied folder brings the table of the one it was copied from
            wanted |= {own: _filled(own, OWN_START, OWN_END, NOT_RUN)} if own.exists() else {}
            continue
        sections.append(_section(results, own))
        wanted[own] = _filled(own, OWN_START, OWN_END, measured(results))
    main = root / "README.md"
    wanted[main] = _filled(main, START, END, "\n\n".join([_EXPLAINED, *sections]))
    return wanted


def write_readmes(root: Path = Path()) -> list[Path]:
    """Bring every README up to its results; returns those that changed."""
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
    # A bench has a row for everything it times: its own README holds them, here stands what they say.
    table = said(results) if name.startswith(BENCH) else folded("the table", measured(results))
    parts = [f"**{name}.** {results['question']}", _paragraph(own, "What it says"), table, more]
    return "\n\n".join(part for part in parts if part)


def folded(title: str, text: str) -> str:
    """Return Markdown that shows a title and opens on a click; the blank lines make it Markdown inside, too."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _paragraph(path: Path, title: str) -> str:
    """Return the paragraph that begins with a bold title, without the title."""
    found = re.search(rf"^\*\*{title}\.\*\*\s+(.+?)(?:\n\s*\n|\Z)", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return found.group(1).strip() if found else ""


def measured(results: Mapping[str, Any]) -> str:
    """Return a line about how it was measured, then the table, as Markdown."""
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
    """Return the experiment's own sentences about its numbers, as a list in Markdown; empty where it has none."""
    return "\n".join(f"- {line}" for line in results["said"])
