"""The end: in order, bounded, complete, and nothing left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

PARTS = str(Path(__file__).parents[1] / "parts")
TAP = f"""
import sys
sys.path.insert(0, {PARTS!r})
from ether import ether
CONFIG = {{
    "broker": BROKER, "record": "off", "session": {{"stop_timeout": "2s"}},
    "instances": {{
        "diary": {{"class_path": "lab_parts.Diary", "args": ["diary.txt"]}},
        "echo": {{"class_path": "lab_parts.Echo"}},
        "ticker": {{"class_path": "lab_parts.Ticker"}},
    }},
}}
"""
LIFE = ["constructed", "init", "start", "save_all", "cleanup", "shutdown"]


def _config(broker: str = "embedded", stop: str = "10s", **instances: Any) -> dict[str, Any]:
    return {"broker": broker, "record": "off", "session": {"stop_timeout": stop}, "instances": instances}


def _tap(broker: str) -> str:
    return TAP.replace("BROKER", repr(broker))


def test_save_all_sees_every_row_that_was_queued_at_a_slow_collector(ether, workdir, broker_kind):
    ether.tap(
        _config(
            broker_kind,
            collector={"class_path": "lab_parts.Collector", "args": ["rows.txt", 0.00005]},
            producer={"class_path": "lab_parts.Producer"},
        )
    )
    ether.pub({"count": 10_000}, "produce")

    summary = ether.shutdown()

    assert (workdir / "rows.txt").read_text() == "10001 rows, 10001 different, last 1000000"
    assert (summary.problems, summary.instances) == (
        (), {"collector": "exit code 0", "producer": "exit code 0"},
    )  # fmt: skip


def test_publishers_stop_before_their_subscribers(ether, workdir):
    """The producer's last row, sent by its shutdown hook, is in what the collector saves."""
    ether.tap(
        _config(
            collector={"class_path": "lab_parts.Collector", "args": ["rows.txt"]},
            producer={"class_path": "lab_parts.Producer"},
        )
    )

    ether.shutdown()

    assert (workdir / "rows.txt").read_text() == "1 rows, 1 different, last 1000000"


def test_every_hook_runs_exactly_once_and_in_order(ether, workdir, broker_kind):
    ether.tap(_config(broker_kind, diary={"class_path": "lab_parts.Diary", "args": ["diary.txt"]}))
    ether.start()

    ether.shutdown()

    assert (workdir / "diary.txt").read_text().split() == LIFE


def test_save_all_and_cleanup_run_when_asked_and_again_at_the_end(ether, workdir):
    ether.tap(_config(diary={"class_path": "lab_parts.Diary", "args": ["diary.txt"]}))

    ether.save_all()
    ether.cleanup()
    ether.shutdown()

    assert (workdir / "diary.txt").read_text().split() == [
        "constructed", "init", "save_all", "cleanup", "save_all", "cleanup", "shutdown",
    ]  # fmt: skip


@pytest.mark.parametrize("where", ["handler", "cleanup"])
def test_an_instance_that_hangs_is_killed_in_bounded_time_and_named(ether, workdir, until, where):
    ether.tap(
        _config(
            stop="1s",
            stuck={"class_path": "lab_parts.Hanging", "args": [where]},
            diary={"class_path": "lab_parts.Diary", "args": ["diary.txt"]},
        )
    )
    if where == "handler":
        ether.pub(None, "hang")
    started = time.monotonic()

    summary = ether.shutdown()

    assert time.monotonic() - started < 10
    assert summary.problems == ("stuck did not finish within 1 s", "stuck did not stop by itself and was killed")
    assert (workdir / "diary.txt").read_text().split()[-3:] == ["save_all", "cleanup", "shutdown"]


def test_a_dead_broker_does_not_keep_shutdown(ether, workdir, processes):
    ether.tap(_config(diary={"class_path": "lab_parts.Diary", "args": ["diary.txt"]}))
    for process in processes():
        if "ether_broker" in process.cmdline():
            process.kill()
    started = time.monotonic()

    summary = ether.shutdown()

    assert time.monotonic() - started < 5
    assert summary.problems[0].startswith("the broker is gone")
    assert (workdir / "diary.txt").read_text().split()[-3:] == ["save_all", "cleanup", "shutdown"]


def test_an_external_broker_is_left_without_ghosts(ether, broker):
    ether.tap(
        _config(
            broker.url, stop="1s",
            echo={"class_path": "lab_parts.Echo"}, stuck={"class_path": "lab_parts.Hanging", "args": ["cleanup"]},
            fragile={"class_path": "lab_parts.Fragile"},
        )
    )  # fmt: skip
    ether.add(type("ByHand", (), {})())
    with ether.run("growth"):
        ether.pub({"code": 7}, "die")
    assert {"ether/session", "ether/status/echo", "ether/about/echo", "ether/status/byhand"} <= broker.retained().keys()

    ether.shutdown()

    assert broker.retained() == {}


