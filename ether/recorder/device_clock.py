"""Clocks of devices that only count from their boot: mapped to the recorder's, with a bound on the error.

Numbers in, numbers out. A sample is the answer to a ping: what the device's clock showed at some moment between sending
and receiving. Small boards drift by percents, so offset and rate are fitted; they drift with temperature too, so a long
time is fitted in stretches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["DeviceClock", "Sample"]

_STRETCH_NS = 600 * 10**9
_WINDOWS = 64
"""A stretch keeps the sample of lowest round trip in each of so many windows."""
_RESOLUTION_NS = 10**6
"""Devices count milliseconds."""
_MOST_NS = 1e18
_DRIFT = 0.2
"""No clock is so far off; what is assumed until two samples tell better."""


class Sample(NamedTuple):
    """One ping and its answer, ns: on the device's clock, and on the monotonic clock of whoever asked."""

    device: int
    sent: int
    received: int


class DeviceClock:
    """One boot of a device's clock, as far as samples tell.

    Args:
        samples: in any order; at least one. Of those that contradict the others' order the later ones are left out: the
            device was started again, and its new boot was not known yet.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        given = np.array(sorted(samples, key=lambda sample: sample.sent), "<i8").reshape(-1, 3)
        device, sent, received = given[np.maximum.accumulate(given[:, 0]) == given[:, 0]].T
        self._origin = int(device[0]), int(sent[0])
        # From here on floats: their 53 bits hold three months in ns.
        at = (device - self._origin[0]).astype(float)
        middle = ((sent - self._origin[1]) + (received - self._origin[1])) / 2
        half = (received - sent) / 2 + _RESOLUTION_NS
        self._stretches = [_Stretch(*_best(at, middle, half, start)) for start in _starts(at)]
        self._starts = _starts(at)

    def host(self, device_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return when the device's clock showed these times, and the bound of the error; both int64, ns.

        The bound holds as long as the rate is steady over a stretch of ten minutes, whatever the delays were.
        """
        at = np.clip(np.asarray(device_ns).astype(float) - self._origin[0], -_MOST_NS, _MOST_NS)
        host, error = np.empty(len(at)), np.empty(len(at))
        place = np.clip(np.searchsorted(self._starts, at, "right") - 1, 0, len(self._stretches) - 1)
        for number, stretch in enumerate(self._stretches):
            here = place == number
            if here.any():
                host[here], error[here] = stretch.map(at[here])
        error = np.minimum(error + _RESOLUTION_NS, _MOST_NS)
        return np.round(host).astype("<i8") + self._origin[1], np.ceil(error).astype("<i8")

    @property
    def rate(self) -> float:
        """Seconds of ours in one of the device's, at the end."""
        return self._stretches[-1].rate


def _starts(at: np.ndarray) -> np.ndarray:
    return np.arange(0.0, max(float(at[-1]), 1.0), _STRETCH_NS)


def _best(at: np.ndarray, middle: np.ndarray, half: np.ndarray, start: float) -> tuple[np.ndarray, ...]:
    """Return the samples that count for a stretch: those in and around it of lowest round trip, spread over it."""
    low, high = start - _STRETCH_NS / 2, start + 1.5 * _STRETCH_NS
    near = np.flatnonzero((at >= low) & (at < high))
    if not len(near):  # nobody answered then: the nearest ones tell more than nothing
        near = np.argsort(np.abs(at - start), kind="stable")[:_WINDOWS]
        near.sort()
    span = max(float(at[near[-1]] - at[near[0]]), 1.0)
    window = np.minimum((at[near] - at[near[0]]) * _WINDOWS // span, _WINDOWS - 1)
    order = np.lexsort((half[near], window))
    first = np.concatenate([[True], np.diff(window[order]) > 0])
    kept = near[np.sort(order[first])]
    return at[kept], middle[kept], half[kept]


class _Stretch:
    """A line through some samples: host = offset + rate * device."""

    def __init__(self, at: np.ndarray, middle: np.ndarray, half: np.ndarray) -> None:
        self._at = at
        best = int(np.argmin(half))
        span = float(at[-1] - at[0])
        self.rate, self._centre = 1.0, float(at[best])
        self._offset = float(middle[best])
        self._rate_known = len(at) > 1 and half[0] + half[-1] < _DRIFT * span
        if self._rate_known:
            weight = 1 / half**2
            self._centre = float(np.average(at, weights=weight))
            self._offset = float(np.average(middle, weights=weight))
            apart = at - self._centre
            self.rate = float((weight * apart * (middle - self._offset)).sum() / (weight * apart**2).sum())
        # How far the line can be from the truth at each sample.
        self._bound = np.abs(self._line(at) - middle) + half

    def _line(self, at: np.ndarray) -> np.ndarray:
        return self._offset + self.rate * (at - self._centre)

    def map(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self._rate_known:
            apart = np.abs(at[:, None] - self._at)
            return self._line(at), (self._bound + _DRIFT * apart).min(axis=1)
        return self._line(at), self._error(at)

    def _error(self, at: np.ndarray) -> np.ndarray:
        """Return the bound. Line and truth are both straight, so what they differ by is straight between samples."""
        x, bound = self._at, self._bound
        count = len(x)
        left, right = np.zeros(count, int), np.full(count, count - 1)
        for each in range(1, count):
            left[each] = each if bound[each] <= bound[left[each - 1]] else left[each - 1]
        for each in range(count - 2, -1, -1):
            right[each] = each if bound[each] <= bound[right[each + 1]] else right[each + 1]
        place = np.clip(np.searchsorted(x, at, "right") - 1, 0, count - 2)
        one, other = left[place], right[place + 1]
        share = (at - x[one]) / (x[other] - x[one])
        error = bound[one] * (1 - share) + bound[other] * share
        for outside, nearer in ((at > x[-1], 1), (at < x[0], -1)):
            if outside.any():
                error[outside] = self._beyond(at[outside], nearer)
        return np.asarray(error)

    def _beyond(self, at: np.ndarray, side: int) -> np.ndarray:
        """Return the bound outside of the samples: the line through the worst ends of the best two of them."""
        x, bound = self._at * side, self._bound
        first, last = np.meshgrid(np.arange(len(x)), np.arange(len(x)), indexing="ij")
        pairs = x[first] < x[last]
        first, last = first[pairs], last[pairs]
        slope = (bound[first] + bound[last]) / (x[last] - x[first])
        farthest = float((at * side).max())
        best = int(np.argmin(bound[last] + slope * (farthest - x[last])))
        return np.asarray(bound[last[best]] + slope[best] * (at * side - x[last[best]]))
