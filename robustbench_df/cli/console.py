"""Progress output: Rich bars on a terminal, plain lines elsewhere, only warnings with ``--quiet``.

Progress goes to stderr and results go to stdout, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from robustbench_df.progress import BYTES, Reporter
from robustbench_df.rundir import jsonable
from robustbench_df.wording import duration

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

# A file or a pipe has no width, so use one at which no table row is wrapped.
if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
    out = Console(highlight=False, width=160)


PLAIN_EVERY = 10.0
"""Seconds between plain lines about epochs or a download."""
PLAIN_SILENCE = 60.0
"""Seconds without output after which a stage reports its progress."""


def print_json(value: Any) -> None:
    """Print a result on stdout as indented JSON (`rundir.jsonable`)."""
    print(json.dumps(jsonable(value), indent=2, allow_nan=False))


def describe(row: dict[str, Any]) -> str:
    """Return one line about a finished epoch."""
    parts = [f"epoch {row['epoch']}", f"loss {row['loss']:.3f}"]
    for key, label in (
        ("val_auc", "val AUC"),
        ("val_accuracy", "val acc"),
        ("val_fgsm_accuracy", "val FGSM acc"),
        ("val_pgd_accuracy", "val PGD acc"),
    ):
        if row.get(key) is not None:
            parts.append(f"{label} {row[key]:.3f}")
    return " · ".join([*parts, f"{row['images_per_second']:.0f} images/s"])


def describe_bytes(done: int, total: int | None, rate: float | None) -> str:
    """Return ``12.3 MB of 104.9 MB, 1.2 MB/s``; the total, or the rate (bytes per second), is left out if unknown."""
    of = "so far" if total is None else f"of {decimal(total)}"
    return f"{decimal(done)} {of}" + (f", {decimal(int(rate))}/s" if rate and rate > 0 else "")


@dataclass
class _Stage:
    """A running stage.

    ``before``, ``done`` and ``total`` are the units done before it began, those done now, and all of them (None:
    unknown). ``began`` and ``told`` are the times of its start and of its last line.
    """

    title: str
    unit: str
    before: int
    done: int
    total: int | None
    began: float
    told: float

    def __str__(self) -> str:
        seconds = time.monotonic() - self.began
        rate = (self.done - self.before) / seconds if seconds else None
        if self.unit == BYTES:
            return f"{self.title}: {describe_bytes(self.done, self.total, rate)}"
        if self.total is None:
            return f"{self.title}: {self.done} {self.unit}"
        left = f", about {duration((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.title}: {self.done} of {self.total} {self.unit}{left}"


class PlainReporter(Reporter):
    """Reporter that prints a line at the start of each stage, some lines about its progress, and its last epoch."""

    def __init__(self) -> None:
        self._stage = _Stage("", "", 0, 0, None, 0.0, 0.0)
        self._row = ""

    def beside(self) -> PlainReporter:
        """Return another reporter with its own stage and times."""
        return PlainReporter()

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:
        """Begin a stage and print its title."""
        now = time.monotonic()
        self._stage, self._row = _Stage(title, unit, done, done, steps, now, now), ""
        resumed = f", {done} behind us" if done else ""
        self._tell(str(self._stage) if unit == BYTES else f"{title}: {steps} {unit}{resumed}")

    def advance(self, images: int) -> None:
        """Print the progress of the stage if the last line is old enough."""
        self._stage.done += images
        if self._silent_for(PLAIN_EVERY if self._stage.unit == BYTES else PLAIN_SILENCE):
            self._tell(str(self._stage))

    def epoch(self, row: dict[str, Any]) -> None:
        """Print the epoch if the last line is old enough."""
        self._row = f"{self._stage.title}: {describe(row)}"
        if self._silent_for(PLAIN_EVERY):
            self._tell(self._row)
            self._row = ""

    def finish(self) -> None:
        """Print the last epoch if it has not been printed."""
        if self._row:
            self._tell(self._row)

    def say(self, text: str) -> None:
        """Print a line."""
        self._tell(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._tell(f"warning: {text}")

    def _silent_for(self, seconds: float) -> bool:
        return time.monotonic() - self._stage.told >= seconds

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self._stage.told = time.monotonic()


class QuietReporter(Reporter):
    """Reporter that prints warnings only."""

    def warn(self, text: str) -> None:
        """Print a warning."""
        print(f"warning: {text}", file=sys.stderr, flush=True)


class _Count(MofNCompleteColumn):
    """Column with the progress of a stage: images as 12/345, a download in megabytes with its rate."""

    def render(self, task: Task) -> Text:
        """Draw the count of one bar."""
        if task.fields["unit"] != BYTES:
            return super().render(task)
        total = None if task.total is None else int(task.total)
        return Text(describe_bytes(int(task.completed), total, task.speed), style="progress.download")


class RichReporter(Reporter):
    """Reporter with a bar for the running stage: count, time left and the last val numbers; a download has its rate."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Any = None

    def beside(self) -> RichReporter:
        """Return another reporter with its own bar below this one's."""
        return RichReporter(self._progress)

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:
        """Open a bar; it is only animated if the number of steps is unknown."""
        total, numbers = None if steps is None else max(steps, 1), "" if unit in ("images", BYTES) else unit
        self._task = self._progress.add_task(title, total=total, completed=done, numbers=numbers, unit=unit)

    def advance(self, images: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, images)

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the epoch beside the bar."""
        self._progress.update(self._task, numbers=describe(row))

    def finish(self) -> None:
        """Fill the bar, which early stopping leaves incomplete, and replace it by a line."""
        task = next(t for t in self._progress.tasks if t.id == self._task)
        # Hide the bar, because a long run would have too many bars for the live display; its last line stays above.
        self._progress.update(self._task, completed=task.total, visible=False)
        self._progress.console.print(Text(f"{task.description}  {task.fields['numbers']}", style="dim"))

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(Text(text))

    def warn(self, text: str) -> None:
        """Print a warning above the bars."""
        self._progress.console.print(Text(f"warning: {text}", style="yellow"))


@contextmanager
def reporting(quiet: bool) -> Iterator[Reporter]:
    """Yield the reporter that suits stderr (terminal or not); user warnings are printed by it as single lines."""
    reporter: Reporter
    if quiet or not err.is_terminal:
        reporter = QuietReporter() if quiet else PlainReporter()
        with _warnings_to(reporter):
            yield reporter
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        _Count(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}", style="dim"),
    )
    with Progress(*columns, console=err) as progress:
        reporter = RichReporter(progress)
        with _warnings_to(reporter):
            yield reporter


@contextmanager
def _warnings_to(reporter: Reporter) -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        # Only plain UserWarnings, as ours are, concern the user; a library's deprecation notice concerns developers.
        if category is UserWarning:
            reporter.warn(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("once", UserWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