def test_tap_twice_is_the_same_session_and_tap_after_shutdown_a_new_one(ether):
    config = _config(echo={"class_path": "lab_parts.Echo"})
    ether.tap(config)
    first = ether.get("echo", "where")["pid"]

    ether.tap(config)
    ether.tap()
    second = ether.get("echo", "where")["pid"]
    ether.shutdown()
    assert (ether.shutdown(), ether.tapped) == (None, False)
    ether.tap(config)
    third = ether.get("echo", "where")["pid"]

    assert (first == second, third != first) == (True, True)


def test_tap_with_restart_begins_anew(ether):
    config = _config(echo={"class_path": "lab_parts.Echo"})
    ether.tap(config)
    first = ether.get("echo", "where")["pid"]

    ether.tap(config, restart=True)

    assert ether.get("echo", "where")["pid"] != first


def test_the_session_context_manager_does_both_ends(ether, processes):
    with pytest.raises(ZeroDivisionError), ether.session(_config(echo={"class_path": "lab_parts.Echo"})) as lab:
        assert lab.get("echo", "where")["word"] == "hello"
        1 / 0

    assert (ether.tapped, processes()) == (False, [])


# --- ends of a script: the same, however it ends

ENDINGS = {
    "falls off its end": ("", None, 0),
    "raises": ("raise RuntimeError('the script failed')", None, 1),
    "sys.exit": ("sys.exit(3)", None, 3),
    "Ctrl-C": (
        "import threading; print('runs', flush=True); threading.Event().wait(30)",
        signal.SIGINT,
        -signal.SIGINT,
    ),
    "SIGTERM": ("import threading; print('runs', flush=True); threading.Event().wait(30)", signal.SIGTERM, 143),
    "Ctrl-C in a call": (
        "print('runs', flush=True); ether.get('echo', 'sleep', seconds=1.0)",
        signal.SIGINT,
        -signal.SIGINT,
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_however_a_script_ends_hooks_run_and_nothing_is_left(script, broker, workdir, machine, until, processes, how):
    ending, number, code = ENDINGS[how]
    mine = len(processes())
    running = script(f"{_tap(broker.url)}\nether.tap(CONFIG)\nether.start()\n{ending}\n")
    if number is not None:
        running.wait_for("runs")
        running.signal(number)

    running.end()

    assert (running.code, (workdir / "diary.txt").read_text().split()) == (code, LIFE), running.transcript()
    until(lambda: len(processes()) == mine)
    assert broker.retained() == {}
    assert machine.files() == []


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
@pytest.mark.parametrize("how", ["Ctrl-C", "raises"])
def test_however_a_script_ends_its_own_broker_ends_too(script, workdir, how, kind):
    ending, number, _ = ENDINGS[how]
    running = script(f"{_tap(kind)}\nether.tap(CONFIG)\nether.start()\n{ending}\n")
    if number is not None:
        running.wait_for("runs")
        running.signal(number)

    running.end()

    assert (workdir / "diary.txt").read_text().split() == LIFE, running.transcript()


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_kill_9_of_the_host_leaves_no_child_and_the_next_tap_starts_clean(
    script, workdir, processes, until, machine, kind
):
    text = f"{_tap(kind)}\nether.tap(CONFIG)\nether.start()\nprint('runs', flush=True)\nether.wait(30)\n"
    running = script(text)
    running.wait_for("runs")
    until(lambda: "start" in (workdir / "diary.txt").read_text().split(), what="the start hook")

    running.signal(signal.SIGKILL)
    running.end()

    until(lambda: processes() == [], 10.0, "the end of all children")
    until(lambda: any("the session's process is gone" in line for line in running.errors), what="their last words")
    assert (workdir / "diary.txt").read_text().split() == LIFE, running.transcript()
    again = script(f"{_tap(kind)}\nether.tap(CONFIG)\nprint(sorted(ether.instances()))\nether.shutdown()\n").end()
    assert (again.lines, again.code) == (["['diary', 'echo', 'session', 'ticker']"], 0), again.transcript()
    until(lambda: machine.files() == [], 3.0, f"no file; there are {machine.files()}")


def test_a_second_ctrl_c_while_ending_still_leaves_nothing(script, workdir, processes, until):
    text = _tap("embedded").replace('"lab_parts.Echo"', '"lab_parts.Hanging", "args": ["cleanup"]')
    running = script(f"{text}\nether.tap(CONFIG)\nether.start()\nprint('runs', flush=True)\nether.wait(30)\n")
    running.wait_for("runs")

    running.signal(signal.SIGINT)
    until(lambda: any("stopping" in line for line in running.errors))
    running.signal(signal.SIGINT)
    running.end()

    until(lambda: processes() == [], 10.0)


def test_an_instance_that_did_not_hear_the_order_to_stop_is_told_again(ether, monkeypatch):
    """The order is lost where an instance is just coming back from a lost connection."""
    ether.tap(_config(echo={"class_path": "lab_parts.Echo"}))
    client = ether._need()
    command, lost = client.command, []
    monkeypatch.setattr(
        client, "command", lambda *words: command(*words) if lost or words[1] != "stop" else lost.append(words)
    )

    summary = ether.shutdown()

    assert lost == [("echo", "stop")]
    assert (summary.problems, summary.instances) == ((), {"echo": "exit code 0"})
