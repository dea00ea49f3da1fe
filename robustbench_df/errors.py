"""Every error this package raises on purpose, as one small tree.

    RdfError                 anything a user can fix; the CLI prints one line and exits 1
    ├── UsageError           the command or configuration is wrong; exits 2
    ├── DataError            images, labels, archives, splits
    ├── ModelError           an unknown model, weights that do not fit
    ├── TrainError           a non-finite loss, a single image that does not fit in memory
    ├── RunError             a run folder that is missing, busy, damaged or of another version
    └── Interrupted          Ctrl-C: stopped cleanly, can be resumed; exits 130

A message names the thing, the value and the remedy, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RdfError(Exception):
    """Base of all errors that the user can fix. ``exit_code`` is the exit status of the command line."""

    exit_code = 1


class UsageError(RdfError):
    """A wrong option, configuration key or value."""

    exit_code = 2


class DataError(RdfError):
    """Images, labels, archives or splits that cannot be used as they are."""


class ModelError(RdfError):
    """A model name, architecture or weight file that cannot be used."""


class TrainError(RdfError):
    """Training cannot continue."""


class RunError(RdfError):
    """A run folder that is missing, busy, damaged or written by another version."""


class Interrupted(RdfError):  # noqa: N818  (it is a state, not a fault)
    """The user pressed Ctrl-C; everything finished so far is on disk."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, or the name of its class if there is none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def kind_and_line(error: BaseException) -> str:
    """Return the class and the first line of an error of external code, whose message alone may not be informative."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for a near miss of ``name`` among ``choices``, else an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
