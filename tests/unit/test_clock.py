"""Durations with units; the time of the wire."""

from __future__ import annotations

import time

import pytest

from ether import clock


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0), (2, 2.0), (0.1, 0.1), ("100ms", 0.1), ("5s", 5.0), ("2min", 120.0), ("1h", 3600.0), ("1d", 86_400.0),
        ("20us", 2e-5), (" 1.5 s ", 1.5), (".5s", 0.5),
    ],
)  # fmt: skip
def test_durations_have_units(given, seconds):
    assert clock.seconds(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", "s", "5 parsecs", "-1s", -1, float("nan"), float("inf"), True, None, [1]])
def test_what_is_no_duration_is_refused(given):
    with pytest.raises(ValueError, match="duration|unit of time"):
        clock.seconds(given)


def test_now_is_unix_time_in_microseconds():
    assert clock.now() == pytest.approx(time.time(), abs=1.0)
    now = clock.now()
    assert now == round(now, 6)


def test_a_time_is_shown_in_utc_with_milliseconds():
    assert clock.text(1768562922.765) == "2026-01-16T11:28:42.765+00:00"
