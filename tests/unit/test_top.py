"""`ether top`: what fits, what is loud, what the keys do."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ether.cli.top import Frame, Rates, _View, screen


def _row(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "state": "ready", "process": "running", "restarts": 0, "published_per_s": None, "cpu": None,
        "counts": {}, **more,
    }  # fmt: skip


def _drawn(frame: Frame, width: int = 80, height: int | None = 24, view: _View | None = None) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, height=height).print(screen(frame, width, height, view))
    return [line.rstrip() for line in file.getvalue().splitlines()]


INFO = {
    "session": {"name": "lab", "started": 0.0}, "connected": True,
    "broker": {"kind": "external", "url": "mqtt://a-broker-with-a-very-long-name.of-the-institute.example.org:18883"},
    "recorder": {"state": "ready", "recorded": 123_456_789, "lost": 1234, "disk_free": 7e10, "disk_left_s": 7200},
    "alarms": [{"by": "session", "topic": "lab/gas", "kind": "silent", "detail": "nothing for 12 s " * 9}] * 8,
    "run": {"name": "growth " * 20, "number": 3},
}  # fmt: skip
FULL = {
    "received": 9_876_543, "handled": 9_876_543, "dropped": 99_999, "failed": 12_345, "queued": 5_000,
    "handle_ms_p50": 1234.5678, "handle_ms_p99": 98_765.4, "rss_mb": 12_345.6,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 60, 200])
def test_whatever_happens_it_fits_into_the_terminal(width: int) -> None:
    crowd = [
        _row(f"instance-with-a-long-name-{n}", state="reconnecting", process="stopping", restarts=1234, counts=FULL,
             published_per_s=123_456.7, cpu=1.87)
        for n in range(40)
    ]  # fmt: skip

    lines = _drawn(Frame(INFO, crowd, 12_345.6), width)

    assert max(map(len, lines)) <= width
    assert len(lines) == 24
    assert "! and 3 more" in lines
    assert lines[-1].startswith("q ends")


def test_at_80_columns_all_of_an_instance_is_there() -> None:
    row = _row("controller", restarts=3, published_per_s=10.0, cpu=0.021, counts=FULL)

    lines = _drawn(Frame({**INFO, "run": None, "alarms": []}, [row], 38.776))

    head = next(line for line in lines if line.startswith("NAME"))
    assert head == "NAME       STATE        RST RECV DONE DROP FAIL  QUE  P50  P99 PUB/s  CPU  MEM"
    assert lines[lines.index(head) + 1].split() == [
        "controller", "ready", "3", "9.9M", "9.9M", "100k", "12k", "5000", "1235", "99k", "10", "2%", "12G",
    ]  # fmt: skip
    assert lines[1] == "recorded 123,456,789, 39/s, 1,234 missing, 70.0 GB free, full in 2.0 h at this …"


@pytest.mark.parametrize(
    ("state", "process", "shown"),
    [
        ("ready", "running", "ready"), ("lost", "backoff", "lost/backoff"), ("lost", "fatal", "lost/fatal"),
        ("disconnected", "stopped", "stopped"), ("reconnecting", "", "reconnecting"), ("init", "running", "init"),
    ],
)  # fmt: skip
def test_a_process_is_named_where_it_tells_more_than_the_state(state: str, process: str, shown: str) -> None:
    lines = _drawn(Frame({**INFO, "alarms": []}, [_row("oven", state=state, process=process)]))

    assert next(line for line in lines if line.startswith("oven")).split() == ["oven", shown]


def test_a_slow_disk_and_a_lost_recorder_are_loud() -> None:
    recorder = {"state": "lost", "recorded": 10, "behind_ms": 3200, "waiting_bytes": 12_000_000, "disk_free": 7e10}

    lines = _drawn(Frame({**INFO, "recorder": recorder}, []), 120)

    assert "recorder lost, 3.2 s behind, 12.0 MB wait" in lines[1]


def test_no_connection_and_no_answer_are_told() -> None:
    short = {**INFO, "broker": {}}

    assert _drawn(Frame({**short, "connected": False}, []))[0].endswith("NO CONNECTION")
    assert _drawn(Frame(short, [], answered=False))[0].endswith("NO ANSWER")


def test_rates_need_two_fresh_statuses_of_one_start() -> None:
    rates = Rates()

    assert rates.take("oven", "b1", 100.0, {"published": 50})["published_per_s"] is None, "retained: how old?"
    assert rates.take("oven", "b1", 100.5, {"published": 70})["published_per_s"] is None
    assert rates.take("oven", "b1", 100.6, {"published": 90})["published_per_s"] is None, "too short a time"
    assert rates.take("oven", "b1", 102.5, {"published": 90, "cpu_s": 1.0}) == {
        "published_per_s": 10.0, "cpu": 0.5, "recorded_per_s": 0.0,
    }  # fmt: skip
    assert rates.take("oven", "b2", 103.0, {"published": 1})["published_per_s"] is None, "started again"


def test_keys_sort_scroll_and_end() -> None:
    view = _View()
    frame = Frame({**INFO, "alarms": [], "run": None}, [_row(f"i{n:02}", counts={"queued": n}) for n in range(40)])

    assert [view.press(key) for key in ("s", "\x1b[6~", "\x1b[B", "x")] == [True] * 4
    lines = _drawn(frame, view=view)

    assert lines[4].split()[0] == "i28", "by queue, eleven further down"
    assert "by queue, 18 of 40 shown" in lines[-1]
    view.press("\x1b[5~"), view.press("\x1b[5~")
    assert _drawn(frame, view=view)[4].split()[0] == "i39"
    assert not view.press("q")


def test_the_bell_rings_once_for_an_alarm() -> None:
    view = _View()
    quiet, loud = Frame({**INFO, "alarms": []}, []), Frame(INFO, [])

    assert [view.new_alarms(each) for each in (quiet, loud, loud, quiet, loud)] == [False, True, False, False, True]
