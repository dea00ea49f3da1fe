"""`run_experiment`: an ablation or a benchmark, cell by cell and seed by seed; a finished cell is never run again.

`robustbench_df.experiment_folder` describes the parts of an experiment.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_df.errors import Interrupted, RdfError, RunError, UsageError
from robustbench_df.experiment_folder import Cell, Experiment, question
from robustbench_df.experiment_results import SCHEMA, collect, read_json, save_results, to_json
from robustbench_df.rundir import provenance, write_json

if TYPE_CHECKING:
    from robustbench_df.data.imageset import ImageSet
    from robustbench_df.progress import Reporter

REPORTS = Path("reports") / "experiments"
QUICK = Path("runs") / "experiments"
"""Folder of quick results, which are for a first look and are not committed."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of `run_experiment`: folder, failed cells, number of cells left to run, number that existed before."""

    out: Path
    failed: dict[str, str]
    waiting: int
    kept: int


def run_experiment(
    experiment: Experiment,
    data: str | None = None,
    *,
    quick: bool = False,
    seeds: int | None = None,
    out: Path | None = None,
    fresh: bool = False,
    limit: int = 0,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Outcome:
    """Run the missing cells, then write ``results.json``, ``results.csv`` and ``figure.svg`` from all finished cells.

    Args:
        experiment: from `open_experiment`, with the same ``quick``.
        data: the images; None: the demo set with ``quick`` or if the config names it, otherwise the archive that the
            config names, in the folder ``$RDF_DATA``.
        quick: write the results to a separate folder, under `QUICK`.
        seeds: number of seeds of every cell, except those declared with 0 seeds (which this machine cannot run); None:
            the number of the cell or of the config.
        out: folder of the results; None: ``reports/experiments/NAME`` (quick: ``runs/experiments/NAME``).
        fresh: delete finished cells first.
        limit: run at most this many cells and leave the rest for another call; 0 runs all.
        device: where to compute; if the config names a device, the experiment runs on that one only.
        reporter: receives progress.

    Returns:
        The folder of the results; failed cells with their errors ("not run" in the results); the number left to run.

    Raises:
        UsageError, DataError: no data, cells that share a name, or a device other than the config's.
        Interrupted: on Ctrl-C; finished cells are kept.
    """
    from robustbench_df.data.sources import load_images
    from robustbench_df.devices import choose_device
    from robustbench_df.progress import Reporter as Silent

    name, config = experiment.name, experiment.config
    source = "demo" if quick and data is None else find_data(name, config, data)
    images = load_images(source, labels=config.get("labels", "folder"))
    out = out or (QUICK if quick else REPORTS) / name
    declared = declared_cells(experiment)
    device = _device(experiment, device)
    tasks = tasks_of(experiment, declared, out, images.fingerprint, choose_device(device), seeds)
    if fresh:
        for task in tasks:
            task.path.unlink(missing_ok=True)
    missing = [task for task in tasks if not task.finished]
    failed = _run(experiment, missing[: limit or None], images, device, reporter or Silent())
    facts = {
        "name": name,
        "question": question(experiment.folder),
        "command": " ".join(["rdf experiment", name, "--quick" if quick else f"--data {Path(source).name}"]),
        "quick": quick,
        "data": {"source": Path(source).name, "fingerprint": images.fingerprint, "images": len(images)},
        "config": config,
    }
    results = collect(facts, [cell.name for cell in declared], {task.path: task.key for task in tasks})
    save_results(out, {**results, "said": experiment.tell(results)})
    return Outcome(out, failed, len(missing[limit:]) if limit else 0, len(tasks) - len(missing))


@dataclass(frozen=True)
class Task:
    """One seed of one cell: the path of its file, and the digest of everything that its numbers depend on."""

    cell: Cell
    seed: int
    path: Path
    key: str

    @property
    def title(self) -> str:
        """Name of the cell and its seed."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its file exists and was made with the current code and settings."""
        try:
            return bool(read_json(self.path)["key"] == self.key)
        except (FileNotFoundError, RunError):
            return False


def _run(
    experiment: Experiment, tasks: Sequence[Task], images: ImageSet, device: str, reporter: Reporter
) -> dict[str, str]:
    """Run cells one by one; returns the errors of failed cells, by title."""
    failed: dict[str, str] = {}
    splits: dict[str, Any] = {}
    try:
        for k, task in enumerate(tasks):
            reporter.say(f"cell {k + 1} of {len(tasks)}: {task.title}")
            error = _run_cell(experiment, task, images, device, reporter, splits)
            if error:
                failed[task.title] = error
                reporter.warn(f"cell '{task.title}' failed: {error}")
    except KeyboardInterrupt as error:
        how = f"finished cells are kept, go on with: rdf experiment {experiment.name} --resume"
        raise Interrupted(f"stopped; {how}") from error
    return failed


def _device(experiment: Experiment, asked: str) -> str:
    """Return the device: the requested one, unless the experiment's config fixes it.

    Raises:
        UsageError: another device than the config's was requested.
    """
    only = str(experiment.config.get("device", asked))
    if asked not in ("auto", only):
        raise UsageError(f"{experiment.name} is about {only} alone, not {asked}; leave --device away")
    return only


def find_data(name: str, config: Mapping[str, Any], data: str | None) -> str:
    """Return the source of the images: ``data`` if given, else the archive that the config names, in ``$RDF_DATA``.

    Raises:
        UsageError: that archive does not exist.
    """
    wanted = data or str(config.get("data", "demo"))
    if data is not None or wanted == "demo":
        return wanted
    path = Path(os.environ.get("RDF_DATA", ".")) / wanted
    if not path.exists():
        raise UsageError(f"{name} is about {wanted}: give it with --data, or try --quick on the demo set")
    return str(path)


def cell_path(out: Path, name: str, seed: int) -> Path:
    """Return the path of a finished cell's file."""
    return out / "cells" / f"{slug(name)}-seed{seed}.json"


def slug(name: str) -> str:
    """Return a file name for a cell's name."""
    return re.sub(r"[^\w.+=-]+", "_", name).strip("_")


def declared_cells(experiment: Experiment) -> list[Cell]:
    """Return the cells of an experiment.

    Raises:
        UsageError: there is none, or two share a name.
    """
    declared = experiment.declare(copy.deepcopy(experiment.config))
    names = [slug(cell.name) for cell in declared]
    twice = next((cell.name for cell, own in zip(declared, names, strict=True) if names.count(own) > 1), None)
    if twice is not None or not declared:
        what = f"names the cell '{twice}' twice" if twice else "declares no cell"
        raise UsageError(f"'{experiment.folder / 'run.py'}' {what}; each needs a name of its own")
    return declared


def tasks_of(
    experiment: Experiment,
    declared: Sequence[Cell],
    out: Path,
    fingerprint: str,
    device: str,
    seeds: int | None = None,
) -> list[Task]:
    """Return a task for every seed of every cell, with its path under ``out`` and its key; see `run_experiment`."""
    usual = int(experiment.config.get("seeds", 1))
    return [
        Task(cell, seed, cell_path(out, cell.name, seed), _key(experiment, cell, seed, fingerprint, device))
        for cell, seed in _work(declared, usual, seeds)
    ]


def _work(declared: Sequence[Cell], usual: int, asked: int | None) -> Iterator[tuple[Cell, int]]:
    """Yield cells by seed: the first seed of every cell comes before any second seed."""
    own = [usual if cell.seeds is None else cell.seeds for cell in declared]
    wanted = [asked if asked and number else number for number in own]
    for seed in range(max(wanted)):
        yield from ((cell, seed) for cell, most in zip(declared, wanted, strict=True) if seed < most)


def _key(experiment: Experiment, cell: Cell, seed: int, fingerprint: str, device: str) -> str:
    """Return a digest of everything that a cell's numbers depend on, without settings that only shape the output.

    Processor and version are not part of it: the cell's file records both, and ``fresh`` measures again.
    """
    shaping = ("seeds", "columns", "figure", "data", "device")
    config = {k: v for k, v in experiment.config.items() if k not in shaping}
    made_of = [SCHEMA, experiment.source, config, cell.name, dict(cell.settings), seed, fingerprint]
    made_of += [] if device == "cpu" else [device]  # GPU results never replace CPU results, nor the reverse
    text = json.dumps(made_of, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _run_cell(
    experiment: Experiment,
    task: Task,
    images: ImageSet,
    device: str,
    reporter: Reporter,
    splits: dict[str, Any],
) -> str:
    """Run one cell and write its file; returns the error message, or an empty string."""
    from robustbench_df.lab import Lab
    from robustbench_df.settings import merge

    settings = merge(copy.deepcopy(experiment.config), task.cell.settings)
    lab = Lab(images, settings, task.seed, device, reporter=reporter, splits=splits)
    start = time.perf_counter()
    try:
        found = experiment.measure(task.cell, lab)
        rows = [to_json(row) for row in (found if isinstance(found, list) else [found])]
    except RdfError as error:
        return str(error)
    except Exception as error:  # errors in an experiment's own code must not stop the other cells
        return f"{type(error).__name__}: {' '.join(str(error).split())} ({_where(error, experiment.folder)})"
    made = provenance(task.seed, images.fingerprint, *_machine(device))
    record = {
        "schema": SCHEMA,
        "cell": task.cell.name,
        "settings": dict(task.cell.settings),
        "seed": task.seed,
        "key": task.key,
        "rows": rows,
        "seconds": round(time.perf_counter() - start - sum(lab.spent), 1),
        "training": {name: round(seconds, 1) for name, seconds in lab.training.items()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": made["versions"],
        "hardware": made["hardware"],
    }
    write_json(task.path, record)
    return ""


def _where(error: BaseException, folder: Path) -> str:
    """Name the innermost line of the experiment's own code in an error's traceback."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.parent.resolve() == folder.resolve():
            lines.append(f"{path.name}, line {trace.tb_lineno}")
        trace = trace.tb_next
    return lines[-1] if lines else "outside its run.py"


def _machine(device: str) -> tuple[int, str]:
    import torch

    from robustbench_df.devices import device_name

    return torch.get_num_threads(), device_name(device)
