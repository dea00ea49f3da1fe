"""Formatting of numbers and names as text, for messages, the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable


def duration(seconds: float) -> str:
    """Return a duration in a suitable unit, for example ``1.5 ms``, ``40.0 s``, ``27 min`` or ``31 h 05 min``."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs" if seconds else "0 s"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 image``, ``2,400 images``; ``many`` is the plural if it is not ``one`` + s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Join names with commas and say how many are left out: ``a, b, c and 1,204 more``."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def figure(value: float | None, form: str) -> str:
    """Return a number in a format such as ``.1%``; ``undefined`` if there is none (NaN or None)."""
    return "undefined" if value is None or value != value else f"{value:{form}}"


def interval(value: float | None, low: float | None, high: float | None, form: str, ends: str = "") -> str:
    """Return a value and its interval, ``0.951 [0.940, 0.960]``; ``ends`` is the format of the ends, default ``form``.

    If an end is unknown, the result is the value alone; if the value is unknown, ``undefined``.
    """
    known = not any(number is None or number != number for number in (value, low, high))
    return figure(value, form) + (f" [{low:{ends or form}}, {high:{ends or form}}]" if known else "")
