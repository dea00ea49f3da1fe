"""A process that trains what it is given: splits and jobs come in by its standard input, events go out by its output.

Started as ``python -m robustbench_df.train.worker`` by `robustbench_df.train.side_by_side`, and not through
`multiprocessing`, which would run the caller's own script once more in every process. It ends with whoever started it:
there is nothing more to read then, and nobody to tell of any progress.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
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
    """Write one pickled value. A memory map travels as the name of its file: images may be more than the memory."""
    _Pickler(to, pickle.HIGHEST_PROTOCOL).dump(value)
    to.flush()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap):  # the whole file, no view of a part
            return np.memmap, (str(value.filename), value.dtype, "r", value.offset, value.shape)
        return NotImplemented


def main() -> None:
    """Read the splits, then jobs until there are no more; train each and say how it went."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no event
    try:
        serve(sys.stdin.buffer, channel)
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        os._exit(1)  # nobody listens, or speaks, any more: no traceback, nothing to be flushed


def serve(source: BinaryIO, channel: BinaryIO) -> None:
    """Answer every job of ``source`` on ``channel`` by its events and, last, `DONE`, or `FAILED` with the error."""

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
        except RdfError as error:
            tell(FAILED, error)


if __name__ == "__main__":
    main()
