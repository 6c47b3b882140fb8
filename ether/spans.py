"""Spans: which of a publisher's numbers have come, as ``[first, last]``, ascending, apart from each other."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["add", "lacking"]


def add(spans: list[list[int]], first: int, last: int) -> int:
    """Add `first` to `last`; return how many of them were not there, so 0 for what came again."""
    if spans and first == spans[-1][1] + 1:  # nearly always
        spans[-1][1] = last
        return last - first + 1
    place = bisect_right(spans, first, key=lambda span: span[0])
    if place and spans[place - 1][1] >= last:
        return 0
    start = place - 1 if place and spans[place - 1][1] >= first - 1 else place
    end = place
    while end < len(spans) and spans[end][0] <= last + 1:
        end += 1
    joined = spans[start:end]
    low = min([first, *(span[0] for span in joined)])
    high = max([last, *(span[1] for span in joined)])
    spans[start:end] = [[low, high]]
    return high - low + 1 - sum(span[1] - span[0] + 1 for span in joined)


def lacking(spans: list[list[int]], first: int, last: int) -> list[list[int]]:
    """Return what is not there of `first` to `last`, as ``[first, last]``, ascending."""
    found = []
    for low, high in spans[max(0, bisect_right(spans, first, key=lambda span: span[0]) - 1) :]:
        if low > last:
            break
        if low > first:
            found.append([first, low - 1])
        first = max(first, high + 1)
    return [*found, [first, last]] if first <= last else found
