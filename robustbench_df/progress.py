"""Progress reports: the command line displays them, a library user may ignore them."""

from __future__ import annotations

from typing import Any

BYTES = "bytes"
"""The unit of a download, which is shown in megabytes and with its rate."""


class Reporter:
    """Receive progress. Every method does nothing here; override the ones you need."""

    def beside(self) -> Reporter:
        """Return a reporter for stages that run at the same time as those of this one; by default, this one itself."""
        return self

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:
        """Announce a stage of ``steps`` units (None: the number is unknown), of which ``done`` are already finished."""

    def advance(self, images: int) -> None:
        """Report that ``images`` more images, or that many of the stage's other units, have been processed."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Report the history row of a finished epoch."""

    def finish(self) -> None:
        """Report that the stage is over."""

    def say(self, text: str) -> None:
        """Pass on a line the user should see."""

    def warn(self, text: str) -> None:
        """Pass on a line the user must see."""
