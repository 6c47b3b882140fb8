"""Comparison: what instances published then and now, reading by reading, while both go on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Comparison", "Difference", "difference"]

_AHEAD = 50
"""So many readings are looked through for where two streams meet again."""
_CERTAIN = 3
"""Two streams have met again when so many readings in a row are equal."""


@dataclass(slots=True)
class Difference:
    """How the readings of one publisher on one topic compare."""

    topic: str
    publisher: str
    recorded: int = 0
    now: int = 0
    equal: int = 0
    differing: int = 0
    missing: int = 0
    """Recorded, and not published now."""
    extra: int = 0
    """Published now, and not recorded."""
    first: str = ""
    """The first difference, for people; empty where there is none."""

    @property
    def same(self) -> bool:
        return not (self.differing or self.missing or self.extra)


class Comparison:
    """Compares two sequences of readings, each in its own order; memory holds what the other has not reached.

    Where they differ, readings that only one of them has are told from readings with other values by looking ahead.

    Args:
        topic: for the report.
        publisher: for the report.
        tolerance: relative and absolute, for floats.
        ignore: fields that are not compared.
    """

    def __init__(self, topic: str, publisher: str, *, tolerance: float = 1e-9, ignore: Iterable[str] = ()) -> None:
        self.result = Difference(topic, publisher)
        self.recorded: deque[dict[str, Any]] = deque()
        """Append here what was recorded."""
        self.now: deque[dict[str, Any]] = deque()
        """Append here, in any thread, what comes now."""
        self._tolerance = tolerance
        self._ignore = frozenset(ignore)

    @property
    def reached(self) -> bool:
        """Whether as many have come as were recorded, so far."""
        return self.result.now + len(self.now) >= self.result.recorded + len(self.recorded)

    def advance(self, final: bool = False) -> None:
        """Compare what there is; unless `final`, keep what may yet be explained by readings to come."""
        enough = 0 if final else _AHEAD + _CERTAIN
        while self.recorded and self.now:
            if self._differ(self.recorded[0], self.now[0]) is None:
                self._take(1, 1)
                self.result.equal += 1
            elif len(self.recorded) > enough and len(self.now) > enough:
                self._explain()
            else:
                return
        if final:
            missing, extra = len(self.recorded), len(self.now)
            if missing:
                self._tell(f"missing: {_shown(self.recorded[0])}")
            if extra:
                self._tell(f"extra: {_shown(self.now[0])}")
            self._take(missing, extra)
            self.result.missing += missing
            self.result.extra += extra

    def _explain(self) -> None:
        """Take the readings at the head, which differ, for missing, extra, or of another value."""
        recorded, now = _head(self.recorded), _head(self.now)
        for ahead in range(1, _AHEAD):
            if self._meet(recorded[ahead:], now):
                self._tell(f"missing: {_shown(recorded[0])}")
                self._take(ahead, 0)
                self.result.missing += ahead
                return
            if self._meet(recorded, now[ahead:]):
                self._tell(f"extra: {_shown(now[0])}")
                self._take(0, ahead)
                self.result.extra += ahead
                return
        self._tell(self._differ(recorded[0], now[0]) or "")
        self._take(1, 1)
        self.result.differing += 1

    def _meet(self, recorded: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
        if min(len(recorded), len(now)) < _CERTAIN and len(recorded) != len(now):
            return False  # at the end few are enough, if they end together
        pairs = list(zip(recorded[:_CERTAIN], now[:_CERTAIN], strict=False))
        return bool(pairs) and all(self._differ(one, other) is None for one, other in pairs)

    def _differ(self, recorded: dict[str, Any], now: dict[str, Any]) -> str | None:
        names = [name for name in {**recorded, **now} if name not in self._ignore]
        for name in names:
            if name not in now:
                return f"{name}: {_shown(recorded[name])} recorded, absent now"
            if name not in recorded:
                return f"{name}: not recorded, {_shown(now[name])} now"
            found = difference(recorded[name], now[name], self._tolerance)
            if found is not None:
                return f"{name}{found}"
        return None

    def _tell(self, what: str) -> None:
        if not self.result.first:
            self.result.first = f"reading {self.result.recorded + 1}: {what}"

    def _take(self, recorded: int, now: int) -> None:
        for _ in range(recorded):
            self.recorded.popleft()
        for _ in range(now):
            self.now.popleft()
        self.result.recorded += recorded
        self.result.now += now


def _head(readings: deque[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the first readings; others may be appended meanwhile."""
    return [readings[place] for place in range(min(len(readings), _AHEAD + _CERTAIN))]


def difference(recorded: Any, now: Any, tolerance: float = 1e-9) -> str | None:
    """Return where and how two values differ, such as ``.x[2]: 1 recorded, 2 now``; None where they are equal.

    Ints equal floats of the same value, NaN equals NaN, floats may differ by `tolerance`, relative or absolute.
    """
    if isinstance(recorded, np.ndarray) or isinstance(now, np.ndarray):
        return _array_difference(np.asarray(recorded), np.asarray(now), tolerance)
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        for name in {**recorded, **now}:
            if name not in recorded or name not in now:
                return f".{name}: " + ("not recorded" if name not in recorded else "recorded, absent now")
            if (found := difference(recorded[name], now[name], tolerance)) is not None:
                return f".{name}{found}"
        return None
    if isinstance(recorded, list) and isinstance(now, list):
        if len(recorded) != len(now):
            return f": {len(recorded)} items recorded, {len(now)} now"
        for place, (one, other) in enumerate(zip(recorded, now, strict=True)):
            if (found := difference(one, other, tolerance)) is not None:
                return f"[{place}]{found}"
        return None
    if _is_number(recorded) and _is_number(now):
        if isinstance(recorded, float) or isinstance(now, float):
            same = math.isclose(recorded, now, rel_tol=tolerance, abs_tol=tolerance)
            same = same or (recorded != recorded and now != now)
        else:
            same = recorded == now
    else:
        same = type(recorded) is type(now) and recorded == now
    return None if same else f": {_shown(recorded)} recorded, {_shown(now)} now"


def _array_difference(recorded: np.ndarray, now: np.ndarray, tolerance: float) -> str | None:
    if recorded.shape != now.shape or recorded.dtype != now.dtype:
        return f": {_shown(recorded)} recorded, {_shown(now)} now"
    if recorded.dtype.kind in "fc":
        same = np.isclose(recorded, now, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        same = recorded == now
    if same.all():
        return None
    place = tuple(map(int, np.argwhere(~same)[0]))
    where = ", ".join(map(str, place))
    return f"[{where}]: {recorded[place]} recorded, {now[place]} now, {int((~same).sum())} of {same.size} differ"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {'x'.join(map(str, value.shape))}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
