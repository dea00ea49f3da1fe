"""What training tells whoever watches; the command line draws it, a library user may ignore it."""

from __future__ import annotations

from typing import Any

BYTES = "bytes"
"""The unit of a download, which is told in megabytes and with its rate."""


class Reporter:
    """Receives progress. Every method does nothing here; override what is wanted."""

    def beside(self) -> Reporter:
        """Return a reporter for stages that run at the same time as this one's; here, the same."""
        return self

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:
        """Announce a stage of ``steps`` units (None: nobody knows how many), of which ``done`` are behind us."""

    def advance(self, images: int) -> None:
        """Report that ``images`` more, or as many of another unit, have been processed."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Report the history row of a finished epoch."""

    def finish(self) -> None:
        """Report that the stage is over."""

    def say(self, text: str) -> None:
        """Pass on a line the user should see."""

    def warn(self, text: str) -> None:
        """Pass on a line the user must see."""
