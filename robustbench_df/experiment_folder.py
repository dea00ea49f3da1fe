"""Read an experiment's folder: ``config.toml`` (settings), ``run.py`` (code) and ``README.md`` (purpose).

``run.py`` must declare two functions::

    def cells(config) -> list[Cell]            # the cells to compare; every cell is run once per seed
    def measure(cell, lab) -> dict             # the cell's values; or a list of dicts distinguished by their key "row"

A value is an `Interval` (a share with its uncertainty over images), a plain number, or a word. Each finished cell is a
small JSON file that is not computed again while its settings, its images and the folder's code stay the same. An
optional third function, ``tell(results) -> list[str]``, returns sentences that summarise the table.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_df.errors import UsageError, nearest
from robustbench_df.experiment_results import Values

if TYPE_CHECKING:
    from robustbench_df.lab import Lab

EXPERIMENTS = Path("experiments")


@dataclass(frozen=True)
class Cell:
    """One variant of a comparison: a name, settings merged over the config, and its number of seeds.

    ``seeds`` None takes the experiment's number. Give fewer for a costly row that is not a main result, and 0 for a
    cell that this machine cannot run (it reads "not run"). A number given by ``--seeds`` replaces all of these but 0.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: int | None = None


Measure = Callable[[Cell, "Lab"], "Values | list[Values]"]


@dataclass(frozen=True)
class Experiment:
    """An experiment as read from its folder."""

    folder: Path
    config: dict[str, Any]
    source: str
    """Digest of the folder's code, ignoring comments and layout; changed code invalidates finished cells."""
    declare: Callable[[dict[str, Any]], list[Cell]]
    measure: Measure
    tell: Callable[[dict[str, Any]], list[str]] = lambda _: []

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


def find_experiments(root: Path = EXPERIMENTS) -> dict[str, Path]:
    """Return the folder of every experiment under ``root`` by its name, sorted."""
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.toml"))}


def question(folder: Path) -> str:
    """Return the question that an experiment's README.md states; empty if it states none."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(r"\*\*Question\.\*\*\s+(.+?)(?:\n\s*\n|\Z)", text, re.DOTALL)
    return " ".join(found.group(1).split()) if found else ""


def open_experiment(name: str | Path, *, quick: bool = False, root: Path = EXPERIMENTS) -> Experiment:
    """Read an experiment by its name under ``root``, or by its folder.

    Raises:
        UsageError: there is no such experiment (the message gives the nearest name), or its files are invalid.
    """
    known = find_experiments(root)
    folder = known.get(str(name), Path(name))
    if not (folder / "config.toml").is_file():
        hint = nearest(str(name), known) if known else f"; there is no folder '{root}' here: change to the checkout"
        raise UsageError(f"no experiment '{name}'{hint}" + (f"; choose from {', '.join(known)}" if known else ""))
    try:
        config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        source = _digest_of_code(folder)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"'{folder / 'config.toml'}' is not valid TOML: {error}") from error
    except FileNotFoundError as error:
        raise UsageError(f"experiment '{folder.name}' has no run.py; copy one from another experiment") from error
    only_quick = config.pop("quick", {})
    if quick:
        from robustbench_df.settings import merge

        config = merge(config, only_quick)
    module = _module(folder)
    for part in ("cells", "measure"):
        if not callable(getattr(module, part, None)):
            raise UsageError(f"'{folder / 'run.py'}' has no function {part}(); see robustbench_df/experiment_folder.py")
    optional = {"tell": module.tell} if hasattr(module, "tell") else {}
    return Experiment(folder, config, source, module.cells, module.measure, **optional)


def _digest_of_code(folder: Path) -> str:
    """Return a digest of ``run.py`` and the other Python files of the folder.

    Raises:
        FileNotFoundError: there is no ``run.py``.
        UsageError: one of them is not valid Python.
    """
    code = []
    for path in (folder / "run.py", *sorted(set(folder.glob("*.py")) - {folder / "run.py"})):
        try:
            code.append(json.dumps(_structure(ast.parse(path.read_text(encoding="utf-8")))))
        except SyntaxError as error:
            raise UsageError(f"'{path}', line {error.lineno}: {error.msg}") from error
    return hashlib.blake2b("\0".join(code).encode(), digest_size=8).hexdigest()


def _structure(node: Any) -> Any:
    """Return a syntax tree as nested lists, the same on every version of Python: newer ones add fields, left empty."""
    if isinstance(node, ast.AST):
        fields = [[name, _structure(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, fields]
    return [_structure(item) for item in node] if isinstance(node, list) else ascii(node)


def _module(folder: Path) -> Any:
    """Import ``run.py``; it can import other files of its folder by their bare names, as when it is run as a script."""
    spec = importlib.util.spec_from_file_location(f"rdf_experiment_{folder.name}", folder / "run.py")
    if spec is None or spec.loader is None:
        raise UsageError(f"'{folder / 'run.py'}' cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        # Another experiment may have a file of the same name.
        own = [
            n
            for n, m in sys.modules.items()
            if Path(getattr(m, "__file__", None) or "").parent.resolve() == folder.resolve()
        ]
        for name in own:
            del sys.modules[name]
    return module
