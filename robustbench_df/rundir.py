"""A run on disk: paths, atomic writes, provenance, and a lock that is released when its process ends."""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from robustbench_df._version import __version__
from robustbench_df.config import RunConfig, file_name
from robustbench_df.errors import RunError, UsageError
from robustbench_df.settings import validated

SCHEMA = 1
"""Version of the files in a run folder; other versions are refused."""

RUNS = Path("runs")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write ``path`` atomically: ``write`` fills a temporary file in the same folder, which is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `jsonable` values as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def jsonable(value: Any) -> Any:
    """Convert a value to JSON types: dataclasses become objects, tuples lists, NaN and infinity null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def file(self, *parts: str) -> Path:
        """Return a path inside the run."""
        return self.path.joinpath(*parts)

    def model_dir(self, model: str, fold: int | None = None) -> Path:
        """Return the folder of one detector, or of one of its folds."""
        folder = self.file("models", file_name(model))
        return folder if fold is None else folder / f"fold{fold}"

    def read_json(self, *parts: str) -> Any:
        """Read one of the run's JSON files.

        Raises:
            RunError: the file is missing or damaged.
        """
        path = self.file(*parts)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RunError(
                f"run '{self.path}' has no {'/'.join(parts)}; finish it with: {self.resume_command}"
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"'{path}' is damaged: {error}") from error

    @property
    def config(self) -> RunConfig:
        """The run's settings.

        Raises:
            RunError: the settings were written by a version with another schema or other rules, or are damaged.
        """
        raw = self.read_json("config.json")
        if not isinstance(raw, dict) or "config" not in raw:
            raise RunError(f"'{self.file('config.json')}' is damaged: it holds no settings; train the run again")
        if raw.get("schema") != SCHEMA:
            raise RunError(
                f"run '{self.path}' has schema {raw.get('schema')}, this version reads {SCHEMA}; train it again"
            )
        try:
            return validated(RunConfig, raw["config"])
        except UsageError as error:
            raise RunError(
                f"this version refuses the settings of run '{self.path}': {error}; train it again"
            ) from error

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return f"rdf train-all --resume --run {shlex.quote(str(self.path))}"

    @property
    def finished(self) -> bool:
        """Whether training and evaluation are complete; without one of their results they are incomplete again."""
        return all(self.file(name).exists() for name in ("DONE", "predictions", "ensemble.json", "results.json"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for writing. The lock belongs to the process and is released when the process ends.

        Raises:
            RunError: another process is writing to this run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with self.file("lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                handle.seek(0)
                raise RunError(
                    f"run '{self.path}' is in use by process {handle.read().strip() or 'unknown'}; "
                    "wait for it or choose another --run"
                ) from error
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove the half-written files of processes that were killed."""
        for litter in self.path.rglob(".*.tmp"):
            writer = litter.name.split(".")[-2]
            if writer.isdigit() and not _lives(int(writer)):
                litter.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a process of another user
    return True


def create_run(config: RunConfig, path: Path | None = None) -> RunDir:
    """Create a run folder and store the settings in it.

    Raises:
        RunError: the folder already holds a run, or cannot be written.
    """
    if path is None:
        stem = Path(config.data.source).stem or "run"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = RUNS / f"{stamp}-{stem}-{config.preset}"
    refuse_existing(path)
    run = RunDir(path)
    try:
        write_json(run.file("config.json"), {"schema": SCHEMA, "config": config.model_dump(mode="json")})
    except OSError as error:
        raise RunError(
            f"cannot make the run folder '{path}' ({error.strerror or error}); name one that can be written with --run"
        ) from error
    return run


def refuse_existing(path: Path | None) -> None:
    """Refuse a path for a new run that is already in use.

    Raises:
        RunError: the folder already holds a run, or the path is a file.
    """
    if path is not None and (path / "config.json").exists():
        raise RunError(f"'{path}' already holds a run; go on with --resume, or choose another --run")
    if path is not None and path.exists() and not path.is_dir():
        raise RunError(f"'{path}' is a file, not a folder; choose another --run")


def find_run(path: Path | str | None = None, *, finished: bool | None = None) -> RunDir:
    """Return the named run, or the latest under ``runs/`` (``None`` or ``runs/latest``).

    For the latest, ``finished`` prefers finished (True) or unfinished (False) runs, if there are any.

    Raises:
        RunError: there is none.
    """
    if path is not None and (Path(path) / "config.json").is_file():
        return RunDir(Path(path))
    if path is not None and Path(path).name != "latest":
        if (RUNS / str(path) / "config.json").is_file():
            return RunDir(RUNS / str(path))
        raise RunError(f"'{path}' is not a run folder (no config.json); make one with: rdf train-all")
    root = RUNS if path is None else Path(path).parent
    configs = sorted(root.glob("*/config.json"), key=lambda p: (p.stat().st_mtime_ns, str(p)))
    if not configs:
        raise RunError(f"no run under '{root}'; make one with: rdf train-all --data FOLDER")
    runs = [RunDir(config.parent) for config in configs]
    wanted = [run for run in runs if finished is None or run.finished == finished]
    return (wanted or runs)[-1]


def provenance(seed: int, fingerprint: str, threads: int, device: str) -> dict[str, Any]:
    """Describe what produced a run: command, versions, hardware, data and seed."""
    packages = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")
    return {
        "command": shlex.join(["rdf", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "data_fingerprint": fingerprint,
        "versions": {
            "robustbench_df": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": threads,
            "device": device,
        },
        "durations": {},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


class Durations:
    """Accumulate the seconds of named stages in the run's provenance, over all sessions of the run."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; its time also counts if it ends with an error."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage."""
        record = self._run.read_json("provenance.json")
        record["durations"][name] = round(record["durations"].get(name, 0.0) + seconds, 3)
        write_json(self._run.file("provenance.json"), record)
