"""How numbers with a unit are put into words, on the terminal and in the report."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a time in a unit that suits it, for example ``1.5 ms``, ``40.0 s``, ``27 min`` or ``31 h 05 min``."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs" if seconds else "0 s"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
