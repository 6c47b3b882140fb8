"""The only file that asks the time."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

__all__ = ["compact", "monotonic", "monotonic_ns", "now", "now_ns", "seconds", "text"]

monotonic = time.monotonic
"""Seconds on a clock that never jumps: for deadlines and durations."""
monotonic_ns = time.monotonic_ns
now_ns = time.time_ns
"""Nanoseconds since the Unix epoch, UTC."""


def now() -> float:
    """Return seconds since the Unix epoch, UTC, rounded to the microsecond the wire carries."""
    return time.time_ns() // 1000 / 1e6


def text(unix_s: float) -> str:
    """Return ``2026-01-16T11:28:42.765+00:00``."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def compact(unix_s: float) -> str:
    """Return ``20260116-112842``, local time, fit for a file name."""
    return datetime.fromtimestamp(unix_s).strftime("%Y%m%d-%H%M%S")  # noqa: DTZ006 - what the user's wall clock says


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)\s*\Z")


def seconds(duration: float | str) -> float:
    """Return a duration in seconds: a number is seconds, a text has a unit (``100ms``, ``5s``, ``2min``, ``1h``).

    Raises:
        ValueError: not a duration, negative, or without a unit.
    """
    if isinstance(duration, bool) or not isinstance(duration, (int, float, str)):
        raise ValueError(f"{duration!r} is no duration; write 100ms, 5s, 2min or 1h")
    if isinstance(duration, str):
        found = _DURATION.match(duration)
        if found is None or found[2] not in _UNITS:
            hint = f"did you mean {duration.strip()}s?" if duration.strip().replace(".", "", 1).isdigit() else ""
            raise ValueError(f"{duration!r} is no duration; {hint or 'write 100ms, 5s, 2min or 1h'}")
        return float(found[1]) * _UNITS[found[2]]
    if not 0 <= duration < float("inf"):
        raise ValueError(f"{duration!r} is no duration; it must not be negative or infinite")
    return float(duration)
