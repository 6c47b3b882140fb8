"""Supervision: whoever dies is started again where its policy says so, and whoever dies for good is explained."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from ether.cli.why import _explain
from ether.errors import PreflightError, SessionError
from ether.recorder.verify import verify

pytestmark = pytest.mark.timeout(120)


def _config(broker: Any = "embedded", record: str = "off", **instances: Any) -> dict[str, Any]:
    return {"broker": broker, "record": record, "session": {"stop_timeout": "10s"}, "instances": instances}


def test_a_crash_loop_is_fatal_and_loud_and_leaves_the_session_alone(ether, until):
    looping = {
        "class_path": "lab_parts.DiesAtStart",
        "restart": {"policy": "always", "max": 2, "backoff": ["10ms", "20ms"]},
    }
    ether.tap(_config(looping=looping, echo={"class_path": "lab_parts.Echo"}))

    ether.start()

    until(lambda: ether.instances()["looping"].process == "fatal", 30.0)
    until(lambda: "ended 3 times within 300 s" in ether.instances()["looping"].detail)
    assert ether.instances()["looping"].detail.splitlines()[-1] == "I die at start"
    assert ether.instances()["looping"].state == "lost"
    assert ether.get("echo", "where")["word"] == "hello"
    assert "ended 3 times" in ether.shutdown().instances["looping"]


def test_a_critical_instance_that_fails_for_good_ends_the_session(ether, until, processes):
    ether.tap(
        _config(fragile={"class_path": "lab_parts.Fragile", "critical": True}, echo={"class_path": "lab_parts.Echo"})
    )

    ether.pub({"code": 7}, "die")

    until(lambda: not ether.tapped, 20.0, "the end of the session")
    assert ether.shutdown().problems == ("fragile is critical and failed (exit code 7): the session was ended",)
    until(lambda: processes() == [], 10.0)


def test_a_recorder_that_is_away_as_the_session_ends_is_told_to_stop_when_it_is_back(
    ether, mosquitto, free_port, until, processes, raw
):
    broker = {"kind": "mosquitto", "listen": f"127.0.0.1:{free_port}"}
    ether.tap(_config(broker, "on", echo={"class_path": "lab_parts.Echo"}))
    recorder, died = ether.processes()["recorder"]["pid"], next(each for each in processes() if _is_broker(each))
    os.kill(recorder, signal.SIGSTOP)
    died.kill()  # with it goes what it would have kept for the recorder
    until(lambda: any(_is_broker(each) and each.pid != died.pid for each in processes()), 20.0, "another broker")
    until(lambda: ether.get("echo", "where", timeout=20.0)["word"] == "hello")
    listener = raw(ether.info()["broker"]["url"])
    listener.subscribe("ether/command/recorder/stop")
    ended = []
    ending = threading.Thread(target=lambda: ended.append(ether.shutdown()))

    ending.start()
    listener.next(20.0)
    os.kill(recorder, signal.SIGCONT)
    ending.join(40.0)

    assert [(each.problems, verify(each.recording).complete) for each in ended] == [((), True)]


def test_a_broker_of_ours_that_dies_is_started_again_where_it_was(
    ether, workdir, broker_kind, until, processes, free_port
):
    counting = {"class_path": "lab_parts.Counting", "args": [str(workdir)]}
    broker = {"kind": broker_kind, "listen": f"127.0.0.1:{free_port}"}  # MQTT's own is another test's meanwhile
    ether.tap(_config(broker, "on", counting=counting, echo={"class_path": "lab_parts.Echo"}))
    ether.start()
    url = ether.info()["broker"]["url"]
    for _ in range(2):
        broker = next(each for each in processes() if _is_broker(each))
        os.kill(broker.pid, signal.SIGKILL)
        until(lambda gone=broker.pid: not psutil.pid_exists(gone))
        until(lambda: any(_is_broker(each) for each in processes()), 20.0, "another broker")
        until(lambda: ether.get("echo", "where", timeout=20.0)["word"] == "hello")
        until(lambda: {each.state for each in ether.instances().values()} == {"ready"}, 10.0, "all statuses")
    assert ether.info()["broker"]["url"] == url

    summary = ether.shutdown()

    assert summary.problems == ()
    assert verify(summary.recording).complete


def test_a_port_that_somebody_has_for_a_moment_does_not_end_the_session(ether, until, processes, free_port, caplog):
    broker = {"kind": "embedded", "listen": f"127.0.0.1:{free_port}"}
    ether.tap(_config(broker, "off", echo={"class_path": "lab_parts.Echo"}))

    (broker,) = (each for each in processes() if _is_broker(each))
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with ether._host._broker._lock:  # so that the stranger is first
            broker.kill()
            until(lambda: not psutil.pid_exists(broker.pid))
            stranger.bind(("127.0.0.1", free_port))
            stranger.listen()
        until(lambda: "cannot be started again" in caplog.text, 20.0, "an attempt")

    until(lambda: ether.get("echo", "where", timeout=20.0)["word"] == "hello", 20.0)
    assert ether.shutdown().problems == ()


def _heater(workdir, **health: Any) -> dict[str, Any]:
    return {"class_path": "lab_parts.Heater", "args": [str(workdir / "hardware")], "health": health}


def _hardware(workdir: Path) -> str:
    file = workdir / "hardware"
    return file.read_text() if file.exists() else ""


def test_a_method_that_hangs_is_reported_with_its_stack_and_recovers(ether, workdir, until):
    ether.tap(_config(heater=_heater(workdir, hang_after="300ms")))

    ether.pub({"seconds": 3.0}, "heat")

    until(lambda: ether.instances()["heater"].state == "alert")
    first, *where = ether.instances()["heater"].detail.splitlines()
    assert first.startswith("Heater.heat has not returned for 0.")
    assert any("released.wait(seconds)" in line for line in where)
    until(lambda: ether.instances()["heater"].state == "ready", 10.0)
    assert _hardware(workdir) == "on"


def test_what_hangs_is_made_safe_and_started_again_where_that_is_wanted(ether, workdir, until):
    ether.tap(_config(heater=_heater(workdir, hang_after="300ms", on_hang="restart")))
    ether.start()
    before = ether.get("heater", "pid")
    hanging = threading.Thread(target=ether.pub, args=({"seconds": 60.0}, "heat"))
    hanging.start()

    until(lambda: ether.instances()["heater"].pid not in (before, None), 15.0, "another start")

    hanging.join()
    until(lambda: ether.instances()["heater"].state == "ready")
    assert ether.get("heater", "pid") != before
    assert _hardware(workdir) == "off"
    assert ether.shutdown().problems == ()


def test_hardware_of_an_instance_that_died_is_brought_to_a_safe_state(ether, workdir, until):
    ether.tap(_config(heater=_heater(workdir)))

    ether.pub({"seconds": 0.0, "die": True}, "heat")

    until(lambda: ether.instances()["heater"].state == "lost")
    until(lambda: _hardware(workdir) == "off")


def test_hardware_of_an_instance_that_has_to_be_killed_at_the_end_is_made_safe(ether, workdir, until):
    ether.tap({**_config(heater=_heater(workdir)), "session": {"stop_timeout": "1s"}})
    ether.pub({"seconds": 60.0}, "heat")
    until(lambda: (workdir / "hardware").exists())

    summary = ether.shutdown()

    assert summary.problems[-1] == "heater did not stop by itself and was killed"
    assert _hardware(workdir) == "off"


def test_hardware_that_cannot_be_made_safe_is_a_problem_of_the_session(ether, workdir, until):
    (workdir / "hardware").mkdir()
    ether.tap(_config(heater=_heater(workdir), fragile={"class_path": "lab_parts.Fragile"}))
    os.kill(ether.get("heater", "pid"), signal.SIGKILL)
    until(lambda: ether.instances()["heater"].state == "lost")

    summary = ether.shutdown()

    assert summary.problems == ("heater could not be brought to a safe state (exit code 1): look after the hardware",)


def test_everybody_can_be_brought_to_a_safe_state_at_once(ether, workdir, until):
    ether.tap(_config(heater=_heater(workdir)))
    ether.pub({"seconds": 0.0}, "heat")

    ether.safe()

    until(lambda: _hardware(workdir) == "off")


def _is_broker(process: psutil.Process) -> bool:
    try:
        return any("ether_broker" in word or word.endswith("/mosquitto") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


# --- streams that are expected


def _ticking(**more: Any) -> dict[str, Any]:
    expect = {"rate": "20Hz ±50%", "from": "ticker", "required": True, **more}
    return {
        "broker": "embedded",
        "instances": {"ticker": {"class_path": "lab_parts.Ticker"}, "echo": {"class_path": "lab_parts.Echo"}},
        "expect": {"tick": expect},
    }


def test_preflight_returns_once_all_comes_as_expected(ether):
    ether.tap(_ticking())
    ether.start()

    ether.preflight(30.0)

    assert ether.info()["alarms"] == []
    assert ether.shutdown().problems == ()


def test_preflight_names_what_is_missing_and_why(ether):
    ether.tap({**_ticking(), "expect": {"lab/gas": {"from": "echo"}, "lab/none": {}}})
    ether.start()

    with pytest.raises(PreflightError) as told:
        ether.preflight(0.5)

    assert told.value.shortfalls == {
        "lab/gas": "nothing has come: echo is ready, but does not publish it",
        "lab/none": "nothing has come: no instance says that it publishes it",
    }


def test_a_stream_that_falls_silent_is_a_retained_alarm_and_in_the_recording(ether, until):
    ether.tap(_ticking())
    ether.start()
    ether.preflight(30.0)

    os.kill(ether.instances()["ticker"].pid, signal.SIGSTOP)
    until(lambda: [(each["topic"], each["kind"]) for each in ether.info()["alarms"]] == [("tick", "silent")], 10.0)
    os.kill(ether.instances()["ticker"].pid, signal.SIGCONT)
    until(lambda: ether.info()["alarms"] == [], 30.0)
    summary = ether.shutdown()

    with ether.open(summary.recording) as recording:
        told = [each for each in recording.annotations if "alarm" in each.tags]
    assert [(each.text.partition(" for ")[0], each.t1 is not None) for each in told] == [
        ("tick: nothing", False), ("tick: was silent", True),
    ]  # fmt: skip


def test_a_required_stream_that_never_came_is_a_problem_of_the_session(ether):
    ether.tap({**_ticking(), "expect": {"lab/gas": {"required": True}}})
    ether.start()

    assert ether.shutdown().problems == ("lab/gas is required, and nothing came",)


def test_what_is_stopped_stays_stopped_whatever_its_policy_and_starts_again_when_told(ether, until):
    ether.tap(_config(echo={"class_path": "lab_parts.Echo", "restart": "always"}))
    before = ether.get("echo", "where")["pid"]

    assert ether.stop("echo") == {"echo": "stopped"}

    assert ether.instances()["echo"].process == "stopped"
    assert ether.processes()["echo"]["restarts"] == 0
    until(lambda: ether.instances()["echo"].state == "disconnected")
    assert ether.stop("echo") == {"echo": "stopped"}, "once more does no harm"
    ether.launch("echo")
    assert ether.get("echo", "where")["pid"] != before
    assert ether.stop("echo") == {"echo": "stopped"}
    assert ether.shutdown().instances["echo"] == "stopped"


def test_what_waits_for_another_start_can_be_stopped(ether, until):
    looping = {"class_path": "lab_parts.DiesAtStart", "restart": {"policy": "always", "backoff": ["60s", "60s"]}}
    ether.tap(_config(looping=looping))
    ether.start()
    until(lambda: ether.instances()["looping"].process == "backoff", 30.0)

    ether.stop("looping")

    assert ether.processes()["looping"]["state"] == "stopped"


def test_a_restart_ends_in_order_and_begins_with_init_and_start(ether, workdir, until):
    ether.tap(_config(diary={"class_path": "lab_parts.Diary", "args": [str(workdir / "diary")]}))
    ether.start()
    until(lambda: "start" in (workdir / "diary").read_text().splitlines())

    assert ether.restart("diary") == {"diary": "ready"}

    once = ["constructed", "init", "start"]
    until(lambda: (workdir / "diary").read_text().split() == [*once, "save_all", "cleanup", "shutdown", *once], 20.0)


def test_an_order_that_is_given_again_by_its_id_is_carried_out_once(ether, raw, until):
    ether.tap(_config(echo={"class_path": "lab_parts.Echo"}))
    before = ether.processes()["echo"]["pid"]
    client = raw(ether.info()["broker"]["url"])
    client.subscribe("ether/reply/raw")
    order = json.dumps({"names": ["echo"], "id": "order-1", "reply_to": "ether/reply/raw"})

    client.publish("ether/command/session/restart", order)
    first = client.next(30.0).payload
    after = ether.processes()["echo"]["pid"]
    client.publish("ether/command/session/restart", order)
    again = client.next().payload

    assert json.loads(first) == {"id": "order-1", "status": "success", "result": {"echo": "ready"}}
    assert again == first
    assert before != after == ether.processes()["echo"]["pid"]


def test_a_stop_brings_the_hardware_to_a_safe_state_by_the_object_itself(ether, workdir):
    ether.tap(_config(heater=_heater(workdir)))
    ether.get("heater", "pid")
    ether.pub({"seconds": 0.0}, "heat")

    assert ether.stop("heater", safe=True) == {"heater": "stopped"}

    assert _hardware(workdir) == "off"


def test_a_stop_brings_the_hardware_of_what_hangs_to_a_safe_state_all_the_same(ether, workdir, until):
    config = _config(heater=_heater(workdir))
    config["session"]["stop_timeout"] = "200ms"
    ether.tap(config)
    ether.pub({"seconds": 60.0}, "heat")
    until(lambda: _hardware(workdir) == "on")

    ending = ether.stop("heater", safe=True)["heater"]

    assert ending == "did not finish within 0.2 s: killed by SIGKILL"
    assert _hardware(workdir) == "off"
    assert ether.processes()["heater"]["state"] == "stopped"


def test_hardware_of_what_runs_no_more_can_be_made_safe(ether, workdir):
    ether.tap(_config(heater=_heater(workdir) | {"autorun": False}))

    ether.stop("heater", safe=True)

    assert _hardware(workdir) == "off"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["eco"], "the session has no instance 'eco'; did you mean `echo`?"),
        (["recorder"], "the recorder ends with its session, by `ether down`"),
        (["echo"], "echo: no method is marked @ether_safe; stop without it"),
    ],
)
def test_a_stop_that_cannot_be_says_why_and_stops_nothing(ether, names, said):
    ether.tap(_config(echo={"class_path": "lab_parts.Echo"}))

    with pytest.raises(SessionError) as caught:
        ether.stop(*names, safe=True)

    assert str(caught.value) == said
    assert ether.get("echo", "where")["word"] == "hello"


# --- what `ether why` tells


def test_why_explains_each_absence(ether, workdir, raw, until):
    backoff = {"policy": "always", "backoff": ["60s", "60s"]}
    ether.tap(
        _config(
            record="on",
            spare={"class_path": "lab_parts.Echo", "autorun": False},
            fragile={"class_path": "lab_parts.Fragile"},
            looping={"class_path": "lab_parts.DiesAtStart", "restart": backoff},
            heater=_heater(workdir, hang_after="300ms"),
            ticker={"class_path": "lab_parts.Ticker"},
        )
    )
    ether.start()
    raw(ether.info()["broker"]["url"]).publish("ether/status/board", b'{"state":"ready","boot":"b","every":0.1}')
    ether.pub({"code": 7}, "die")
    hanging = threading.Thread(target=ether.pub, args=({"seconds": 60.0}, "heat"))
    hanging.start()
    for name, state in {"fragile": "lost", "looping": "lost", "heater": "alert", "board": "lost"}.items():
        until(lambda name=name, state=state: ether.instances()[name].state == state, 30.0, f"{name} {state}")
    until(lambda: ether.instances()["looping"].process == "backoff")

    def why(name: str) -> tuple[str, str]:
        found = _explain(ether, name, 0.3)
        return "\n".join(found["why"]), "\n".join(map(" ".join, found["facts"]))

    assert "spare is declared with `autorun: false`, and was never started" in why("spare")[0]
    fragile, facts = why("fragile")
    assert fragile.startswith("fragile ended: exit code 7; with `restart: never`") and "I die of 7" in fragile
    assert "process exited, restart: never, 0 restarts, last end: exit code 7" in facts
    looping, _ = why("looping")
    assert "it is started again in" in looping and "I die at start" in looping
    heater, _ = why("heater")
    assert heater.startswith("heater hangs: Heater.heat has not returned") and "released.wait" in heater
    assert why("board")[0].startswith("board is silent: it promised a status every 0.1 s")
    ticker, facts = why("ticker")
    assert ticker.startswith("ticker is ready") and "recorded tick: up to number" in facts
    tick, facts = why("tick")
    assert tick.endswith("by ticker") and "publisher ticker, ready" in facts
    with pytest.raises(SessionError, match="no instance is called so, .*; did you mean `ticker`?"):
        why("tickr")
    ether.stop("ticker")
    until(lambda: "readings, the last" in why("tick")[1], 20.0, "the file to have them")
    assert "should publish it\nticker was stopped by order" in why("tick")[0]
    os.kill(ether.processes()["heater"]["pid"], signal.SIGKILL)
    hanging.join()
    until(lambda: ether.processes()["heater"]["state"] == "exited")
