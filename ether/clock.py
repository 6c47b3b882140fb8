"""The only file that asks the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["compact", "monotonic", "monotonic_ns", "now", "now_ns", "text"]

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
