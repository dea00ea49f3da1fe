"""A worker process for training: it reads splits and jobs from standard input and writes events to standard output.

`robustbench_df.train.side_by_side` starts it as ``python -m robustbench_df.train.worker``. `multiprocessing` is not
used, because it would run the caller's script again in every process. The worker exits immediately when its parent
ends, because the other end of its standard input is then closed.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import sys
import threading
import traceback
import warnings
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from robustbench_df.errors import RdfError
from robustbench_df.progress import Reporter
from robustbench_df.train.fit import fit

EVENTS = ("start", "advance", "epoch", "finish", "say", "warn")
"""The methods of a `Reporter` that are called across the pipe."""
DONE, FAILED, WARNING = "done", "failed", "warning"


def send(value: Any, to: BinaryIO) -> None:
    """Write one pickled value. A memory map is sent as a position in its file: the images may not fit into memory."""
    _Pickler(to, pickle.HIGHEST_PROTOCOL).dump(value)
    to.flush()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        place = _place(value) if isinstance(value, np.memmap) else None
        return NotImplemented if place is None else (np.memmap, place)


def _place(array: np.memmap[Any, Any]) -> tuple[str, np.dtype[Any], str, int, tuple[int, ...]] | None:
    """Return file, dtype, mode, offset in bytes and shape from which a memory map, or a part of one, can be reopened.

    None if the array is empty or not contiguous, is copy-on-write (so may have changed in memory only), or has no file.
    """
    whole = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    mapped = isinstance(whole.base, mmap.mmap) and array.size and array.flags.c_contiguous and array.mode != "c"
    if not mapped:
        return None
    offset = whole.offset + array.ctypes.data - whole.ctypes.data
    return str(array.filename), array.dtype, "r", offset, array.shape


def main() -> None:
    """Read the splits, then jobs until the input ends; train each job and report the outcome."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keep output that libraries print out of the event stream
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        serve(sys.stdin.buffer, channel)
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        os._exit(1)  # the parent has closed its end of a pipe: exit without a traceback and without flushing


def _end_with(pipe: int) -> None:
    """End this process as soon as the other end of ``pipe`` is closed, even in the middle of a long step.

    Otherwise it could still write files while a resumed run already uses them.
    """
    watch = select.poll()
    watch.register(pipe, 0)  # a hang-up is always reported; readable input is left to `serve`
    watch.poll()
    os._exit(1)


def serve(source: BinaryIO, channel: BinaryIO) -> None:
    """Train every job from ``source``; send its events to ``channel``, then `DONE`, or `FAILED` with the error.

    Any exception but `RdfError` and OSError is a bug. It is sent as a RuntimeError that holds the traceback, because
    the traceback shows where it happened and because not every exception can be pickled.
    """

    def tell(name: str, *arguments: Any) -> None:
        send((name, arguments), channel)

    reporter = Reporter()
    for name in EVENTS:
        setattr(reporter, name, partial(tell, name))
    warnings.simplefilter("once", UserWarning)
    warnings.showwarning = lambda message, *_: tell(WARNING, str(message))
    splits = pickle.load(source)
    while True:
        try:
            job, k = pickle.load(source)
        except EOFError:
            return
        try:
            fit(job, splits[k], reporter)
            tell(DONE)
        except (RdfError, OSError) as error:
            tell(FAILED, error)
        except Exception:  # a bug of any kind must be reported to the waiting parent
            tell(FAILED, RuntimeError(f"the process that trained {job.title} failed:\n{traceback.format_exc()}"))


if __name__ == "__main__":
    main()
