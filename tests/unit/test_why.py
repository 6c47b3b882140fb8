"""`ether why`: for each way of being absent, the reason first, and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from ether import clock
from ether.cli.why import Member, reasons

NOW = 1000.0
DEAD = {"since": 1.0, "exit": "exit code 7", "last_lines": ["Traceback", "OSError: no port"], "restart": "never"}
WORDS = ["  Traceback", "  OSError: no port"]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (
            {"process": {"state": "stopped", "autorun": False}},
            ["oven is declared with `autorun: false`, and was never started; `ether start oven` starts it"],
        ),
        (
            {"state": "disconnected", "process": {"state": "stopped", **DEAD}},
            ["oven was stopped by order, and stays so; `ether start oven` starts it"],
        ),
        (
            {"state": "lost", "process": {"state": "backoff", "again_at": NOW + 3.24, "restarts": 4, **DEAD}},
            ["oven ended: exit code 7; it is started again in 3.2 s, after 4 restarts", *WORDS],
        ),
        (
            {"state": "lost", "process": {"state": "fatal", **DEAD, "exit": "exit code 7; ended 6 times within 60 s"}},
            [
                "oven failed for good: exit code 7; ended 6 times within 60 s; mend it, then `ether start oven` starts it",
                *WORDS,
            ],
        ),
        (
            {"state": "lost", "process": {"state": "exited", **DEAD, "exit": "killed by SIGKILL"}},
            [
                "oven ended: killed by SIGKILL; with `restart: never` nobody starts it again; `ether start oven` starts it",
                *WORDS,
            ],
        ),
        (
            {"state": "lost", "detail": "connection lost", "host": "bench-7", "for_s": 7260.0},
            [
                "oven is lost, for 2.0 h: connection lost; it runs on bench-7, not in this session, so whoever runs it "
                "has to start it"
            ],
        ),
        (
            {"state": "lost", "detail": "connection lost", "process": {"state": "running", "pid": 7}},
            ["oven is lost: connection lost; its process 7 runs, but does not reach the broker"],
        ),
        (
            {"state": "lost", "detail": "silent for more than 6 s", "heard_s": 130.0, "every": 2.0},
            [
                "oven is silent: it promised a status every 2 s, the last came 2.2 min ago; it runs on another machine, "
                "not in this session: look after it, its power and its network"
            ],
        ),
        (
            {"state": "lost", "detail": "silent for more than 6 s", "heard_s": 9.0, "every": 2.0,
             "process": {"state": "running", "pid": 7}},
            [
                "oven is silent: it promised a status every 2 s, the last came 9.0 s ago; its process 7 runs: it hangs, "
                "is stopped, or cannot reach the broker"
            ],
        ),
        (
            {"state": "reconnecting", "detail": "connection lost", "for_s": 1.0, "every": 2.0},
            ["oven lost its connection to the broker 1.0 s ago; if it is not back within 6 s, it is lost"],
        ),
        (
            {"state": "alert", "detail": "Oven.heat has not returned for 4.2 s\n  File oven.py, line 3",
             "process": {"state": "running", "pid": 7}},
            [
                "oven hangs: Oven.heat has not returned for 4.2 s; its process 7 runs. It stands here:",
                "    File oven.py, line 3",
            ],
        ),
        (
            {"state": "init", "for_s": 30.0, "process": {"state": "running", "pid": 7}},
            [
                "oven is not ready yet, for 30 s: its constructor or an `ether_init` hook is at work; its process 7 runs"
            ],
        ),
        ({"process": {"state": "running", "pid": 7}}, ["oven has said nothing yet: its process 7 runs"]),
        (
            {"state": "disconnected", "host": "bench-7"},
            ["oven said goodbye; it runs on bench-7, not in this session, so whoever runs it has to start it"],
        ),
        (
            {"state": "ready", "process": {"state": "running"}, "publishes": ("lab/oven",), "sampling": False,
             "counts": {"queued": 5000, "handle_ms_p99": 1200.0}},
            [
                "oven is ready", "5,000 messages wait for its methods, which take 1,200 ms (p99)",
                "it has published nothing yet: the session has not begun, by `ether.start()`",
            ],
        ),
    ],
)  # fmt: skip
def test_each_way_of_being_absent_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], told: list[str]
) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)

    assert reasons(Member("oven", **facts)) == told
