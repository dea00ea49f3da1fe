"""Train many detectors at once, one process and one share of the cores each.

Small networks on small images cannot keep several cores busy: on two cores the small ResNet-SE learnt 905 images/s (32
px, batch 64, bf16) with two threads, and with one still 608. The weights are those of training one after the other with
as many threads.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, cast

from robustbench_df.data.split import Split
from robustbench_df.errors import RunError
from robustbench_df.models.footprint import CPU_PIXELS
from robustbench_df.train.fit import fit
from robustbench_df.train.job import Job
from robustbench_df.train.report import Reporter
from robustbench_df.train.worker import DONE, EVENTS, FAILED, WARNING, send

TASKS_EACH = 4
"""Fewer trainings than this per process are not divided: at the end one process would wait for the other."""

MEMORY_EACH = 1 << 30
"""Bytes that a process needs apart from its batch: torch, a network of 30 M parameters and its optimiser."""

MEMORY_PIXEL = 3 << 10
"""Bytes that a network keeps a pixel of its batch for the gradient (`models.footprint.CPU_PIXELS`)."""

SMALL_BATCH = 1 << 18
"""Pixels of a batch that are counted in any case: 64 images of 64 px."""

Task = tuple[Job, int]
"""A job and the number of its split."""


def how_many(tasks: int, device: str, pixels: int = SMALL_BATCH, threads: int = 1) -> int:
    """Return how many of ``tasks`` trainings are worth doing at once on this machine; 1 on an accelerator.

    Args:
        tasks: trainings in all.
        device: where they are trained.
        pixels: of a batch, those of all its images.
        threads: that each is known to take.
    """
    if device != "cpu":
        return 1
    each = MEMORY_EACH + MEMORY_PIXEL * min(max(pixels, SMALL_BATCH), CPU_PIXELS)
    return max(1, min(tasks // TASKS_EACH, cores() // threads, _free_memory() // each))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_memory() -> int:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    return 2 * MEMORY_EACH * cores()  # unknown here


def fit_all(
    tasks: Sequence[Task],
    splits: Sequence[Split],
    at_once: int,
    reporter: Reporter,
    spent: Callable[[Job, float], None] = lambda *_: None,
) -> None:
    """Train every task (`fit`), ``at_once`` of them at a time; finished ones are skipped by `fit` itself.

    Args:
        tasks: jobs, each with the number of its split in ``splits``.
        splits: over the same images.
        at_once: number of processes; a single one, or a single task, is this one.
        reporter: receives the events of all, each process through a `Reporter.beside` of its own.
        spent: called with each job and its share of the seconds, finished or not: those of its process, divided by
            how many there are.

    Raises:
        TrainError, OSError: as `fit`. The other processes are ended then; what they have saved can be gone on with.
        RunError: a process was killed from outside, by the system when memory ran out for example.
        RuntimeError: a bug showed in a process, whose traceback it tells.
    """
    if min(at_once, len(tasks)) <= 1:
        for job, k in tasks:
            started = time.perf_counter()
            try:
                fit(job, splits[k], reporter)
            finally:
                spent(job, time.perf_counter() - started)
        return
    waiting = deque(tasks)
    heard: SimpleQueue[tuple[_Worker, str, tuple[Any, ...]]] = SimpleQueue()
    workers = [_Worker(heard, reporter.beside()) for _ in range(min(at_once, len(tasks)))]
    try:
        for worker in workers:  # all of them are starting by now
            worker.send(list(splits))
            worker.take(waiting)
        while any(worker.job for worker in workers):
            worker, name, arguments = heard.get()
            if name in EVENTS:
                getattr(worker.reporter, name)(*arguments)
            elif name == WARNING:
                warnings.warn(str(arguments[0]), stacklevel=2)  # shown once, whoever says it
            elif name == FAILED:
                raise arguments[0]
            elif name == DONE and worker.job is not None:
                spent(worker.job, worker.seconds / len(workers))
                worker.take(waiting)
            elif worker.job is not None:
                raise RunError(
                    f"the process that trained {worker.job.name} {worker.fate()}; "
                    "what is finished is kept, go on with --resume --jobs 1"
                )
    finally:
        for worker in workers:
            worker.end()
            if worker.job is not None:
                spent(worker.job, worker.seconds / len(workers))


class _Worker:
    """A process of `robustbench_df.train.worker` and the thread that listens to it."""

    def __init__(self, heard: SimpleQueue[Any], reporter: Reporter) -> None:
        self.reporter = reporter
        self.job: Job | None = None
        self._since = 0.0
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "robustbench_df.train.worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for this process, which sees to the others
        )
        self._listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._listener.start()

    def take(self, waiting: deque[Task]) -> None:
        """Set the process to the next task, if there is one."""
        self.job = None
        if waiting:
            task = waiting.popleft()
            self.job, self._since = task[0], time.perf_counter()
            self.send(task)

    @property
    def seconds(self) -> float:
        """Since the process took its task."""
        return time.perf_counter() - self._since

    def fate(self) -> str:
        """Say how the process came to its end, which it has."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "was killed, as systems do when memory runs out"
        return f"came to an end with exit status {status} (what it printed is above)"

    def end(self) -> None:
        """Stop the process wherever it is; what it has saved is whole."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def send(self, value: Any) -> None:
        """Hand the process what it waits for: the splits first, then tasks."""
        with contextlib.suppress(OSError):  # gone: the listener notices
            send(value, cast(BinaryIO, self._process.stdin))

    def _listen(self, heard: SimpleQueue[Any]) -> None:
        with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
            while True:
                heard.put((self, *pickle.load(cast(BinaryIO, self._process.stdout))))
        heard.put((self, "gone", ()))
