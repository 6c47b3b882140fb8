"""The only file that asks the time, and in which ether waits: a test can put another clock in its place."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, TypeVar

from ether.errors import named, suggest

__all__ = [
    "SECONDS", "compact", "join", "monotonic", "monotonic_ns", "now", "now_ns", "seconds", "take", "text", "thread",
    "wait", "wait_for",
]  # fmt: skip

T = TypeVar("T")

_LONG_S = 3600.0
"""Locks cannot wait for ever and be given a number."""

monotonic = time.monotonic
"""Seconds on a clock that never jumps: for deadlines and durations."""
monotonic_ns = time.monotonic_ns
now_ns = time.time_ns
"""Nanoseconds since the Unix epoch, UTC."""


def now() -> float:
    """Return seconds since the Unix epoch, UTC, rounded to the microsecond the wire carries."""
    return time.time_ns() // 1000 / 1e6


def wait(done: Callable[[], bool], sleep: Callable[[float], object], timeout: float) -> bool:
    """Wait until something is done; False after `timeout` seconds.

    Args:
        done: whether it is.
        sleep: returns when it may be, or after so many seconds; earlier does no harm.
        timeout: may be ``inf``.
    """
    deadline = monotonic() + timeout
    while not done():
        left = deadline - monotonic()
        if left <= 0:
            return False
        sleep(min(left, _LONG_S))
    return True


def wait_for(event: threading.Event, timeout: float) -> bool:
    """Wait until an event is set; False after `timeout` seconds."""
    return wait(event.is_set, event.wait, timeout)


def join(thread: threading.Thread, timeout: float) -> bool:
    """Wait until a thread has ended; False after `timeout` seconds."""
    return wait(lambda: not thread.is_alive(), thread.join, timeout)


def take(work: SimpleQueue[T], timeout: float | None) -> T:
    """Return what is next on a queue; queue.Empty after `timeout` seconds."""
    return work.get(timeout=timeout)


def thread(work: Callable[..., object], *args: Any, name: str) -> threading.Thread:
    """Start a daemon thread that lives by this clock."""
    begun = threading.Thread(target=work, args=args, name=name, daemon=True)
    begun.start()
    return begun


def text(unix_s: float) -> str:
    """Return ``2026-01-16T11:28:42.765+00:00``."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")


def compact(unix_s: float) -> str:
    """Return ``20260116-112842``, local time, fit for a file name."""
    return datetime.fromtimestamp(unix_s).strftime("%Y%m%d-%H%M%S")


SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
"""Unit of time to seconds."""
_DURATION = re.compile(r"\s*((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\W\d_]*)\s*\Z")


def seconds(value: object) -> float:
    """Return seconds from ``5s``, ``100ms``, ``2min``, ``1h``, or a bare number of seconds.

    Raises:
        ValueError: not a duration, or negative; says what would be.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{value} is no duration; it counts seconds from 0 up")
        return float(value)
    found = _DURATION.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"a duration was wanted (`5s`, `100ms`, `2min`, `1h`), got {named(value)}")
    number, unit = found.groups()
    if unit and unit not in SECONDS:
        raise ValueError(f"`{unit}` is no unit of time{suggest(unit, SECONDS) or '; use ms, s, min, h or d'}")
    return float(number) * SECONDS[unit or "s"]
