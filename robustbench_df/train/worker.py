"""A process that trains what it is given: splits and jobs come in by its standard input, events go out by its output.

Started as ``python -m robustbench_df.train.worker`` by `robustbench_df.train.side_by_side`, and not through
`multiprocessing`, which would run the caller's own script once more in every process. It ends with whoever started it,
and at once: its standard input has no other end then.
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
from robustbench_df.train.fit import fit
from robustbench_df.train.report import Reporter

EVENTS = ("start", "advance", "epoch", "finish", "say", "warn")
"""The methods of a `Reporter` that are called across the pipe."""
DONE, FAILED, WARNING = "done", "failed", "warning"


def send(value: Any, to: BinaryIO) -> None:
    """Write one pickled value. A memory map travels as a place in its file: images may be more than the memory."""
    _Pickler(to, pickle.HIGHEST_PROTOCOL).dump(value)
    to.flush()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        place = _place(value) if isinstance(value, np.memmap) else None
        return NotImplemented if place is None else (np.memmap, place)


def _place(array: np.memmap[Any, Any]) -> tuple[str, np.dtype[Any], str, int, tuple[int, ...]] | None:
    """Return file, type, mode, offset in bytes and shape by which a map, or a part of one, is found again.

    None for a part with gaps, for one that may have been changed in memory alone, and where there is no file.
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
    """Read the splits, then jobs until there are no more; train each and say how it went."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no event
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    try:
        serve(sys.stdin.buffer, channel)
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        os._exit(1)  # nobody listens, or speaks, any more: no traceback, nothing to be flushed


def _end_with(pipe: int) -> None:
    """End this process once nobody holds the other end of ``pipe``, in the middle of a long step too.

    What it goes on writing would meet the files of the run that is resumed at once.
    """
    watch = select.poll()
    watch.register(pipe, 0)  # its end is told unasked; what can be read is for `serve`
    watch.poll()
    os._exit(1)


def serve(source: BinaryIO, channel: BinaryIO) -> None:
    """Answer every job of ``source`` on ``channel`` by its events and, last, `DONE`, or `FAILED` with the error.

    What is no error of ours or of the system is a bug: it comes as its traceback in a RuntimeError, for the place where
    it happened is what one wants to know, and not every exception can be pickled.
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
        except Exception:  # a bug of any kind must reach whoever waits for an answer
            tell(FAILED, RuntimeError(f"the process that trained {job.title} failed:\n{traceback.format_exc()}"))


if __name__ == "__main__":
    main()
