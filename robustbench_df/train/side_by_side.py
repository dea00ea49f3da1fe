"""Train many detectors at once, each in its own process with its share of the cores.

Small networks on small images cannot keep several cores busy: on two cores, training the small ResNet-SE (32 px, batch
64, bf16) ran at 905 images/s with two threads and still at 608 images/s with one. The weights are the same as those of
sequential training with the same number of threads.
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
from robustbench_df.progress import Reporter
from robustbench_df.train.fit import fit
from robustbench_df.train.job import Job
from robustbench_df.train.worker import DONE, EVENTS, FAILED, WARNING, send

TASKS_EACH = 4
"""Least number of trainings per process: with fewer, processes would too often wait for each other at the end."""

MEMORY_EACH = 1 << 30
"""Bytes that a process needs besides its batch: torch, a network of 30 M parameters and its optimiser."""

MEMORY_PIXEL = 3 << 10
"""Bytes that a network stores for the gradient per pixel of its batch (`models.footprint.CPU_PIXELS`)."""

SMALL_BATCH = 1 << 18
"""Least number of pixels assumed for a batch: 64 images of 64 px."""

Task = tuple[Job, int]
"""A job and the index of its split."""


def how_many(tasks: int, device: str, pixels: int = SMALL_BATCH, threads: int = 1) -> int:
    """Return how many of ``tasks`` trainings are worth doing at once on this machine; 1 on an accelerator.

    Args:
        tasks: total number of trainings.
        device: device that they are trained on.
        pixels: pixels per batch, summed over its images.
        threads: least number of threads that each training will use.
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
    """Train every task (`fit`), ``at_once`` of them at a time; `fit` itself skips the finished ones.

    Args:
        tasks: jobs, each with the index of its split in ``splits``.
        splits: splits of the same images.
        at_once: number of processes; with one process or one task, training runs in the calling process.
        reporter: receives the events of all processes, each through its own `Reporter.beside`.
        spent: called with each job, finished or not, and its share of the seconds: the time in its process, divided by
            the number of processes.

    Raises:
        TrainError: a loss is not finite, or even one image does not fit in memory.
        OSError: a file cannot be read or written. After any error the other processes are ended; training can resume
            from what they saved.
        RunError: a process ended unexpectedly, for example killed by the system when memory ran out.
        RuntimeError: another exception (a bug) in a process; the message holds its traceback.
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
        for worker in workers:  # by now all processes are starting in parallel
            worker.send(list(splits))
            worker.take(waiting)
        while any(worker.job for worker in workers):
            worker, name, arguments = heard.get()
            if name in EVENTS:
                getattr(worker.reporter, name)(*arguments)
            elif name == WARNING:
                warnings.warn(str(arguments[0]), stacklevel=2)  # shown once, whichever worker sends it
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
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
        )
        self._listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self._listener.start()

    def take(self, waiting: deque[Task]) -> None:
        """Give the process the next task, if there is one."""
        self.job = None
        if waiting:
            task = waiting.popleft()
            self.job, self._since = task[0], time.perf_counter()
            self.send(task)

    @property
    def seconds(self) -> float:
        """Seconds since the process took its task."""
        return time.perf_counter() - self._since

    def fate(self) -> str:
        """Say how the process ended; to be called after it has ended."""
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return "was killed, as systems do when memory runs out"
        return f"came to an end with exit status {status} (what it printed is above)"

    def end(self) -> None:
        """Kill the process; its saved files stay intact, since each is written atomically."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def send(self, value: Any) -> None:
        """Send the process its next input: first the splits, then tasks."""
        with contextlib.suppress(OSError):  # the process has ended; the listener notices
            send(value, cast(BinaryIO, self._process.stdin))

    def _listen(self, heard: SimpleQueue[Any]) -> None:
        with contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
            while True:
                heard.put((self, *pickle.load(cast(BinaryIO, self._process.stdout))))
        heard.put((self, "gone", ()))
