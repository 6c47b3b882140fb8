"""Comparison: equal, differing, missing and extra readings are told apart, whenever they come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ether.recorder.compare import Comparison, Difference, difference


def compared(recorded: list[Any], now: list[Any], **options: Any) -> Difference:
    comparison = Comparison("lab/a", "oven", **options)
    comparison.recorded.extend({"a": value} for value in recorded)
    comparison.now.extend({"a": value} for value in now)
    comparison.advance()
    comparison.advance(final=True)
    return comparison.result


def test_equal_readings_are_equal() -> None:
    assert compared([1, 2, 3], [1, 2, 3]) == Difference("lab/a", "oven", recorded=3, now=3, equal=3)


def test_a_changed_formula_differs_everywhere_and_the_first_is_shown() -> None:
    result = compared([2 * number for number in range(1, 21)], [3 * number for number in range(1, 21)])

    assert (result.equal, result.differing, result.missing, result.extra) == (0, 20, 0, 0)
    assert result.first == "reading 1: a: 2 recorded, 3 now"


@pytest.mark.parametrize("count", [10, 1000])
def test_a_missing_reading_costs_no_more_than_itself(count: int) -> None:
    numbers = list(range(count))

    result = compared(numbers, [*numbers[:4], *numbers[5:]])

    assert (result.equal, result.differing, result.missing, result.extra) == (count - 1, 0, 1, 0)
    assert result.first == "reading 5: missing: {a: 4}"


def test_an_extra_reading_costs_no_more_than_itself() -> None:
    result = compared([1, 2, 3, 4, 5, 6], [1, 2, 99, 3, 4, 5, 6])

    assert (result.equal, result.differing, result.missing, result.extra) == (6, 0, 0, 1)
    assert result.first == "reading 3: extra: {a: 99}"


def test_what_did_not_come_is_missing_and_what_came_in_vain_is_extra() -> None:
    assert compared([1, 2], []).missing == 2
    assert compared([], [1, 2]).extra == 2


def test_nothing_is_judged_before_it_can_be_explained() -> None:
    comparison = Comparison("lab/a", "oven")
    comparison.recorded.extend({"a": number} for number in (1, 2, 3))
    comparison.now.append({"a": 2})

    comparison.advance()
    comparison.now.append({"a": 3})
    comparison.advance(final=True)

    assert (comparison.result.missing, comparison.result.equal) == (1, 2)


def test_ignored_fields_are_not_compared() -> None:
    comparison = Comparison("lab/a", "oven", ignore=["at"])
    comparison.recorded.append({"a": 1, "at": 5})
    comparison.now.append({"a": 1, "at": 6})

    comparison.advance(final=True)

    assert comparison.result.same


@pytest.mark.parametrize(
    ("recorded", "now", "told"),
    [
        (1, 1, None),
        (2, 2.0, None),
        (1.0, 1.0 + 1e-12, None),
        (1.0, 1.001, ": 1.0 recorded, 1.001 now"),
        (math.nan, math.nan, None),
        (math.nan, 1.0, ": nan recorded, 1.0 now"),
        (True, 1, ": True recorded, 1 now"),
        (None, 0, ": None recorded, 0 now"),
        ("on", "off", ": 'on' recorded, 'off' now"),
        ([1, 2], [1, 3], "[1]: 2 recorded, 3 now"),
        ([1], [1, 2], ": 1 items recorded, 2 now"),
        ({"x": [1.0]}, {"x": [2.0]}, ".x[0]: 1.0 recorded, 2.0 now"),
        ({"x": 1}, {}, ".x: recorded, absent now"),
        (b"a", b"ab", ": 1 bytes recorded, 2 bytes now"),
        (2**70, 2**70 + 1, f": {2**70} recorded, {2**70 + 1} now"),
        (np.arange(3), np.arange(3), None),
        (np.arange(3.0), np.array([0.0, 1.0, 3.0]), "[2]: 2.0 recorded, 3.0 now, 1 of 3 differ"),
        (np.arange(3), np.arange(4), ": int64 array 3 recorded, int64 array 4 now"),
        (np.arange(2, dtype="u1"), [0, 1], ": uint8 array 2 recorded, int64 array 2 now"),
    ],
)
def test_values(recorded: Any, now: Any, told: str | None) -> None:
    assert difference(recorded, now) == told


def test_the_tolerance_is_given() -> None:
    assert compared([1.0], [1.01], tolerance=0.1).same
    assert not compared([1.0], [1.01], tolerance=0.001).same
